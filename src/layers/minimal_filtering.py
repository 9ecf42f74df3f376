"""A large window convolution on a CPU in half the time: Winograd's minimal filtering along the rows of the image.

S. Winograd, "Arithmetic Complexity of Computations", 1980; A. Lavin and S. Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016: m neighbouring results y of a filter g of k numbers over n = m+k-1 pixels d are

    y = A^T [(G g) . (B^T d)]

with n multiplications in place of m*k, where k = 5 with 8 for 20. Over channels and rows of the filter the products are
summed as usual, which is a convolution with kernel (k, 1) for each of the n.
"""

from __future__ import annotations

import functools

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

# Where the polynomials of the filtering are evaluated, besides infinity. Small numbers and few of them keep the
# rounding small: for k = 5 it is 1e-6 of the result, that of a plain sum 2.5e-7.
POINTS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
TILE = {3: 4, 5: 4, 7: 2}  # m for each k


def filters(weight: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """G g of each row g of a weight ``[O, C, 2, k, k]``: ``[n*O, 2C, k, 1]``, and of k0 alone ``[n*O, C, k, 1]``."""
    outputs, channels, _, size, _ = weight.shape
    transform = paddle.to_tensor(_matrices(size)[1])  # G
    both = paddle.matmul(transform, weight.reshape([-1, size]), transpose_y=True)
    both = both.reshape([-1, channels, 2, size, 1])  # (n*O, C, 2, k, 1)
    return both.reshape([-1, 2 * channels, size, 1]), paddle.unbind(both, axis=2)[0]


def filtered(x: paddle.Tensor, both: paddle.Tensor, k0: paddle.Tensor) -> paddle.Tensor:
    """Windows ``[B, 2C, H, W]`` convolved with :func:`filters` -> ``[B, 2O, H, W]``."""
    batch, channels, rows, columns = x.shape
    size = both.shape[2]
    results, points = _matrices(size)[0], _tiles(size, columns)  # (n, m), (n, W, tiles)
    n, m = results.shape
    padding = [size // 2, 0]
    tiles = paddle.matmul(x.reshape([batch, 1, -1, columns]), paddle.to_tensor(points))  # (B, n, 2C*H, tiles)
    second = paddle.unbind(tiles.reshape([batch, n * channels // 2, 2, rows, -1]), axis=2)[1]
    y0 = F.conv2d(tiles.reshape([batch, n * channels, rows, -1]), both, padding=padding, groups=n)  # (B, n*O, H, tiles)
    y1 = F.conv2d(second, k0, padding=padding, groups=n)
    y = _Times.apply(paddle.stack([y0, y1], axis=2).reshape([batch, n, -1]), paddle.to_tensor(results))
    y = y.reshape([batch, -1, rows, points.shape[2] * m])  # (B, 2O, H, tiles*m)
    return y[..., :columns] if y.shape[3] > columns else y


class _Times(PyLayer):
    """x ``[B, n, P]`` times a constant ``[n, m]`` -> ``[B, P, m]``; unlike matmul it keeps no x."""

    @staticmethod
    def forward(ctx, x, constant):
        ctx.matrix = constant
        return paddle.matmul(x, constant, transpose_x=True)

    @staticmethod
    def backward(ctx, gradient):
        return paddle.matmul(ctx.matrix, gradient, transpose_y=True), None


@functools.cache
def _matrices(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ``[n, m]``, G ``[n, k]`` and B^T ``[n, n]`` for filters of ``size`` numbers.

    They follow from the Toom-Cook product of two polynomials, which evaluates both at n-1 points and infinity,
    multiplies, and interpolates (Lagrange). Filtering is its transpose, in which the interpolation, split into its
    denominators (here in G) and numerators (B), is done on the pixels.
    """
    m = TILE[size]
    points = np.array(POINTS[: m + size - 2])
    a, g, b = np.zeros([len(points) + 1, m]), np.zeros([len(points) + 1, size]), np.eye(len(points) + 1)
    for row, point in enumerate(points):
        others = np.delete(points, row)
        a[row] = point ** np.arange(m)
        g[row] = point ** np.arange(size) / np.prod(point - others)
        b[row, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1.0  # at infinity only the highest power counts
    b[-1] = np.poly(points)[::-1]
    return a.astype("float32"), g.astype("float32"), b.astype("float32")


@functools.cache
def _tiles(size: int, columns: int) -> np.ndarray:
    """B^T for every tile of a row ``[n, W, tiles]``, its pixels outside of the image left out: they are zero."""
    b, m = _matrices(size)[2], TILE[size]
    starts = range(-(size // 2), columns - size // 2, m)
    matrix = np.zeros([len(b), columns, len(starts)], "float32")
    for tile, start in enumerate(starts):
        inside = slice(max(start, 0), min(start + len(b), columns))
        matrix[:, inside, tile] = b[:, inside.start - start : inside.stop - start]
    return matrix
