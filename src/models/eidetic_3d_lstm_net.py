"""E3DLSTM: eidetic cells stacked in layers and unrolled over time, patches in, patches out."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.utils import flatten, pack_sequence_as

from src.config import Config
from src.layers.precision import autocast, convolve, precision_in_force
from src.layers.recall import History, recall_form
from src.layers.rnn_cell import EideticLSTMCell
from src.layers.window_conv import WINDOW, Kernel, conv3d


class E3DLSTM(nn.Layer):
    """The eidetic 3D LSTM network. The weights are the same at every time step.

    A prediction is D(h), the decoder D of the last layer's hidden state h, as in the paper and the official code. With
    ``residual`` it is x + D(h), x the frame fed last, and D begins at 0: the untrained network repeats that frame. The
    paper has no such sum.

    Parameters:
        patch_channels (int): channels of a position, p*p*C.
        hidden_sizes (sequence of int): hidden channels of each layer, all equal (one memory passes through all layers).
        filter_size (int): rows and columns of the kernels; odd.
        input_length (int): frames given; later ones are predictions where the flag is 0.
        layer_norm (bool): see :class:`EideticLSTMCell`.
        residual (bool): whether the decoder's output is added to the frame fed last.
        norm_epsilon (float): epsilon of the norms.
        recompute (bool): in training keep only the states of each step, and compute the rest of the step again in the
            backward pass: a third more time for a fraction of the memory.

    Inputs:
        - frames: float32 ``[B, T, H/p, W/p, p*p*C]``; B, T > input_length, H and W are free.
        - real_input_flag: ``[B, T-input_length-1]``, with three more axes that broadcast to a frame's, or without them.
          1 feeds the true frame, 0 the prediction of the step before. May be None when T = input_length + 1.

    Returns:
        predictions of the frames 1 .. T-1: float32 ``[B, T-1, H/p, W/p, p*p*C]``.

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
        residual: bool = False,
        norm_epsilon: float = 1e-5,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if len(set(hidden_sizes)) != 1:
            raise ValueError(f"num_hidden: the layers share one memory and must be equal, got {list(hidden_sizes)}")
        self.patch_channels = patch_channels
        self.hidden_channels = hidden_sizes[0]
        self.input_length = input_length
        self.residual = residual
        self.norm_epsilon = norm_epsilon
        self.recompute = recompute
        in_channels = [patch_channels, *hidden_sizes[:-1]]
        self.cells = nn.LayerList(
            EideticLSTMCell(inputs, hidden, filter_size, layer_norm, norm_epsilon)
            for inputs, hidden in zip(in_channels, hidden_sizes)
        )
        self.decoder = conv3d(hidden_sizes[-1], patch_channels, (WINDOW, 1, 1))
        if residual:
            self.decoder.weight.set_value(paddle.zeros_like(self.decoder.weight))

    @classmethod
    def from_config(cls, config: Config) -> E3DLSTM:
        """The network of a run's flags."""
        return cls(
            patch_channels=config.patch_channels,
            hidden_sizes=config.hidden_sizes,
            filter_size=config.filter_size,
            input_length=config.input_length,
            layer_norm=config.layer_norm,
            residual=config.residual,
            norm_epsilon=config.norm_epsilon,
            recompute=config.recompute,
        )

    def start_at(self, brightness: Sequence[float]) -> None:
        """Begin predictions at a brightness instead of at black: the decoder's bias becomes it, a number a colour."""
        positions = self.patch_channels // len(brightness)  # of a patch; its channels are (py*p + px)*C + c
        self.decoder.bias.set_value(paddle.to_tensor(list(brightness) * positions, dtype="float32"))

    @staticmethod
    def deciding_flag(name: str, there: list[int] | None = None, here: list[int] | None = None) -> str:
        """The flag behind a parameter that is missing, unknown, or of another shape (``there`` in a file, ``here``)."""
        if there is None:
            is_norm = ".norm_" in name or name.endswith(("conv_h.bias", "conv_x.bias", "conv_m.bias"))
            return "--layer_norm, or the number of layers in --num_hidden" if is_norm else "--num_hidden"
        if len(there) == 5 and there[3:] != here[3:]:
            return "--filter_size"
        if name.startswith("decoder") or (name == "cells.0.conv_x.weight" and there[0] == here[0]):
            return "--patch_size, --img_channel or --num_hidden"
        return "--num_hidden"

    def forward(self, frames: paddle.Tensor, real_input_flag: paddle.Tensor | None = None) -> paddle.Tensor:
        flags = self._check_inputs(frames, real_input_flag)
        batch, length, rows, columns, _ = frames.shape
        frames = frames.transpose([1, 0, 4, 2, 3])  # (T, B, p*p*C, H/p, W/p)

        zero_state = paddle.zeros([batch, WINDOW * self.hidden_channels, rows, columns], dtype=frames.dtype)
        cell = [zero_state] * len(self.cells)
        hidden, memory = [None] * len(self.cells), None  # zeros
        # The zero state of step 0 stays in each layer's history for good.
        form = recall_form(zero_state, length - 1)
        history = [History(zeros=WINDOW * rows * columns, form=form) for _ in self.cells]
        weights = self.prepared_weights(batch, rows, columns)

        last_frame = paddle.zeros_like(frames[0])
        predictions = []
        for t in range(length - 1):
            frame = frames[t]
            if t >= self.input_length:
                flag = flags[t - self.input_length]
                frame = flag * frame + (1.0 - flag) * predictions[-1]  # the gradient flows through the prediction
            x = window(last_frame, frame)
            last_frame = frame

            if t > 0:
                history = [before.append(newest) for before, newest in zip(history, cell)]
            step = self._recomputed_step if self.recompute and self.training else self.step
            prediction, memory, hidden, cell = step(history, weights, x, memory, hidden, cell)
            predictions.append(prediction)
        return paddle.stack(predictions, axis=1).transpose([0, 1, 3, 4, 2])

    def prepared_weights(self, batch: int, rows: int, columns: int) -> list[dict[str, Kernel]]:
        """Of each layer, see :meth:`EideticLSTMCell.prepared_weights`; the last ones hold the decoder's too."""
        weights = [layer_cell.prepared_weights(batch, rows, columns) for layer_cell in self.cells]
        # With a depth and a stride of 2 it is a 1 x 1 convolution of the window's channels.
        weights[-1]["decoder"] = self.decoder.weight.reshape([self.patch_channels, -1, 1, 1])
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
            the predicted frame ``[B, p*p*C, H/p, W/p]``; the new memory, hidden and cell.
        """
        frames = x
        hidden, cell = list(hidden), list(cell)
        for layer, layer_cell in enumerate(self.cells):
            # The memory goes up through the layers and from the last one to the first of the next step.
            hidden[layer], cell[layer], memory = layer_cell(
                x, hidden[layer], cell[layer], memory, history[layer], weights[layer]
            )
            x = hidden[layer]
        kernel, bias = weights[-1]["decoder"], weights[-1]["shift_decoder"]
        prediction = convolve(F.conv2d, x, kernel) + bias  # (B, p*p*C, H/p, W/p)
        if self.residual:
            prediction = newest_frame(frames) + prediction
        return prediction, memory, hidden, cell

    def _recomputed_step(self, history: Sequence[History], *arguments):
        """The same, computed again in the backward pass. Paddle's recompute wants all its tensors in a flat row."""
        blocks = [layer_history.blocks for layer_history in history]
        structure = [blocks, *arguments]
        precision = precision_in_force()  # the backward pass runs outside of autocast

        def step(*tensors: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
            blocks, *arguments = pack_sequence_as(structure, tensors)
            same = [before.with_blocks(own) for before, own in zip(history, blocks)]
            with autocast(precision):
                return tuple(flatten(self.step(same, *arguments)))

        layers = len(self.cells)
        prediction, memory, *states = recompute(step, *flatten(structure))
        return prediction, memory, states[:layers], states[layers:]

    def _check_inputs(self, frames: paddle.Tensor, real_input_flag: paddle.Tensor | None) -> paddle.Tensor | None:
        """Return the flags as ``[T-input_length-1, B, C, H, W]`` (broadcastable), the order of the unrolled loop."""
        if len(frames.shape) != 5 or frames.shape[4] != self.patch_channels:
            raise ValueError(
                f"frames must be [B, T, H/p, W/p, {self.patch_channels}] (see reshape_patch), got {list(frames.shape)}"
            )
        batch, length = frames.shape[:2]
        if length <= self.input_length:
            raise ValueError(f"frames hold {length} time steps, expected more than input_length = {self.input_length}")
        steps = length - self.input_length - 1
        if steps == 0:
            return None
        if real_input_flag is None or list(real_input_flag.shape[:2]) != [batch, steps]:
            found = None if real_input_flag is None else list(real_input_flag.shape)
            raise ValueError(f"real_input_flag: expected [B, T-input_length-1] = [{batch}, {steps}], ..., got {found}")
        if len(real_input_flag.shape) == 2:
            real_input_flag = real_input_flag.reshape([batch, steps, 1, 1, 1])
        return real_input_flag.astype(frames.dtype).transpose([1, 0, 4, 2, 3])


def window(frame_before: paddle.Tensor, frame: paddle.Tensor) -> paddle.Tensor:
    """Two frames ``[B, C, H, W]`` as a window ``[B, 2C, H, W]`` in the layout of window_conv.py."""
    batch, channels, rows, columns = frame.shape
    return paddle.stack([frame_before, frame], axis=2).reshape([batch, WINDOW * channels, rows, columns])


def newest_frame(window: paddle.Tensor) -> paddle.Tensor:
    """The second frame ``[B, C, H, W]`` of a window."""
    batch, channels, rows, columns = window.shape
    return window.reshape([batch, channels // WINDOW, WINDOW, rows, columns])[:, :, -1]
