"""model_name -> network."""

from __future__ import annotations

import logging

import numpy as np
import paddle
from paddle import nn

from src.config import Config
from src.data_provider.loader import spread
from src.models.eidetic_3d_lstm_net import E3DLSTM

MODELS = {"e3d_lstm": E3DLSTM}
MEAN_CLIPS = 100  # whose mean --start_at_mean takes

logger = logging.getLogger("e3d_lstm")


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


def parameter_count(model: nn.Layer) -> int:
    """Numbers that are trained; the network has no others."""
    return sum(int(np.prod(parameter.shape)) for parameter in model.parameters())


def start_at_mean(model: nn.Layer, train_set: paddle.io.Dataset) -> None:
    """Begin the decoder's bias at the mean of each colour over a sample of the training clips."""
    sample = spread(train_set, MEAN_CLIPS)
    sums = [sample[index].astype(np.float64).mean(axis=(0, 1, 2)) for index in range(len(sample))]
    brightness = [float(mean) for mean in np.mean(sums, axis=0)]
    model.start_at(brightness)
    logger.info(
        "the decoder's bias begins at the mean of %d training clips: %s",
        len(sample), ", ".join(f"{mean:.4f}" for mean in brightness),
    )  # fmt: skip
