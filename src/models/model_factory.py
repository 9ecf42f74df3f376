"""model_name -> network: the models that can be chosen, one entry each.

Flags are made from the entries (src/config.py), and a wrong flag is answered before paddle is loaded: so this module
imports nothing above the flags, and names a class as "module:Class", which is imported when it is built.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from paddle import nn

    from src.config import Config


class Model(NamedTuple):
    """What a model registers."""

    path: str  # "module:Class"; Class.from_config(config) builds it, see docs/extend.md
    help: str  # for --help, a few words
    same_weights_as: str = ""  # another model with the same parameters: checkpoints of the one load into the other


MODELS = {
    "e3d_lstm": Model("src.models.eidetic_3d_lstm_net:E3DLSTM", "the eidetic 3D LSTM"),
    "e3d_lstm_plain": Model(
        "src.models.plain_e3d_lstm_net:PlainE3DLSTM",
        "the same as its equations stand, slower",
        same_weights_as="e3d_lstm",
    ),
    "conv_lstm": Model("src.models.conv_lstm_net:ConvLSTM", "the convolutional LSTM"),
}


def build_model(config: Config, norm_epsilon: float | None = None) -> nn.Layer:
    """Build the network that ``config.model_name`` names.

    Args:
        config: the run's settings.
        norm_epsilon: epsilon of the layer norms, in place of config.norm_epsilon. The official code's 1e-12 is below
            what float32 can tell from zero, and is for comparing with it only.

    Returns:
        a layer: ``model(frames, real_input_flag)`` -> predictions of frames 1 .. T-1, as of
        :class:`src.models.unrolled.UnrolledNetwork`.
    """
    if norm_epsilon is not None:
        config = dataclasses.replace(config, norm_epsilon=norm_epsilon)
    return pkgutil.resolve_name(MODELS[config.model_name].path).from_config(config)
