"""The cell of the eidetic 3D LSTM as its equations stand. Read this file first, and change it first.

Y. Wang et al., "Eidetic 3D LSTM: A Model for Video Prediction and Beyond", ICLR 2019. Symbols: x input window,
h hidden, c cell, m global memory, K history of the layer's cells, N layer norm, * a 3-D convolution, . an element-wise
product. A prime marks a new state. ``--model_name e3d_lstm_plain`` trains with this file. rnn_cell.py has the same
equations in fewer operators, and takes the parameters, the table of the gates and the score from here.
"""

from __future__ import annotations

from types import SimpleNamespace

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.nn.functional import sigmoid, tanh

WINDOW = 2  # frames in a window: the depth of every state

# The gates that each convolution makes, in the order of its output channels, which is the official code's. A gate of
# the global memory ends in _m; the equations write i', g' and f' for those that x has. The output channels of the
# convolutions follow from the table. So does the fast form, for which a gate is the sum of all that bear its name.
GATES = {
    "h": ("i", "g", "r", "o"),
    "x": ("i", "g", "r", "o", "i_m", "g_m", "f_m"),
    "m": ("i_m", "f_m", "g_m", "m_m"),
}
SIGMOID_GATES = ("i", "r", "i_m", "f_m")  # the fast form takes one sigmoid of them all
GATE_CONSTANTS = {"f_m": 1.0}  # the fast form adds it to the gate; here it stands in the equation


def conv3d(in_channels: int, out_channels: int, size: int, depth: int = WINDOW, bias: bool = True) -> nn.Conv3D:
    """A convolution with kernel (depth, size, size) and Glorot's initial values. "SAME" with an even depth puts the one
    zero slice AFTER the window, as in the official code: out[0] = k0*x[0] + k1*x[1], out[1] = k0*x[1]."""
    glorot = nn.initializer.XavierUniform()
    kernel = (depth, size, size)
    return nn.Conv3D(
        in_channels, out_channels, kernel, padding="SAME", weight_attr=glorot, bias_attr=None if bias else False
    )


class PlainEideticLSTMCell(nn.Layer):
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

    N takes mean and variance over all axes but the batch, gain and shift per channel: a group norm with one group. With
    a small epsilon it blows the small numbers of an untrained network (0.05 to 0.3) up to a variance of 1. The gates
    are half saturated then, and the network learns slowly. With epsilon = 1 it leaves what is smaller than 1 nearly as
    it is and still bounds what is larger (docs/recipe.md).

    Parameters:
        in_channels (int): channels of the window x.
        hidden_channels (int): n, channels of h, c and m.
        filter_size (int): k, rows and columns of the kernels (2, k, k); odd.
        layer_norm (bool): False leaves out the norms after W_h, W_x and W_m, and gives these convolutions a bias. The
            norm of c' stays, as in the official code.
        norm_epsilon (float): epsilon of the norms.

    Inputs:
        - x ``[B, in_channels, 2, H, W]``: window of the layer below, or of two frames.
        - h, c ``[B, n, 2, H, W]``: hidden and cell of this layer, step t-1.
        - m ``[B, n, 2, H, W]``: memory of the layer below at step t; for layer 0 that of the last layer at step t-1.
        - K ``[B, n, S]``: this layer's cells of the steps before, the oldest first, each with its P = 2*H*W positions
          in the order window, row, column.

    Returns:
        h', c', m', each ``[B, n, 2, H, W]``.

    Examples:
        .. code-block:: python

            import paddle
            from src.layers.reference import PlainEideticLSTMCell
            cell = PlainEideticLSTMCell(in_channels=16, hidden_channels=8, filter_size=3)
            x, state = paddle.randn([2, 16, 2, 6, 6]), paddle.zeros([2, 8, 2, 6, 6])
            h, c, m = cell(x, state, state, state, K=state.flatten(2))
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
        n, size, epsilon = hidden_channels, filter_size, float(norm_epsilon)
        self.in_channels, self.hidden_channels, self.filter_size = in_channels, hidden_channels, filter_size
        self.layer_norm, self.norm_epsilon = layer_norm, epsilon

        # No bias before a norm: at step 0 the states are zero, a bias would be all the norm sees, and its first
        # gradient is 1e4 to 1e5 times that of the rest (measured: global norm 2.6e8 against 5e3 without): one step of
        # SGD ruins the weights. The norm's shift does the bias's work.
        outputs = {name: len(gates) * n for name, gates in GATES.items()}
        self.conv_h = conv3d(n, outputs["h"], size, bias=not layer_norm)
        self.norm_h = nn.GroupNorm(1, outputs["h"], epsilon) if layer_norm else nn.Identity()
        self.conv_x = conv3d(in_channels, outputs["x"], size, bias=not layer_norm)
        self.norm_x = nn.GroupNorm(1, outputs["x"], epsilon) if layer_norm else nn.Identity()
        self.conv_m = conv3d(n, outputs["m"], size, bias=not layer_norm)
        self.norm_m = nn.GroupNorm(1, outputs["m"], epsilon) if layer_norm else nn.Identity()
        self.norm_c = nn.GroupNorm(1, n, epsilon)
        self.conv_co = conv3d(n, n, size)
        self.conv_mo = conv3d(n, n, size)
        self.conv_cm = conv3d(2 * n, n, 1, depth=1)  # W_1x1x1

    def forward(
        self, x: paddle.Tensor, h: paddle.Tensor, c: paddle.Tensor, m: paddle.Tensor, K: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        H = split("h", self.norm_h(self.conv_h(h)))  # i_h is H.i; each gate (B, n, 2, H, W)
        X = split("x", self.norm_x(self.conv_x(x)))
        M = split("m", self.norm_m(self.conv_m(m)))
        i = sigmoid(X.i + H.i)
        r = sigmoid(X.r + H.r)
        g = tanh(X.g + H.g)
        c = self.norm_c(c + self.recall(r, K)) + i * g
        m = sigmoid(X.f_m + M.f_m + 1) * tanh(M.m_m) + sigmoid(X.i_m + M.i_m) * tanh(X.g_m + M.g_m)
        o = tanh(X.o + H.o + self.conv_co(c) + self.conv_mo(m))
        h = tanh(self.conv_cm(paddle.concat([c, m], axis=1))) * sigmoid(o)
        return h, c, m

    def recall(self, r: paddle.Tensor, K: paddle.Tensor) -> paddle.Tensor:
        """RECALL(r, K) = softmax(r K^T) K (equation 3 of the paper): each position of r looks at every position of the
        history, with one softmax over space, window and time."""
        queries = r.flatten(2)  # (B, n, P)
        weights = F.softmax(self.score(queries, K, 0, queries.shape[2]), axis=-1)  # (B, P, S)
        return paddle.matmul(K, weights, transpose_y=True).reshape(r.shape)  # (B, n, 2, H, W)

    def score(self, queries: paddle.Tensor, keys: paddle.Tensor, first: int, positions: int) -> paddle.Tensor:
        """How well each query matches each key: r K^T, with no 1/sqrt(n). Both forms of the cell take it from here.

        Another score may use any operation that Paddle can differentiate, and any parameters of the cell. A score of
        minus infinity masks a key; each query needs at least one key that is not masked.

        Args:
            queries: positions of r ``[B, n, Q]``, ``first`` to ``first`` + Q - 1 of them all.
            keys: the whole history ``[B, n, S]``; :func:`steps_back` tells how old each key is.
            first: number of the first query.
            positions: P, positions of a step.

        Returns:
            ``[B, Q, S]``.
        """
        return paddle.matmul(queries, keys, transpose_x=True)

    def extra_repr(self) -> str:
        return f"in={self.in_channels}, hidden={self.hidden_channels}, filter_size={self.filter_size}"


def split(name: str, channels: paddle.Tensor) -> SimpleNamespace:
    """The gates of W_h, W_x or W_m by their names: ``[B, gates*n, 2, H, W]`` -> ``[B, n, 2, H, W]`` each."""
    return SimpleNamespace(**dict(zip(GATES[name], paddle.split(channels, len(GATES[name]), axis=1))))


def steps_back(keys: paddle.Tensor, positions: int) -> paddle.Tensor:
    """How many steps back each key is, 1 for the newest: int64 ``[S]``, for a score that depends on it."""
    number = keys.shape[2] if paddle.in_dynamic_mode() else paddle.shape(keys)[2]  # free in a static graph
    return 1 + paddle.arange(number - 1, -1, -1, dtype="int64") // positions
