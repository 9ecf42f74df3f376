"""The eidetic 3D LSTM cell (Wang et al., "Eidetic 3D LSTM: A Model for Video Prediction and Beyond", ICLR 2019).

One file for one set of equations. Symbols: x input window, h hidden, c cell, m global memory, K history of the layer's
cells, N layer norm, * a 3-D convolution, . an element-wise product. A prime marks a new state; x-parts with a prime
belong to the global memory.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from src.layers.precision import Conv3D
from src.layers.recall import History, recall
from src.layers.window_conv import WindowConv, split_kernel, window_conv


def layer_norm(channels: int, epsilon: float) -> nn.GroupNorm:
    """Layer norm over all axes but the batch, gain and shift per channel: a GroupNorm with one group.

    N(x) = gain * (x - mean) / sqrt(variance + epsilon) + shift. Nothing in it depends on the image size, and Paddle has
    one fused kernel for it.

    With a small epsilon the norm blows the small numbers of an untrained network (0.05 to 0.3) up to a variance of 1.
    The gates are half saturated then, and the network learns slowly. With epsilon = 1 it leaves what is smaller than 1
    nearly as it is and still bounds what is larger (docs/recipe.md).
    """
    return nn.GroupNorm(num_groups=1, num_channels=channels, epsilon=epsilon)


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
        - x ``[B, in_channels, 2, H, W]``: window of the layer below (or of two frames).
        - h, c ``[B, n, 2, H, W]``: hidden and cell of this layer, step t-1.
        - m ``[B, n, 2, H, W]``: memory of the layer below at step t; for layer 0 that of the last layer at step t-1.
        - history (History): this layer's cells of the steps before.
        - kernel_slices: of :meth:`kernel_slices`, where many steps share it; made anew where it is None.

    Returns:
        h', c', m', each ``[B, n, 2, H, W]``.

    Examples:
        .. code-block:: python

            import paddle
            from src.layers.rnn_cell import EideticLSTMCell, History
            cell = EideticLSTMCell(in_channels=16, hidden_channels=8, filter_size=3)
            x = paddle.randn([2, 16, 2, 6, 6])
            state = paddle.zeros([2, 8, 2, 6, 6])
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
        n, k = hidden_channels, filter_size
        self.in_channels, self.hidden_channels, self.filter_size = in_channels, hidden_channels, filter_size

        # No bias before a norm: at step 0 the states are zero, a bias would be all the norm sees, and its first
        # gradient is 1e4 to 1e5 times that of the rest (measured: global norm 2.6e8 against 5e3 without): one step of
        # SGD ruins the weights. The norm's shift does the bias's work.
        bias = not layer_norm
        self.conv_h, self.norm_h = WindowConv(n, 4 * n, k, bias), _norm(4 * n, layer_norm, norm_epsilon)
        self.conv_x, self.norm_x = WindowConv(in_channels, 7 * n, k, bias), _norm(7 * n, layer_norm, norm_epsilon)
        self.conv_m, self.norm_m = WindowConv(n, 4 * n, k, bias), _norm(4 * n, layer_norm, norm_epsilon)
        self.norm_c = _norm(n, True, norm_epsilon)
        self.conv_co = WindowConv(n, n, k)
        self.conv_mo = WindowConv(n, n, k)
        self.conv_cm = Conv3D(2 * n, n, kernel_size=1)  # W_1x1x1

    def kernel_slices(self) -> dict[str, paddle.Tensor]:
        """The kernels as the convolutions want them; the same for all the steps of a forward pass."""
        slices = {name: getattr(self, f"conv_{name}").kernel_slices() for name in ("h", "x", "m")}
        # W_co * c' + W_mo * m' is one convolution of [c', m'].
        slices["o"] = split_kernel(paddle.concat([self.conv_co.weight, self.conv_mo.weight], axis=1))
        slices["b"] = (self.conv_co.bias + self.conv_mo.bias).reshape([1, -1, 1, 1, 1])
        return slices

    def forward(
        self,
        x: paddle.Tensor,
        h: paddle.Tensor,
        c: paddle.Tensor,
        m: paddle.Tensor,
        history: History,
        kernel_slices: dict[str, paddle.Tensor] | None = None,
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        w = kernel_slices or self.kernel_slices()
        i_h, g_h, r_h, o_h = paddle.split(self.norm_h(self.conv_h(h, w["h"])), 4, axis=1)
        i_x, g_x, r_x, o_x, im_x, gm_x, fm_x = paddle.split(self.norm_x(self.conv_x(x, w["x"])), 7, axis=1)

        i = F.sigmoid(i_x + i_h)
        r = F.sigmoid(r_x + r_h)  # in (0, 1): recall relies on it
        g = F.tanh(g_x + g_h)
        c = self.norm_c(c + recall(r, history)) + i * g

        i_m, f_m, g_m, m_m = paddle.split(self.norm_m(self.conv_m(m, w["m"])), 4, axis=1)
        # The 1 opens the forget gate at the start of training.
        m = F.sigmoid(fm_x + f_m + 1.0) * F.tanh(m_m) + F.sigmoid(im_x + i_m) * F.tanh(gm_x + g_m)

        cm = paddle.concat([c, m], axis=1)
        o = F.tanh(o_x + o_h + window_conv(cm, w["o"]) + w["b"])
        h = F.tanh(self.conv_cm(cm)) * F.sigmoid(o)
        return h, c, m

    def extra_repr(self) -> str:
        return f"in={self.in_channels}, hidden={self.hidden_channels}, filter_size={self.filter_size}"


def _norm(channels: int, enabled: bool, epsilon: float) -> nn.Layer:
    return layer_norm(channels, epsilon) if enabled else nn.Identity()
