"""The cell of reference.py in few operators: the same parameters, the same numbers, about twice as fast.

Operators are the time of a GPU or of a small network. So one norm takes W_h * h and W_m * m, each by itself, one
addition sums up all the gates, and one sigmoid takes four of them. The order of the gates that this needs, their splits
and the number of norms follow from the tables in reference.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from src.layers import reference
from src.layers.recall import recall
from src.layers.reference import WINDOW, PlainEideticLSTMCell
from src.layers.window_conv import Kernel, both_frames, window_conv, window_kernel

Names = tuple[str, ...]


class Norm(NamedTuple):
    """Gain and shift of each channel of a window; without norms no gain, and the convolution's bias as the shift."""

    gain: paddle.Tensor | None
    shift: paddle.Tensor


class StepWeights(NamedTuple):
    """What the equations need of a cell's parameters, the same for all the steps of a forward pass."""

    conv_h: Kernel
    conv_x: Kernel
    conv_m: Kernel
    conv_o: Kernel  # W_co and W_mo: W_co * c' + W_mo * m' is one convolution of [c', m']
    conv_cm: Kernel
    bias_cm: paddle.Tensor  # [1, 2n, 1, 1]
    norm_hm: Norm  # of W_h * h and W_m * m
    norm_x: Norm
    norm_c: Norm


class GateOrder(NamedTuple):
    """The gates of W_h, W_x and W_m in an order in which those that x has too stand side by side in h + m, and those
    that go through a sigmoid side by side among them."""

    h: Names
    x: Names
    m: Names
    summed: Names  # the first ones of x; in h + m they stand in the same order
    sigmoids: Names  # neighbours in it

    @classmethod
    def of_tables(cls) -> GateOrder:
        gates = reference.GATES
        if set(gates["h"]) & set(gates["m"]):
            raise ValueError(f"GATES: a gate is made by W_h or by W_m, not by both, got {gates}")

        def rank(gate: str) -> int:
            return 0 if gate not in gates["x"] else 2 if gate in reference.SIGMOID_GATES else 1

        h, m = sorted(gates["h"], key=rank), sorted(gates["m"], key=rank, reverse=True)
        summed = [gate for gate in h + m if gate in gates["x"]]
        x = summed + [gate for gate in gates["x"] if gate not in summed]
        return cls(*map(tuple, (h, x, m, summed, [gate for gate in summed if rank(gate) == 2])))


def layer_norm(x: paddle.Tensor, norm: Norm, epsilon: float, parts: int = 1) -> paddle.Tensor:
    """N of reference.py for windows ``[B, channels, H, W]``, for each of equal ``parts`` of the channels by itself.

    It is Paddle's fused group norm. Nothing in it depends on the image size.
    """
    if hasattr(F, "group_norm"):
        return F.group_norm(x, parts, epsilon, norm.gain, norm.shift)
    return paddle._C_ops.group_norm(x, norm.gain, norm.shift, epsilon, parts, "NCHW")  # Paddle 2.6 has only the layer


class EideticLSTMCell(PlainEideticLSTMCell):
    """One step of one layer of the E3D-LSTM; equations and parameters are those of :class:`PlainEideticLSTMCell`, whose
    layers hold the parameters here and are not called.

    Inputs:
        - x ``[B, 2*in_channels, H, W]``: window of the layer below (or of two frames); the layout is that of
          window_conv.py, here and below.
        - h, c, m ``[B, 2n, H, W]``: as of the plain cell. h and m may be None for zeros, as at the first step; nothing
          is multiplied then.
        - history (list of Tensor): this layer's cells of the steps before, see recall.py.
        - weights: of :meth:`step_weights`, if many steps share them; made anew if it is None.

    Returns:
        h', c', m', each ``[B, 2n, H, W]``.

    Examples:
        .. code-block:: python

            import paddle
            from src.layers.recall import by_position
            from src.layers.rnn_cell import EideticLSTMCell
            cell = EideticLSTMCell(in_channels=16, hidden_channels=8, filter_size=3)
            x, state = paddle.randn([2, 2 * 16, 6, 6]), paddle.zeros([2, 2 * 8, 6, 6])
            h, c, m = cell(x, state, state, state, history=[by_position(state)])
    """

    def __init__(self, *arguments, **settings) -> None:
        super().__init__(*arguments, **settings)
        self.order = GateOrder.of_tables()

    def step_weights(self, batch: int, rows: int, columns: int) -> StepWeights:
        """For states ``[B, 2n, H, W]``."""
        size = batch, rows, columns
        convs = {"h": self.conv_h, "x": self.conv_x, "m": self.conv_m}
        norms = {"h": self.norm_h, "x": self.norm_x, "m": self.norm_m} if self.layer_norm else {}
        kernels = {name: window_kernel(self._in_order(name, conv.weight), *size) for name, conv in convs.items()}
        gains = {name: self._in_order(name, norm.weight) for name, norm in norms.items()}
        shifts = {name: self._shift(name, norms.get(name, conv).bias) for name, conv in convs.items()}
        gain_hm = both_frames(paddle.concat([gains["h"], gains["m"]])) if norms else None
        shift_hm = both_frames(paddle.concat([shifts["h"], shifts["m"]]))

        return StepWeights(
            conv_h=kernels["h"],
            conv_x=kernels["x"],
            conv_m=kernels["m"],
            conv_o=window_kernel(paddle.concat([self.conv_co.weight, self.conv_mo.weight], axis=1), *size),
            conv_cm=window_kernel(self.conv_cm.weight, *size),
            bias_cm=both_frames(self.conv_cm.bias).reshape([1, -1, 1, 1]),
            norm_hm=Norm(gain_hm, shift_hm),
            norm_x=Norm(both_frames(gains["x"]) if norms else None, both_frames(shifts["x"])),
            norm_c=Norm(both_frames(self.norm_c.weight), both_frames(self.norm_c.bias)),
        )

    def forward(
        self,
        x: paddle.Tensor,
        h: paddle.Tensor | None,
        c: paddle.Tensor,
        m: paddle.Tensor | None,
        history: list[paddle.Tensor],
        weights: StepWeights | None = None,
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        w = weights or self.step_weights(x.shape[0], *x.shape[2:])
        gate = self.gates(x, h, m, w)
        c = layer_norm(c + recall(gate.r, history, self.score), w.norm_c, self.norm_epsilon) + gate.i * F.tanh(gate.g)
        m = gate.f_m * F.tanh(gate.m_m) + gate.i_m * F.tanh(gate.g_m)
        cm = paddle.concat([c, m], axis=1)
        o = F.tanh(gate.o + window_conv(cm, w.conv_o))
        h = F.tanh(window_conv(cm, w.conv_cm) + w.bias_cm) * F.sigmoid(o)
        return h, c, m

    def gates(
        self, x: paddle.Tensor, h: paddle.Tensor | None, m: paddle.Tensor | None, w: StepWeights
    ) -> SimpleNamespace:
        """The sums of the gates by name, ``[B, 2n, H, W]`` each: with their constants, those of SIGMOID_GATES after the
        sigmoid, o with the biases of W_co and W_mo."""
        order, batch, image = self.order, x.shape[0], x.shape[2:]
        channels = [WINDOW * self.hidden_channels * len(names) for names in (order.h, order.m)]
        if h is None and m is None:  # zeros: the shift is all that is left
            of_hm = w.norm_hm.shift.reshape([1, -1, 1, 1]).expand([batch, -1, *image])
        else:
            of_h = paddle.zeros([batch, channels[0], *image]) if h is None else window_conv(h, w.conv_h)
            of_m = paddle.zeros([batch, channels[1], *image]) if m is None else window_conv(m, w.conv_m)
            of_hm = self._normed(paddle.concat([of_h, of_m], axis=1), w.norm_hm, channels)
        of_x = window_conv(x, w.conv_x)
        of_x = self._cut(self._normed(of_x, w.norm_x, [of_x.shape[1]]), order.x, order.summed)
        of_hm = self._cut(of_hm, order.h + order.m, order.summed)
        sums = self._cut(of_x.pop(order.summed) + of_hm.pop(order.summed), order.summed, order.sigmoids)
        sigmoids = paddle.split(F.sigmoid(sums.pop(order.sigmoids)), len(order.sigmoids), axis=1)
        gates = dict(zip(order.sigmoids, sigmoids))
        for name, values in {**sums, **of_x, **of_hm}.items():
            gates[name] = F.sigmoid(values) if name in reference.SIGMOID_GATES else values
        return SimpleNamespace(**gates)

    def _normed(self, x: paddle.Tensor, norm: Norm, channels: list[int]) -> paddle.Tensor:
        """N of each part of x, which has so many channels; without norms x + bias."""
        if not self.layer_norm:
            return x + norm.shift.reshape([1, -1, 1, 1])
        if len(set(channels)) == 1:
            return layer_norm(x, norm, self.norm_epsilon, parts=len(channels))
        norms = map(Norm, paddle.split(norm.gain, channels), paddle.split(norm.shift, channels))
        parts = zip(paddle.split(x, channels, axis=1), norms)
        return paddle.concat([layer_norm(part, own, self.norm_epsilon) for part, own in parts], axis=1)

    def _cut(self, channels: paddle.Tensor, names: Names, together: Names) -> dict[str | Names, paddle.Tensor]:
        """Each gate of a tensor ``[B, gates*2n, H, W]`` by its name, but neighbours that stay one tensor together."""
        if names == together:
            return {together: channels}
        start = names.index(together[0])
        keys = [*names[:start], together, *names[start + len(together) :]]
        sizes = [WINDOW * self.hidden_channels * (len(together) if key == together else 1) for key in keys]
        return dict(zip(keys, paddle.split(channels, sizes, axis=1)))

    def _in_order(self, name: str, values: paddle.Tensor) -> paddle.Tensor:
        """A kernel, gain or shift of W_h, W_x or W_m with its gates in the order of :class:`GateOrder`."""
        names, wanted = reference.GATES[name], getattr(self.order, name)
        if names == wanted:
            return values
        gates = dict(zip(names, paddle.split(values, len(names))))
        return paddle.concat([gates[gate] for gate in wanted])

    def _shift(self, name: str, values: paddle.Tensor) -> paddle.Tensor:
        """A shift or bias in order, with what the equations add to the gates: once for all the steps."""
        values, names = self._in_order(name, values), getattr(self.order, name)
        own = [gate for gate in names if name == "x" or gate not in self.order.x]
        if not {"o", *reference.GATE_CONSTANTS} & set(own):
            return values
        zero = paddle.zeros([self.hidden_channels])
        added = {gate: zero + number for gate, number in reference.GATE_CONSTANTS.items()}
        added["o"] = self.conv_co.bias + self.conv_mo.bias
        return values + paddle.concat([added.get(gate, zero) if gate in own else zero for gate in names])
