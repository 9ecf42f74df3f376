"""PlainE3DLSTM: the cells of src/layers/reference.py, stacked in layers and unrolled over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn

from src.config import Config
from src.errors import UserError
from src.layers.reference import WINDOW, PlainEideticLSTMCell
from src.models.unrolled import Step, UnrolledNetwork


class PlainE3DLSTM(UnrolledNetwork):
    """The eidetic 3D LSTM network in its plain form: to read, to change first, and to compare the fast form with.

    A prediction is D(h) in the paper and the official code; they have none of what ``residual`` and ``center`` make.

    Parameters:
        patch_channels (int): channels of a position, p*p*C.
        hidden_sizes (sequence of int): hidden channels of each layer, all equal (one memory passes through all layers).
        filter_size (int): rows and columns of the kernels; odd.
        layer_norm (bool): see :class:`PlainEideticLSTMCell`.
        norm_epsilon (float): epsilon of the norms.
        input_length (int), residual (bool or "gate"), recompute (bool), center (float): see :class:`UnrolledNetwork`.

    Inputs, Returns: those of :class:`UnrolledNetwork`.

    Raises:
        ValueError: unequal hidden_sizes, or inputs of other shapes.
    """

    cell_type = PlainEideticLSTMCell

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
        in_channels = [patch_channels, *hidden_sizes[:-1]]
        self.cells = nn.LayerList(
            self.cell_type(inputs, hidden, filter_size, layer_norm, norm_epsilon)
            for inputs, hidden in zip(in_channels, hidden_sizes)
        )
        kernel, glorot = (WINDOW, 1, 1), nn.initializer.XavierUniform()
        self.set_decoder(nn.Conv3D(hidden_sizes[-1], self.decoder_channels, kernel, stride=kernel, weight_attr=glorot))

    @classmethod
    def from_config(cls, config: Config) -> PlainE3DLSTM:
        if cls is PlainE3DLSTM and (config.recompute or config.precision != "fp32"):
            flag = "recompute True" if config.recompute else f"precision {config.precision}"
            raise UserError(
                f"--{flag}: --model_name {config.model_name} has no such form; leave it out or take e3d_lstm"
            )
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
        frame_before = paddle.zeros([batch, self.patch_channels, rows, columns])
        zero = paddle.zeros([batch, self.hidden_channels, WINDOW, rows, columns])
        states = [zero] * len(self.cells)
        history = [zero.flatten(2)] * len(self.cells)  # the zero state of step 0 stays in it for good

        def step(frame: paddle.Tensor, states: Any) -> tuple[paddle.Tensor, Any]:
            frame_before, m, h, c, K = states
            h, c, K = list(h), list(c), list(K)
            x = paddle.stack([frame_before, frame], axis=2)  # (B, p*p*C, 2, H/p, W/p)
            for layer, cell in enumerate(self.cells):
                # The memory goes up through the layers and from the last one to the first of the next step.
                h[layer], c[layer], m = cell(x, h[layer], c[layer], m, K[layer])
                K[layer] = paddle.concat([K[layer], c[layer].flatten(2)], axis=2)
                x = h[layer]
            return self.decoder(x).squeeze(2), [frame, m, h, c, K]

        return [frame_before, zero, states, states, history], step
