"""E3DLSTM: the network of plain_e3d_lstm_net.py with the fast cells of src/layers/rnn_cell.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from src.layers.precision import convolve
from src.layers.recall import by_position, keeps_scores, remember
from src.layers.reference import WINDOW
from src.layers.rnn_cell import EideticLSTMCell, StepWeights
from src.layers.window_conv import window
from src.models.plain_e3d_lstm_net import PlainE3DLSTM
from src.models.unrolled import Step, recomputed

History = list[paddle.Tensor]  # of a layer, see recall.py


class E3DLSTM(PlainE3DLSTM):
    """The eidetic 3D LSTM network. Parameters, inputs and outputs are those of :class:`PlainE3DLSTM`."""

    cell_type = EideticLSTMCell

    def begin(self, batch: int, rows: int, columns: int, steps: int) -> tuple[Any, Step]:
        frame_before = paddle.zeros([batch, self.patch_channels, rows, columns])
        zero = paddle.zeros([batch, WINDOW * self.hidden_channels, rows, columns])
        nothing = None if paddle.in_dynamic_mode() else zero  # a loop in a static graph needs tensors
        layers, keep = len(self.cells), keeps_scores(zero, steps, len(self.cells))
        history = [[by_position(zero)]] * layers  # the zero state of step 0 stays in it for good
        weights = [cell.step_weights(batch, rows, columns) for cell in self.cells]
        # With a depth and a stride of 2 the decoder is a 1 x 1 convolution of the window's channels.
        decoder = self.decoder.weight.reshape([self.decoder_channels, -1, 1, 1])
        bias = self.decoder.bias.reshape([1, -1, 1, 1])
        all_layers = self._recomputed_layers if self.recompute and self.training else self.layers

        def step(frame: paddle.Tensor, states: Any) -> tuple[paddle.Tensor, Any]:
            frame_before, memory, hidden, cell, history = states
            x = window(frame_before, frame)
            memory, hidden, cell = all_layers(history, weights, x, memory, hidden, cell)
            history = [remember(before, newest, keep) for before, newest in zip(history, cell)]
            return convolve(hidden[-1], decoder) + bias, [frame, memory, hidden, cell, history]

        return [frame_before, nothing, [nothing] * layers, [zero] * layers, history], step

    def layers(
        self,
        history: Sequence[History],
        weights: Sequence[StepWeights],
        x: paddle.Tensor,
        memory: paddle.Tensor | None,
        hidden: Sequence[paddle.Tensor | None],
        cell: Sequence[paddle.Tensor],
    ) -> tuple[paddle.Tensor, list[paddle.Tensor], list[paddle.Tensor]]:
        """All the layers for one window x ``[B, 2*p*p*C, H/p, W/p]``.

        Args:
            history: of each layer.
            weights: of each layer, see :meth:`EideticLSTMCell.step_weights`.
            x: the frame of the step before and this one, as patches.
            memory: of the last layer at the step before, ``[B, 2n, H/p, W/p]``; None for zeros.
            hidden, cell: of each layer at the step before, ``[B, 2n, H/p, W/p]``; hidden may hold None for zeros.

        Returns:
            the new memory, hidden and cell.
        """
        hidden, cell = list(hidden), list(cell)
        for layer, layer_cell in enumerate(self.cells):
            hidden[layer], cell[layer], memory = layer_cell(
                x, hidden[layer], cell[layer], memory, history[layer], weights[layer]
            )
            x = hidden[layer]
        return memory, hidden, cell

    def _recomputed_layers(self, *arguments: Any):
        """The same, computed again in the backward pass."""
        memory, *states = recomputed(self.layers, *arguments)
        return memory, states[: len(self.cells)], states[len(self.cells) :]
