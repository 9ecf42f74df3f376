"""Forecaster: the trained network as one program, frames in, the next frames out."""

from __future__ import annotations

import paddle
from paddle import nn

from src.errors import UserError
from src.layers.recall import History, by_position
from src.layers.window_conv import WINDOW
from src.models.eidetic_3d_lstm_net import E3DLSTM, window
from src.utils.preprocess import reshape_patch, reshape_patch_back


class Forecaster(nn.Layer):
    """Predicts the frames after the ones given, for ``paddle.jit.save``; patches are cut and put together inside.

    The figures are the network's with all flags 0. The time steps stay a loop, so the program holds one of them:
    unrolled, 10 + 20 frames are 17,000 operations, and the first forecast takes more than a minute and 6 GB.

    Parameters:
        network (E3DLSTM): with its weights. ``network.input_length`` frames are given.
        patch_size (int): p, the side of a patch in pixels.
        steps (int): frames to predict.

    Inputs:
        - frames: float32 ``[B, input_length, H, W, C]`` in [0, 1]; B is free in an exported program, the rest is fixed.

    Returns:
        the next frames: float32 ``[B, steps, H, W, C]``, clipped to [0, 1].

    Raises:
        UserError: another network.
        RuntimeError: called outside of a static graph.
    """

    def __init__(self, network: E3DLSTM, patch_size: int, steps: int) -> None:
        if not isinstance(network, E3DLSTM):  # its states are those of the loop below
            raise UserError(f"{type(network).__name__} cannot be exported, only E3DLSTM (--model_name e3d_lstm) can")
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
        weights = network.prepared_weights(batch, rows, columns)
        layers = len(network.cells)

        def step(t, last_frame, prediction, predictions, memory, hidden, cell, keys):
            true_frame = paddle.index_select(given, paddle.clip(t, max=given_length - 1)).squeeze(0)
            frame = paddle.where(t < given_length, true_frame, prediction)
            x = window(last_frame, frame)
            history = [History(form="plain").with_blocks([layer_keys]) for layer_keys in keys]
            prediction, memory, hidden, cell = network.step(history, weights, x, memory, hidden, cell)
            keys = [paddle.concat([before, by_position(newest)], axis=2) for before, newest in zip(keys, cell)]
            predictions = paddle.concat([predictions, prediction.unsqueeze(1)], axis=1)
            return [t + 1, frame, prediction, predictions, memory, hidden, cell, keys]

        zero_frame = paddle.zeros_like(given[0])
        zero_state = paddle.zeros([batch, WINDOW * network.hidden_channels, rows, columns])
        states = [zero_state] * layers
        # The zero state of step 0 stays in each layer's history for good; here it is one of the keys.
        keys = [by_position(zero_state)] * layers  # (B, n, 2*H/p*W/p)
        start = [paddle.zeros([1], "int64"), zero_frame, zero_frame, zero_frame.unsqueeze(1), zero_state]
        last_step = given_length + self.steps - 1
        end = paddle.static.nn.while_loop(lambda t, *_: t < last_step, step, [*start, states, states, keys])
        predictions = end[3][:, given_length:].transpose([0, 1, 3, 4, 2])  # those of step t stand at t + 1
        return reshape_patch_back(predictions, self.patch_size).clip(0.0, 1.0)
