"""The parameters of a network: how many, and where the decoder's bias begins."""

from __future__ import annotations

import logging

import numpy as np
import paddle
from paddle import nn

from src.data_provider.loader import spread
from src.errors import UserError

MEAN_CLIPS = 100  # whose mean --start_at_mean takes

logger = logging.getLogger("e3d_lstm")


def parameter_count(model: nn.Layer) -> int:
    """Numbers that are trained; the network has no others."""
    return sum(int(np.prod(parameter.shape)) for parameter in model.parameters())


def start_at_mean(model: nn.Layer, train_set: paddle.io.Dataset) -> None:
    """Begin the decoder's bias at the mean of each colour over a sample of the training clips.

    Raises:
        UserError: the model has no ``start_at(brightness)``.
    """
    if not hasattr(model, "start_at"):
        raise UserError(f"--start_at_mean True: {type(model).__name__} has no start_at(brightness); leave the flag out")
    sample = spread(train_set, MEAN_CLIPS)
    means = [sample[index].astype(np.float64).mean(axis=(0, 1, 2)) for index in range(len(sample))]
    brightness = [float(mean) for mean in np.mean(means, axis=0)]
    model.start_at(brightness)
    logger.info(
        "the decoder's bias begins at the mean of %d training clips: %s",
        len(sample),
        ", ".join(f"{mean:.4f}" for mean in brightness),
    )
