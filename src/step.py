"""One batch: patches -> network -> loss -> update of the weights; and one forecast."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from src.config import Config
from src.errors import Diverged
from src.layers.precision import autocast
from src.runtime import parallel, ranks
from src.utils.loss_scale import LossScale
from src.utils.optimizer import gradient_norm
from src.utils.preprocess import reshape_patch, reshape_patch_back
from src.utils.scheduled_sampling import no_true_frames, sampling_flags

FLIP_STREAM = 2  # keeps these draws apart from those of the data order and of scheduled sampling
LOSS_DIVISOR = 128  # the rates of --lr_schedule kth belong to a loss that is divided by it

logger = logging.getLogger("e3d_lstm")


class Loss(NamedTuple):
    """Of one iteration, before its step; with --reverse_input the means of the two steps."""

    value: float
    # Before --grad_clip; only where it is logged, every --display_interval, and not of a step that was skipped.
    gradient_norm: float | None


def prediction_loss(predictions: paddle.Tensor, patches: paddle.Tensor, l1_weight: float = 1.0) -> paddle.Tensor:
    """(sum(d^2) / 2 + l1_weight * sum(|d|)) / B / 128 over all the predicted frames 1 .. T-1.

    Args:
        predictions: ``[B, T-1, H/p, W/p, p*p*C]``.
        patches: the clip, ``[B, T, H/p, W/p, p*p*C]``.
        l1_weight: 1 in the paper.
    """
    difference = predictions - patches[:, 1:]
    total = difference.square().sum() / 2
    if l1_weight:
        total = total + l1_weight * difference.abs().sum()
    return total / patches.shape[0] / LOSS_DIVISOR


def l1_weight_at(config: Config, iteration: int) -> float:
    """The weight of the absolute differences in an iteration's loss: 0 before --l1_from, --l1_weight from it on."""
    return config.l1_weight if iteration >= config.l1_from else 0.0


def flipped(config: Config, iteration: int, frames: paddle.Tensor) -> paddle.Tensor:
    """Clips ``[B, T, H, W, C]``, each mirrored left to right with probability 1/2; a function of seed and iteration.

    With several ranks each has its own draws: together those of one rank with all the clips.
    """
    draws = np.random.default_rng([config.seed, FLIP_STREAM, iteration]).random(len(frames) * ranks.world_size())
    is_mirrored = paddle.to_tensor(ranks.shard(draws) < 0.5).reshape([-1, 1, 1, 1, 1])
    return paddle.where(is_mirrored, frames.flip(axis=3), frames)


def train_on_batch(
    config: Config,
    iteration: int,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    frames: paddle.Tensor,
    loss_scale: LossScale | None = None,
    before_update: Callable[[], None] = lambda: None,
) -> Loss:
    """One iteration: a step on the clips, and with --reverse_input a second one on the clips played backwards.

    With a loss scale a step whose gradients are not finite is skipped, with a warning.

    Args:
        config: settings of the run.
        iteration: counted from 1; decides the scheduled sampling and which clips --flip mirrors.
        model, optimizer: changed in place.
        frames: ``[B, T, H, W, C]`` in [0, 1].
        loss_scale: of a training in float16, changed in place.
        before_update: called before each change of the weights, the optimizer and the loss scale. An error after it
            may leave them half changed.

    Raises:
        Diverged: the loss is not finite, in float16 that which float32 gives; the step is not taken. Or steps go on
            being skipped with the smallest loss scale.
    """
    model.train()
    flags = sampling_flags(config, iteration, frames.shape[0])
    flags = paddle.to_tensor(flags) if flags.size else None
    if config.flip:
        frames = flipped(config, iteration, frames)
    clips = [frames, frames.flip(axis=1)] if config.reverse_input else [frames]
    l1_weight = l1_weight_at(config, iteration)
    parameters = model.parameters()
    losses, norms = [], []
    for clip in clips:
        patches = reshape_patch(clip, config.patch_size)  # (B, T, H/p, W/p, p*p*C)
        loss = _loss(config.precision, model, patches, flags, l1_weight)
        if loss_scale:
            loss_scale.backward(loss, parameters)
        else:
            loss.backward()
        parallel.all_reduce_gradients(parameters)
        value = parallel.mean(float(loss))
        if loss_scale and not math.isfinite(value):  # a convolution may have left the range of float16
            with paddle.no_grad():
                value = parallel.mean(float(_loss("fp32", model, patches, flags, l1_weight)))
        if not math.isfinite(value):
            raise Diverged(f"the loss of iteration {iteration} is {value}")
        losses.append(value)
        norm = gradient_norm(parameters) if loss_scale or iteration % config.display_interval == 0 else None
        before_update()
        if loss_scale and not _are_finite(norm, iteration, loss_scale):
            norm = None
        else:
            optimizer.step()
        optimizer.clear_grad()
        if norm is not None:
            norms.append(norm)
    return Loss(float(np.mean(losses)), float(np.mean(norms)) if norms else None)


def _loss(
    precision: str, model: nn.Layer, patches: paddle.Tensor, flags: paddle.Tensor | None, l1_weight: float
) -> paddle.Tensor:
    with autocast(precision):
        predictions = model(patches, flags)
    return prediction_loss(predictions, patches, l1_weight)


def _are_finite(norm: float, iteration: int, loss_scale: LossScale) -> bool:
    """Whether the gradients, of this global norm, are finite; updates the loss scale, and warns where they are not.

    A loss that is not finite comes here too: its gradients are not, and the scale may be the cause.
    """
    scale = loss_scale.value
    loss_scale.update(math.isfinite(norm))
    if math.isfinite(norm):
        return True
    # A line for each: every one halves the scale, which takes thousands of steps to grow again.
    logger.warning(
        "iteration %d: gradients are not finite at loss scale %g; step skipped (%d so far)",
        iteration,
        scale,
        loss_scale.skipped,
    )
    if loss_scale.exhausted:
        what = f"gradients are not finite at the smallest loss scale, {loss_scale.bad_steps} steps in a row"
        raise Diverged(f"iteration {iteration}: {what} (--precision bf16 has the range of float32)")
    return False


def predict(config: Config, model: nn.Layer, frames: paddle.Tensor) -> np.ndarray:
    """The frames after the given ones, each predicted from predictions.

    Args:
        config: settings of the run.
        model: network; its mode is restored.
        frames: ``[B, T, H, W, C]`` in [0, 1]; of the frames from input_length on, only the number matters.

    Returns:
        float32 ``[B, T-input_length, H, W, C]``, not clipped.
    """
    training = model.training
    model.eval()
    with paddle.no_grad(), autocast(config.precision):
        flags = no_true_frames(config, frames.shape[0])
        predictions = model(reshape_patch(frames, config.patch_size), paddle.to_tensor(flags) if flags.size else None)
        forecast = reshape_patch_back(predictions[:, config.input_length - 1 :], config.patch_size)
    if training:
        model.train()
    return forecast.numpy()
