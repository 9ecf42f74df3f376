"""model_name -> network."""

from __future__ import annotations

from paddle import nn

from src.config import Config
from src.models.eidetic_3d_lstm_net import E3DLSTM

MODELS = {"e3d_lstm": E3DLSTM}


def build_model(config: Config, norm_epsilon: float | None = None) -> nn.Layer:
    """Build the network that ``config.model_name`` names.

    Args:
        config: the run's settings.
        norm_epsilon: epsilon of the layer norms, in place of config.norm_epsilon. The official code's 1e-12 is below
            what float32 can tell from zero, and is for comparing with it only.

    Returns:
        a layer: ``model(frames, real_input_flag)`` -> predictions of frames 1 .. T-1, see :class:`E3DLSTM`.
    """
    return MODELS[config.model_name](
        patch_channels=config.patch_size**2 * config.img_channel,
        hidden_sizes=config.hidden_sizes,
        filter_size=config.filter_size,
        input_length=config.input_length,
        layer_norm=config.layer_norm,
        residual=config.residual,
        norm_epsilon=config.norm_epsilon if norm_epsilon is None else norm_epsilon,
        recompute=config.recompute,
    )
