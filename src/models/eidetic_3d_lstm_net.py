"""E3DLSTM: eidetic cells stacked in layers and unrolled over time, patches in, patches out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn

from src.config import Config
from src.layers.precision import convolve
from src.layers.recall import History, by_position, recall_form
from src.layers.rnn_cell import EideticLSTMCell
from src.layers.window_conv import WINDOW, Kernel, conv3d
from src.models.unrolled import Step, UnrolledNetwork, recomputed


class E3DLSTM(UnrolledNetwork):
    """The eidetic 3D LSTM network.

    A prediction is D(h) in the paper and the official code; they have no such sum as ``residual`` makes.

    Parameters:
        patch_channels (int): channels of a position, p*p*C.
        hidden_sizes (sequence of int): hidden channels of each layer, all equal (one memory passes through all layers).
        filter_size (int): rows and columns of the kernels; odd.
        layer_norm (bool): see :class:`EideticLSTMCell`.
        norm_epsilon (float): epsilon of the norms.
        input_length (int), residual (bool or "gate"), recompute (bool), center (float): see :class:`UnrolledNetwork`.

    Inputs, Returns: those of :class:`UnrolledNetwork`.

    Raises:
        ValueError: unequal hidden_sizes, or inputs of other shapes.
    """

    def __init__(
        self,
        patch_channels: int,
        hidden_sizes: Sequence[int],
        filter_size: int,
        input_length: int,
        layer_norm: bool = True,
        residual: bool | str = False,
        norm_epsilon: float = 1e-5,
        recompute: bool = False,
        center: float = 0.0,
    ) -> None:
        super().__init__(patch_channels, input_length, residual, recompute, center)
        if len(set(hidden_sizes)) != 1:
            raise ValueError(f"num_hidden: the layers share one memory and must be equal, got {list(hidden_sizes)}")
        self.hidden_channels = hidden_sizes[0]
        self.norm_epsilon = norm_epsilon
        in_channels = [patch_channels, *hidden_sizes[:-1]]
        self.cells = nn.LayerList(
            EideticLSTMCell(inputs, hidden, filter_size, layer_norm, norm_epsilon)
            for inputs, hidden in zip(in_channels, hidden_sizes)
        )
        self.set_decoder(conv3d(hidden_sizes[-1], self.decoder_channels, (WINDOW, 1, 1)))

    @classmethod
    def from_config(cls, config: Config) -> E3DLSTM:
        return super().from_config(config, layer_norm=config.layer_norm, norm_epsilon=config.norm_epsilon)

    @staticmethod
    def deciding_flag(name: str, there: list[int] | None = None, here: list[int] | None = None) -> str:
        """The flag behind a parameter that is missing, unknown, or of another shape (``there`` in a file, ``here``)."""
        if there is None:
            is_norm = ".norm_" in name or name.endswith(("conv_h.bias", "conv_x.bias", "conv_m.bias"))
            return "--layer_norm, or the number of layers in --num_hidden" if is_norm else "--num_hidden"
        if len(there) == 5 and there[3:] != here[3:]:
            return "--filter_size"
        if name.startswith("decoder") or (name == "cells.0.conv_x.weight" and there[0] == here[0]):
            return "--patch_size, --img_channel, --residual or --num_hidden"
        return "--num_hidden"

    def begin(self, batch: int, rows: int, columns: int, steps: int) -> tuple[Any, Step]:
        zero_state = paddle.zeros([batch, WINDOW * self.hidden_channels, rows, columns])
        cell = [zero_state] * len(self.cells)
        hidden, memory = [None] * len(self.cells), None  # zeros
        # The zero state of step 0 stays in each layer's history for good.
        form = recall_form(zero_state, steps, len(self.cells))
        history = [History(zeros=WINDOW * rows * columns, form=form) for _ in self.cells]
        weights = self.prepared_weights(batch, rows, columns)
        all_layers = self._recomputed_step if self.recompute and self.training else self.step

        def step(frame: paddle.Tensor, states: Any) -> tuple[paddle.Tensor, Any]:
            last_frame, memory, hidden, cell, history = states
            if memory is not None:  # not the first step
                history = [before.append(newest) for before, newest in zip(history, cell)]
            x = window(last_frame, frame)
            decoded, memory, hidden, cell = all_layers(history, weights, x, memory, hidden, cell)
            return decoded, (frame, memory, hidden, cell, history)

        last_frame = paddle.zeros([batch, self.patch_channels, rows, columns])
        return (last_frame, memory, hidden, cell, history), step

    def begin_loop(self, batch: int, rows: int, columns: int) -> tuple[Any, Step]:
        weights = self.prepared_weights(batch, rows, columns)

        def step(frame: paddle.Tensor, states: Any) -> tuple[paddle.Tensor, Any]:
            last_frame, memory, hidden, cell, keys = states
            x = window(last_frame, frame)
            history = [History(form="plain").with_blocks([layer_keys]) for layer_keys in keys]
            decoded, memory, hidden, cell = self.step(history, weights, x, memory, hidden, cell)
            keys = [paddle.concat([before, by_position(newest)], axis=2) for before, newest in zip(keys, cell)]
            return decoded, [frame, memory, hidden, cell, keys]

        last_frame = paddle.zeros([batch, self.patch_channels, rows, columns])
        zero_state = paddle.zeros([batch, WINDOW * self.hidden_channels, rows, columns])
        states = [zero_state] * len(self.cells)
        # The zero state of step 0 stays in each layer's history for good; here it is one of the keys.
        keys = [by_position(zero_state)] * len(self.cells)  # (B, n, 2*H/p*W/p)
        return [last_frame, zero_state, states, states, keys], step

    def prepared_weights(self, batch: int, rows: int, columns: int) -> list[dict[str, Kernel]]:
        """Of each layer, see :meth:`EideticLSTMCell.prepared_weights`; the last ones hold the decoder's too."""
        weights = [layer_cell.prepared_weights(batch, rows, columns) for layer_cell in self.cells]
        # With a depth and a stride of 2 it is a 1 x 1 convolution of the window's channels.
        weights[-1]["decoder"] = self.decoder.weight.reshape([self.decoder_channels, -1, 1, 1])
        weights[-1]["shift_decoder"] = self.decoder.bias.reshape([1, -1, 1, 1])
        return weights

    def step(
        self,
        history: Sequence[History],
        weights: Sequence[dict[str, Kernel]],
        x: paddle.Tensor,
        memory: paddle.Tensor | None,
        hidden: Sequence[paddle.Tensor | None],
        cell: Sequence[paddle.Tensor],
    ) -> tuple[paddle.Tensor, paddle.Tensor, list[paddle.Tensor], list[paddle.Tensor]]:
        """All the layers for one window x ``[B, 2*p*p*C, H/p, W/p]``, see :func:`window`.

        Args:
            history: of each layer, see :class:`History`.
            weights: see :meth:`prepared_weights`.
            x: the frame of the step before and this one, as patches.
            memory: of the last layer at the step before, ``[B, 2n, H/p, W/p]``; None for zeros.
            hidden, cell: of each layer at the step before, ``[B, 2n, H/p, W/p]``; hidden may hold None for zeros.

        Returns:
            what the decoder makes of it ``[B, decoder_channels, H/p, W/p]``; the new memory, hidden and cell.
        """
        hidden, cell = list(hidden), list(cell)
        for layer, layer_cell in enumerate(self.cells):
            # The memory goes up through the layers and from the last one to the first of the next step.
            hidden[layer], cell[layer], memory = layer_cell(
                x, hidden[layer], cell[layer], memory, history[layer], weights[layer]
            )
            x = hidden[layer]
        kernel, bias = weights[-1]["decoder"], weights[-1]["shift_decoder"]
        return convolve(x, kernel) + bias, memory, hidden, cell

    def _recomputed_step(self, history: Sequence[History], *arguments):
        """The same, computed again in the backward pass."""

        def step(blocks: list[list[paddle.Tensor]], *arguments: Any) -> Any:
            return self.step([before.with_blocks(own) for before, own in zip(history, blocks)], *arguments)

        layers = len(self.cells)
        blocks = [layer_history.blocks for layer_history in history]
        decoded, memory, *states = recomputed(step, blocks, *arguments)
        return decoded, memory, states[:layers], states[layers:]


def window(frame_before: paddle.Tensor, frame: paddle.Tensor) -> paddle.Tensor:
    """Two frames ``[B, C, H, W]`` as a window ``[B, 2C, H, W]`` in the layout of window_conv.py."""
    batch, channels, rows, columns = frame.shape
    return paddle.stack([frame_before, frame], axis=2).reshape([batch, WINDOW * channels, rows, columns])
