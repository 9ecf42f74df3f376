"""The ConvLSTM cell (Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation
Nowcasting", NeurIPS 2015).

One file for one set of equations. Symbols: x input, h hidden, c cell, * a 2-D convolution, . an element-wise product. A
prime marks a new state.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from src.layers.precision import convolve


class ConvLSTMCell(nn.Layer):
    r"""One step of one layer of the ConvLSTM.

    .. math::
        i &= \sigma(W_{xi} * x + W_{hi} * h + w_{ci} \cdot c + b_i) \\
        f &= \sigma(W_{xf} * x + W_{hf} * h + w_{cf} \cdot c + b_f) \\
        c' &= f \cdot c + i \cdot \tanh(W_{xc} * x + W_{hc} * h + b_c) \\
        o &= \sigma(W_{xo} * x + W_{ho} * h + w_{co} \cdot c' + b_o) \\
        h' &= o \cdot \tanh(c')

    The paper's peepholes w_ci, w_cf and w_co are a number for each channel and position, which would tie the parameters
    to the size of the frames. Here they are one number a channel. They begin at 0, and b_f begins at 1: the forget gate
    is open at the start of training.

    Parameters:
        in_channels (int): channels of x.
        hidden_channels (int): n, channels of h and c.
        filter_size (int): k, rows and columns of the kernels; odd.

    Inputs:
        - x ``[B, in_channels, H, W]``: hidden state of the layer below, or a frame.
        - h, c ``[B, n, H, W]``: hidden and cell of this layer, step t-1.

    Returns:
        h', c', each ``[B, n, H, W]``.

    Examples:
        .. code-block:: python

            import paddle
            from src.layers.conv_lstm_cell import ConvLSTMCell
            cell = ConvLSTMCell(in_channels=16, hidden_channels=8, filter_size=3)
            state = paddle.zeros([2, 8, 6, 6])
            h, c = cell(paddle.randn([2, 16, 6, 6]), state, state)
    """

    def __init__(self, in_channels: int, hidden_channels: int, filter_size: int) -> None:
        super().__init__()
        n = hidden_channels
        self.in_channels, self.hidden_channels, self.filter_size = in_channels, hidden_channels, filter_size
        glorot, zero = nn.initializer.XavierUniform(), nn.initializer.Constant(0.0)
        # All eight kernels in one: [W_x, W_h] of i, f, c and o, one below the other.
        self.gates = nn.Conv2D(in_channels + n, 4 * n, filter_size, padding=filter_size // 2, weight_attr=glorot)
        self.gates.bias.set_value(paddle.concat([paddle.zeros([n]), paddle.ones([n]), paddle.zeros([2 * n])]))
        for gate in ("i", "f", "o"):
            setattr(self, f"peephole_{gate}", self.create_parameter([n], default_initializer=zero))

    def forward(self, x: paddle.Tensor, h: paddle.Tensor, c: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        weight, bias = self.gates.weight, _per_channel(self.gates.bias)
        xh = paddle.concat([x, h], axis=1)
        gates = convolve(xh, weight, padding=self.filter_size // 2) + bias  # (B, 4n, H, W)
        i, f, g, o = paddle.split(gates, 4, axis=1)
        i = F.sigmoid(i + _per_channel(self.peephole_i) * c)
        f = F.sigmoid(f + _per_channel(self.peephole_f) * c)
        c = f * c + i * F.tanh(g)
        o = F.sigmoid(o + _per_channel(self.peephole_o) * c)
        return o * F.tanh(c), c

    def extra_repr(self) -> str:
        return f"in={self.in_channels}, hidden={self.hidden_channels}, filter_size={self.filter_size}"


def _per_channel(values: paddle.Tensor) -> paddle.Tensor:
    """``[n]`` as it is added to states, or multiplied with them: ``[1, n, 1, 1]``."""
    return values.reshape([1, -1, 1, 1])
