"""Forecaster: the trained network as one program, frames in, the next frames out."""

from __future__ import annotations

import paddle
from paddle import nn

from src.errors import UserError
from src.models.unrolled import UnrolledNetwork
from src.utils.preprocess import reshape_patch, reshape_patch_back


class Forecaster(nn.Layer):
    """Predicts the frames after the ones given, for ``paddle.jit.save``; patches are cut and put together inside.

    The figures are the network's with all flags 0. The time steps stay a loop, so the program holds one of them:
    unrolled, 10 + 20 frames are 17,000 operations, and the first forecast takes more than a minute and 6 GB.

    Parameters:
        network (UnrolledNetwork): with its weights. ``network.input_length`` frames are given.
        patch_size (int): p, the side of a patch in pixels.
        steps (int): frames to predict.

    Inputs:
        - frames: float32 ``[B, input_length, H, W, C]`` in [0, 1]; B is free in an exported program, the rest is fixed.

    Returns:
        the next frames: float32 ``[B, steps, H, W, C]``, clipped to [0, 1].

    Raises:
        UserError: a network that is none of these.
        RuntimeError: called outside of a static graph.
    """

    def __init__(self, network: UnrolledNetwork, patch_size: int, steps: int) -> None:
        if not isinstance(network, UnrolledNetwork):
            raise UserError(
                f"{type(network).__name__} cannot be exported: it is no UnrolledNetwork (src/models/unrolled.py)"
            )
        super().__init__()
        self.network = network
        self.patch_size = patch_size
        self.steps = steps

    def forward(self, frames: paddle.Tensor) -> paddle.Tensor:
        if paddle.in_dynamic_mode():  # while_loop overwrites the states there, which begin as one tensor
            raise RuntimeError("Forecaster is for paddle.jit.save; call the network itself")
        network, given_length = self.network, self.network.input_length
        given = reshape_patch(frames, self.patch_size).transpose([1, 0, 4, 2, 3])  # (T, B, p*p*C, H/p, W/p)
        _, batch, _, rows, columns = given.shape
        mean = given.mean(axis=0)
        first_states, network_step = network.begin_loop(batch, rows, columns)

        def step(t, prediction, predictions, states):
            true_frame = paddle.index_select(given, paddle.clip(t, max=given_length - 1)).squeeze(0)
            frame = paddle.where(t < given_length, true_frame, prediction)
            decoded, states = network_step(network.fed(frame, mean), states)
            prediction = network.prediction(frame, mean, decoded)
            predictions = paddle.concat([predictions, prediction.unsqueeze(1)], axis=1)
            return [t + 1, prediction, predictions, states]

        zero_frame = paddle.zeros_like(given[0])
        start = [paddle.zeros([1], "int64"), zero_frame, zero_frame.unsqueeze(1), first_states]
        last_step = given_length + self.steps - 1
        end = paddle.static.nn.while_loop(lambda t, *_: t < last_step, step, start)
        predictions = end[2][:, given_length:].transpose([0, 1, 3, 4, 2])  # those of step t stand at t + 1
        return reshape_patch_back(predictions, self.patch_size).clip(0.0, 1.0)
