"""E3DLSTM: eidetic cells stacked in layers and unrolled over time, patches in, patches out."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.utils import flatten, pack_sequence_as

from src.config import Config
from src.layers.precision import Conv3D, autocast, precision_in_force
from src.layers.recall import History
from src.layers.rnn_cell import EideticLSTMCell
from src.layers.window_conv import WINDOW


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
        self.decoder = Conv3D(
            hidden_sizes[-1], patch_channels, kernel_size=(WINDOW, 1, 1), stride=(WINDOW, 1, 1)
        )
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

        zero_state = paddle.zeros([batch, self.hidden_channels, WINDOW, rows, columns], dtype=frames.dtype)
        hidden = [zero_state] * len(self.cells)
        cell = [zero_state] * len(self.cells)
        memory = zero_state
        # The zero state of step 0 stays in each layer's history for good.
        history = [History(zeros=WINDOW * rows * columns) for _ in self.cells]
        kernel_slices = [layer_cell.kernel_slices() for layer_cell in self.cells]

        last_frame = paddle.zeros_like(frames[0])
        predictions = []
        for t in range(length - 1):
            frame = frames[t]
            if t >= self.input_length:
                flag = flags[t - self.input_length]
                frame = flag * frame + (1.0 - flag) * predictions[-1]  # the gradient flows through the prediction
            x = paddle.stack([last_frame, frame], axis=2)  # (B, p*p*C, 2, H/p, W/p)
            last_frame = frame

            if t > 0:
                history = [before.append(newest) for before, newest in zip(history, cell)]
            step = self._recomputed_step if self.recompute and self.training else self.step
            prediction, memory, hidden, cell = step(history, kernel_slices, x, memory, hidden, cell)
            predictions.append(prediction)
        return paddle.stack(predictions, axis=1).transpose([0, 1, 3, 4, 2])

    def step(
        self,
        history: Sequence[History],
        kernel_slices: Sequence[dict[str, paddle.Tensor]],
        x: paddle.Tensor,
        memory: paddle.Tensor,
        hidden: Sequence[paddle.Tensor],
        cell: Sequence[paddle.Tensor],
    ) -> tuple[paddle.Tensor, paddle.Tensor, list[paddle.Tensor], list[paddle.Tensor]]:
        """All the layers for one window x ``[B, p*p*C, 2, H/p, W/p]``.

        Args:
            history: of each layer, see :class:`History`.
            kernel_slices: of each layer, see :meth:`EideticLSTMCell.kernel_slices`.
            x: the frame of the step before and this one, as patches.
            memory: of the last layer at the step before, ``[B, n, 2, H/p, W/p]``.
            hidden, cell: of each layer at the step before, ``[B, n, 2, H/p, W/p]``.

        Returns:
            the predicted frame ``[B, p*p*C, H/p, W/p]``; the new memory, hidden and cell.
        """
        window = x
        hidden, cell = list(hidden), list(cell)
        for layer, layer_cell in enumerate(self.cells):
            # The memory goes up through the layers and from the last one to the first of the next step.
            hidden[layer], cell[layer], memory = layer_cell(
                x, hidden[layer], cell[layer], memory, history[layer], kernel_slices[layer]
            )
            x = hidden[layer]
        prediction = self.decoder(x).squeeze(2)  # (B, p*p*C, H/p, W/p)
        if self.residual:
            prediction = window[:, :, -1] + prediction
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
