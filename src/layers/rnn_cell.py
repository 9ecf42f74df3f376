"""The eidetic 3D LSTM cell (Wang et al., "Eidetic 3D LSTM: A Model for Video Prediction and Beyond", ICLR 2019).

One file for one set of equations. Symbols: x input window, h hidden, c cell, m global memory, K history of the layer's
cells, N layer norm, * a 3-D convolution, . an element-wise product. A prime marks a new state; x-parts with a prime
belong to the global memory.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from src.layers.recall import History, recall
from src.layers.window_conv import WINDOW, Kernel, both_frames, conv3d, window_conv, window_kernel

# The gates of the convolutions as their parameters hold them, which is the official code's order, and in the order in
# which the sums are taken: what goes through one sigmoid stands together. Capitals are the gates of the memory: I is
# i'_x or i_m. M is m_m.
GATES = {"h": "igro", "x": "igroIGF", "m": "IFGM"}
ORDER = {"h": "ogri", "x": "ogriIFG", "m": "IFGM"}


def layer_norm(
    x: paddle.Tensor, gain: paddle.Tensor, shift: paddle.Tensor, epsilon: float, parts: int = 1
) -> paddle.Tensor:
    """N(x) = gain * (x - mean) / sqrt(variance + epsilon) + shift, over all axes but the batch: a group norm with one
    group, for which Paddle has a fused kernel. Nothing in it depends on the image size.

    With a small epsilon the norm blows the small numbers of an untrained network (0.05 to 0.3) up to a variance of 1.
    The gates are half saturated then, and the network learns slowly. With epsilon = 1 it leaves what is smaller than 1
    nearly as it is and still bounds what is larger (docs/recipe.md).

    Args:
        x: ``[B, channels, H, W]``.
        gain, shift: ``[channels]``.
        parts: equal parts of the channels, each with a norm of its own.
    """
    if hasattr(F, "group_norm"):
        return F.group_norm(x, parts, epsilon, gain, shift)
    return paddle._C_ops.group_norm(x, gain, shift, epsilon, parts, "NCHW")  # Paddle 2.6 has only the layer


class EideticLSTMCell(nn.Layer):
    r"""One step of one layer of the E3D-LSTM.

    .. math::
        i_h, g_h, r_h, o_h &= \mathrm{split}(N(W_h * h)) \\
        i_x, g_x, r_x, o_x, i'_x, g'_x, f'_x &= \mathrm{split}(N(W_x * x)) \\
        i = \sigma(i_x + i_h), \quad r &= \sigma(r_x + r_h), \quad g = \tanh(g_x + g_h) \\
        c' &= N(c + \mathrm{RECALL}(r, K)) + i \cdot g \\
        i_m, f_m, g_m, m_m &= \mathrm{split}(N(W_m * m)) \\
        m' &= \sigma(f'_x + f_m + 1) \cdot \tanh(m_m) + \sigma(i'_x + i_m) \cdot \tanh(g'_x + g_m) \\
        o &= \tanh(o_x + o_h + W_{co} * c' + W_{mo} * m' + b) \\
        h' &= \tanh(W_{1 \times 1 \times 1} [c', m'] + b) \cdot \sigma(o)

    The tanh inside the sigmoid of the output gate is the official code's; the paper writes one sigmoid. The new memory
    m' is returned (the official TensorFlow code returns the old one by mistake).

    Parameters:
        in_channels (int): channels of the window x.
        hidden_channels (int): n, channels of h, c and m.
        filter_size (int): k, rows and columns of the kernels (2, k, k); odd.
        layer_norm (bool): False leaves out the norms after W_h, W_x and W_m, and gives these convolutions a bias. The
            norm of c' stays, as in the official code.
        norm_epsilon (float): epsilon of the norms.

    Inputs:
        - x ``[B, 2*in_channels, H, W]``: window of the layer below (or of two frames); the layout is that of
          window_conv.py, here and below.
        - h, c ``[B, 2n, H, W]``: hidden and cell of this layer, step t-1.
        - m ``[B, 2n, H, W]``: memory of the layer below at step t; for layer 0 that of the last layer at step t-1.
          h and m may be None for zeros, as at the first step; nothing is multiplied then.
        - history (History): this layer's cells of the steps before.
        - weights: of :meth:`prepared_weights`, where many steps share them; made anew where it is None.

    Returns:
        h', c', m', each ``[B, 2n, H, W]``.

    Examples:
        .. code-block:: python

            import paddle
            from src.layers.rnn_cell import EideticLSTMCell, History
            cell = EideticLSTMCell(in_channels=16, hidden_channels=8, filter_size=3)
            x = paddle.randn([2, 2 * 16, 6, 6])
            state = paddle.zeros([2, 2 * 8, 6, 6])
            h, c, m = cell(x, state, state, state, history=History(zeros=2 * 6 * 6))
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        filter_size: int,
        layer_norm: bool = True,
        norm_epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        n = hidden_channels
        self.in_channels, self.hidden_channels, self.filter_size = in_channels, hidden_channels, filter_size
        self.layer_norm, self.norm_epsilon = layer_norm, norm_epsilon
        size = WINDOW, filter_size, filter_size

        # No bias before a norm: at step 0 the states are zero, a bias would be all the norm sees, and its first
        # gradient is 1e4 to 1e5 times that of the rest (measured: global norm 2.6e8 against 5e3 without): one step of
        # SGD ruins the weights. The norm's shift does the bias's work.
        for name, channels, outputs in (("h", n, 4 * n), ("x", in_channels, 7 * n), ("m", n, 4 * n)):
            setattr(self, f"conv_{name}", conv3d(channels, outputs, size, bias=not layer_norm))
            setattr(self, f"norm_{name}", nn.GroupNorm(1, outputs, norm_epsilon) if layer_norm else nn.Identity())
        self.norm_c = nn.GroupNorm(1, n, norm_epsilon)
        self.conv_co = conv3d(n, n, size)
        self.conv_mo = conv3d(n, n, size)
        self.conv_cm = conv3d(2 * n, n, (1, 1, 1))  # W_1x1x1

    def prepared_weights(self, batch: int, rows: int, columns: int) -> dict[str, Kernel]:
        """Kernels, gains, shifts and biases as the equations want them for states ``[B, 2n, H, W]``; the same for all
        the steps of a forward pass."""
        size = batch, rows, columns
        weights, gains, shifts = {}, {}, {}
        for name in "xhm":
            conv, norm = getattr(self, f"conv_{name}"), getattr(self, f"norm_{name}")
            weights[name] = window_kernel(_in_order(conv.weight, name), *size)
            gains[name] = _in_order(norm.weight, name) if self.layer_norm else None
            shifts[name] = _in_order(norm.bias if self.layer_norm else conv.bias, name)
        # What the equations add to o and f' is added here, once for all the steps. The 1 opens the forget gate at the
        # start of training.
        zero, one = paddle.zeros([self.hidden_channels]), paddle.ones([self.hidden_channels])
        added = {"o": self.conv_co.bias + self.conv_mo.bias, "F": one}
        shifts["x"] = shifts["x"] + paddle.concat([added.get(gate, zero) for gate in ORDER["x"]])
        as_used = both_frames if self.layer_norm else _per_channel
        for names in "x", "hm":  # each a norm of its own
            weights[f"shift_{names}"] = as_used(paddle.concat([shifts[name] for name in names]))
            if self.layer_norm:
                weights[f"gain_{names}"] = both_frames(paddle.concat([gains[name] for name in names]))
        weights["gain_c"], weights["shift_c"] = both_frames(self.norm_c.weight), both_frames(self.norm_c.bias)
        # W_co * c' + W_mo * m' is one convolution of [c', m'].
        weights["o"] = window_kernel(paddle.concat([self.conv_co.weight, self.conv_mo.weight], axis=1), *size)
        weights["cm"], weights["shift_cm"] = window_kernel(self.conv_cm.weight, *size), _per_channel(self.conv_cm.bias)
        return weights

    def forward(
        self,
        x: paddle.Tensor,
        h: paddle.Tensor | None,
        c: paddle.Tensor,
        m: paddle.Tensor | None,
        history: History,
        weights: dict[str, Kernel] | None = None,
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        w = weights or self.prepared_weights(x.shape[0], *x.shape[2:])
        channels = WINDOW * self.hidden_channels
        # Operators are the time of a small network or a GPU. So one of them norms W_h * h and W_m * m, each
        # by itself, one adds up all the gates, and one is the sigmoid of four of them.
        size = x.shape[0], 4 * channels, *x.shape[2:]
        if h is None and m is None:  # zeros: the shift is all that is left
            of_h_and_m = w["shift_hm"].reshape([1, -1, 1, 1]).expand([size[0], -1, *size[2:]])
        else:
            of_h = paddle.zeros(size) if h is None else window_conv(h, w["h"])
            of_m = paddle.zeros(size) if m is None else window_conv(m, w["m"])
            of_h_and_m = self._norm("hm", paddle.concat([of_h, of_m], axis=1), w, parts=2)
        of_h_and_m, m_m = paddle.split(of_h_and_m, [7 * channels, channels], axis=1)
        gates = self._norm("x", window_conv(x, w["x"]), w) + of_h_and_m
        o, g, sigmoids, g_m = paddle.split(gates, [channels, channels, 4 * channels, channels], axis=1)
        r, i, i_m, f_m = paddle.split(F.sigmoid(sigmoids), 4, axis=1)  # r in (0, 1): recall relies on it

        c = layer_norm(c + recall(r, history), w["gain_c"], w["shift_c"], self.norm_epsilon) + i * F.tanh(g)
        m = f_m * F.tanh(m_m) + i_m * F.tanh(g_m)

        cm = paddle.concat([c, m], axis=1)
        o = F.tanh(o + window_conv(cm, w["o"]))
        h = F.tanh(window_conv(cm, w["cm"]) + w["shift_cm"]) * F.sigmoid(o)
        return h, c, m

    def _norm(self, names: str, convolved: paddle.Tensor, w: dict[str, Kernel], parts: int = 1) -> paddle.Tensor:
        """N(convolved); without norms convolved + bias. The gates stand in the order of ORDER."""
        if self.layer_norm:
            return layer_norm(convolved, w[f"gain_{names}"], w[f"shift_{names}"], self.norm_epsilon, parts)
        return convolved + w[f"shift_{names}"]

    def extra_repr(self) -> str:
        return f"in={self.in_channels}, hidden={self.hidden_channels}, filter_size={self.filter_size}"


def _per_channel(bias: paddle.Tensor) -> paddle.Tensor:
    """A bias ``[n]`` as it is added to windows: ``[1, 2n, 1, 1]``."""
    return both_frames(bias).reshape([1, -1, 1, 1])


def _in_order(values: paddle.Tensor, name: str) -> paddle.Tensor:
    """The gates of W_h, W_x or W_m (of its kernel, gain or shift) in the order of ORDER."""
    if ORDER[name] == GATES[name]:
        return values
    gates = dict(zip(GATES[name], paddle.split(values, len(GATES[name]))))
    return paddle.concat([gates[gate] for gate in ORDER[name]])
