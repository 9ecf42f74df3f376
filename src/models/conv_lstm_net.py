"""ConvLSTM: the cells of Shi et al. stacked in layers and unrolled over time, patches in, patches out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.utils import pack_sequence_as

from src.layers.conv_lstm_cell import ConvLSTMCell
from src.layers.precision import convolve
from src.models.unrolled import Step, UnrolledNetwork, recomputed


class ConvLSTM(UnrolledNetwork):
    """The convolutional LSTM network: one frame at a time through all layers, and a 1 x 1 convolution as the decoder.

    The paper encodes the given frames with one stack and forecasts with another one; this network has one stack for
    both, fed with its own predictions, as E3DLSTM has. Its cells have no norms: --layer_norm and --norm_epsilon have no
    meaning for it.

    Parameters:
        patch_channels (int): channels of a position, p*p*C.
        hidden_sizes (sequence of int): hidden channels of each layer.
        filter_size (int): rows and columns of the kernels; odd.
        input_length (int), residual (bool or "gate"), recompute (bool), center (float): see :class:`UnrolledNetwork`.

    Inputs, Returns, Raises: those of :class:`UnrolledNetwork`.
    """

    def __init__(
        self,
        patch_channels: int,
        hidden_sizes: Sequence[int],
        filter_size: int,
        input_length: int,
        residual: bool | str = False,
        recompute: bool = False,
        center: float = 0.0,
    ) -> None:
        super().__init__(patch_channels, input_length, residual, recompute, center)
        in_channels = [patch_channels, *hidden_sizes[:-1]]
        self.cells = nn.LayerList(
            ConvLSTMCell(inputs, hidden, filter_size) for inputs, hidden in zip(in_channels, hidden_sizes)
        )
        glorot = nn.initializer.XavierUniform()
        self.set_decoder(nn.Conv2D(hidden_sizes[-1], self.decoder_channels, 1, weight_attr=glorot))

    @staticmethod
    def deciding_flag(name: str, there: list[int] | None = None, here: list[int] | None = None) -> str:
        """The flag behind a parameter that is missing, unknown, or of another shape (``there`` in a file, ``here``)."""
        if there is None:
            return "the number of layers in --num_hidden"
        if name.endswith("gates.weight") and there[2:] != here[2:]:
            return "--filter_size"
        if name.startswith("decoder") or (name == "cells.0.gates.weight" and there[0] == here[0]):
            return "--patch_size, --img_channel, --residual or --num_hidden"
        return "--num_hidden"

    def begin(self, batch: int, rows: int, columns: int, steps: int) -> tuple[Any, Step]:
        states = [paddle.zeros([batch, cell.hidden_channels, rows, columns]) for cell in self.cells]
        if not (self.recompute and self.training):
            return [states, states], self.step
        for state in states:
            state.stop_gradient = False  # Paddle computes nothing again where no input has a gradient
        return [states, states], self._recomputed_step

    def step(
        self, frame: paddle.Tensor, states: Sequence[Sequence[paddle.Tensor]]
    ) -> tuple[paddle.Tensor, list[list[paddle.Tensor]]]:
        """All the layers for one frame.

        Args:
            frame: what is fed, patches ``[B, p*p*C, H/p, W/p]``.
            states: hidden and cell of each layer at the step before, ``[B, n, H/p, W/p]``.

        Returns:
            what the decoder makes of it ``[B, decoder_channels, H/p, W/p]``; the new states.
        """
        hidden, cell = list(states[0]), list(states[1])
        x = frame
        for layer, layer_cell in enumerate(self.cells):
            hidden[layer], cell[layer] = layer_cell(x, hidden[layer], cell[layer])
            x = hidden[layer]
        bias = self.decoder.bias.reshape([1, -1, 1, 1])
        return convolve(x, self.decoder.weight) + bias, [hidden, cell]

    def _recomputed_step(self, frame: paddle.Tensor, states: list[list[paddle.Tensor]]):
        """The same, computed again in the backward pass."""
        decoded, *found = recomputed(self.step, frame, states)
        return decoded, pack_sequence_as(states, found)
