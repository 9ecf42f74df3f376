"""The window convolution for CPUs: matrix products after Winograd's minimal filtering along the rows of the image.

S. Winograd, "Arithmetic Complexity of Computations", 1980; A. Lavin and S. Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016: m neighbouring results y of a filter g of k numbers over m+k-1 pixels d are

    y = A^T [(G g) . (B^T d)]

with m+k-1 multiplications in place of m*k, where k = 5 with 8 for 20. Over channels and rows of the filter the products
are summed as usual, so for each of the m+k-1 there is one matrix product. Against plain matrix products a step of 30
frames takes 0.71 of the time (benchmarks/README.md).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

# Where the polynomials of the filtering are evaluated, besides infinity. Small numbers and few of them keep the
# rounding small: for k = 5 it is 1e-6 of the result, that of a plain sum 2.5e-7.
POINTS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
TILE = {3: 4, 5: 4, 7: 2}  # m for each k. Other filters are multiplied plainly: m = 1


def transformed_kernel(kernel: paddle.Tensor) -> paddle.Tensor:
    """G g of each row g of a kernel's slice ``[O, C, k, k]``: ``[m+k-1, O, C*k]``."""
    outputs, channels, size, _ = kernel.shape
    filters = _toom_cook(size, kernel.dtype).filters
    transformed = paddle.matmul(filters, kernel.reshape([-1, size]), transpose_y=True)
    return transformed.reshape([-1, outputs, channels * size])


class WinogradWindowConv(PyLayer):
    """Windows ``[B, 2C, H, W]`` convolved with the slices of a kernel -> ``[B, 2O, H, W]``, for CPUs.

    k0 and k1 are those of :func:`transformed_kernel`. Nothing is kept for the backward pass but the window.
    """

    @staticmethod
    def forward(ctx, x, k0, k1):
        ctx.constant = x.stop_gradient, k0.stop_gradient, k1.stop_gradient
        ctx.save_for_backward(x, k0, k1)
        tiles = _Tiles(x, k0)
        first, second = tiles.of_pixels(x)
        products = [paddle.matmul(k0, first).add_(paddle.matmul(k1, second)), paddle.matmul(k0, second)]
        return tiles.results(products)

    @staticmethod
    def backward(ctx, gradient):
        x, k0, k1 = ctx.saved_tensor()
        x_constant, k0_constant, k1_constant = ctx.constant
        tiles = _Tiles(x, k0)
        of_first, of_second = tiles.gradients_of_products(gradient)
        x_gradient = k0_gradient = k1_gradient = None
        if not (k0_constant and k1_constant):
            first, second = tiles.of_pixels(x)  # again: kept, they would be 10 times the memory of x
            k0_gradient = _sum_of_products((of_first, first), (of_second, second))
            k1_gradient = _sum_of_products((of_first, second))
        if not x_constant:
            second = paddle.matmul(k0, of_second, transpose_x=True).add_(paddle.matmul(k1, of_first, transpose_x=True))
            x_gradient = tiles.gradient_of_pixels([paddle.matmul(k0, of_first, transpose_x=True), second])
        return x_gradient, k0_gradient, k1_gradient


class _Tiles:
    """What stands before and after the matrix products, for one window and one weight, and the gradients of both.

    A row of W pixels is cut into tiles with m results each; n = m+k-1 is the number of matrix products.
    """

    def __init__(self, x: paddle.Tensor, k0: paddle.Tensor) -> None:
        self.batch, window_channels, self.rows, self.columns = x.shape
        self.channels = window_channels // 2
        self.products, self.outputs, depth = k0.shape
        self.kernel = depth // self.channels
        self.results_in_tile = self.products + 1 - self.kernel  # m
        self.tiles = -(-self.columns // self.results_in_tile)
        self.from_pixels = _pixels_to_tiles(self.kernel, self.columns, x.dtype)  # B^T at each tile: (n, W, tiles)
        self.to_results = _toom_cook(self.kernel, x.dtype).results  # A: (n, m)

    def of_pixels(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Each slice of the window, for the k rows under the filter: ``[B, n, C*k, H*tiles]``."""
        columns = []
        for part in self._slices(x):
            tiles = paddle.matmul(part.reshape([self.batch, 1, -1, self.columns]), self.from_pixels)  # (B,n,C*H,tiles)
            tiles = tiles.reshape([-1, self.channels, self.rows, self.tiles])
            under_filter = F.unfold(tiles, [self.kernel, 1], paddings=[self.kernel // 2, 0])
            columns.append(under_filter.reshape([self.batch, self.products, -1, self.rows * self.tiles]))
        return columns

    def gradient_of_pixels(self, columns: list[paddle.Tensor]) -> paddle.Tensor:
        """The gradient of the windows ``[B, 2C, H, W]``, given those of what :meth:`of_pixels` made of it."""
        ones = paddle.ones([1, self.products], columns[0].dtype)
        slices = []
        for part in columns:
            tiles = self._fold(part.flatten(0, 1))
            tiles = tiles.reshape([self.batch, self.products, -1, self.tiles])  # (B, n, C*H, tiles)
            pixels = paddle.matmul(tiles, self.from_pixels, transpose_y=True).flatten(2)  # (B, n, C*H*W)
            pixels = paddle.matmul(ones, pixels)  # the sum over n, in a fifth of the time of Paddle's sum
            slices.append(pixels.reshape([self.batch, self.channels, self.rows, self.columns]))
        return self._window(slices)

    def _fold(self, columns: paddle.Tensor) -> paddle.Tensor:
        """The sums ``[B*n, C, H, tiles]`` of what F.unfold would take from the same place."""
        kernel, padding = [self.kernel, 1], [self.kernel // 2, 0]
        beyond = max(2 - self.rows, 0), max(2 - self.tiles, 0)
        if not any(beyond):
            return F.fold(columns, [self.rows, self.tiles], kernel, paddings=padding)
        # Paddle 2.6 folds nothing into a single row or column.
        columns = columns.reshape([0, 0, self.rows, self.tiles])
        columns = F.pad(columns, [0, beyond[1], 0, beyond[0]])
        tiles = F.fold(columns.flatten(2), list(columns.shape[2:]), kernel, paddings=padding)
        return tiles[:, :, : self.rows, : self.tiles]

    def results(self, products: list[paddle.Tensor]) -> paddle.Tensor:
        """The convolution ``[B, 2O, H, W]``, given the products ``[B, n, O, H*tiles]`` of each slice."""
        slices = []
        for product in products:
            tiles = paddle.matmul(product.flatten(2), self.to_results, transpose_x=True)  # (B, O*H*tiles, m)
            rows = tiles.reshape([self.batch, self.outputs, self.rows, self.tiles * self.results_in_tile])
            slices.append(rows[..., : self.columns] if rows.shape[3] > self.columns else rows)
        return self._window(slices)

    def _slices(self, windows: paddle.Tensor) -> list[paddle.Tensor]:
        """The two frames of windows ``[B, 2C, H, W]``: ``[B, C, H, W]`` each."""
        return paddle.unbind(windows.reshape([self.batch, -1, 2, *windows.shape[2:]]), axis=2)

    def _window(self, slices: list[paddle.Tensor]) -> paddle.Tensor:
        """The inverse of it."""
        return paddle.stack(slices, axis=2).reshape([self.batch, -1, self.rows, self.columns])

    def gradients_of_products(self, gradient: paddle.Tensor) -> list[paddle.Tensor]:
        """Those of what :meth:`results` was given, given that of what it made."""
        beyond = self.tiles * self.results_in_tile - self.columns
        if beyond:
            gradient = F.pad(gradient, [0, beyond, 0, 0])
        products = []
        for part in self._slices(gradient):
            tiles = part.reshape([self.batch, -1, self.results_in_tile])  # (B, O*H*tiles, m)
            product = paddle.matmul(self.to_results, tiles, transpose_y=True)  # (B, n, O*H*tiles)
            products.append(product.reshape([self.batch, self.products, self.outputs, -1]))
        return products


def _sum_of_products(*pairs: tuple[paddle.Tensor, paddle.Tensor]) -> paddle.Tensor:
    """gradients @ columns^T, summed over the clips. One by one: Paddle's sum over the clips of a batched product
    took 0.9 s of the 20 of a step of 30 frames."""
    products = ((gradients[clip], columns[clip]) for gradients, columns in pairs for clip in range(gradients.shape[0]))
    total = paddle.matmul(*next(products), transpose_y=True)
    for gradients, columns in products:
        total = total.add_(paddle.matmul(gradients, columns, transpose_y=True))
    return total


class _Filtering(NamedTuple):
    """The three matrices of y = A^T [(G g) . (B^T d)], for n = m+k-1 multiplications."""

    results: paddle.Tensor  # A: (n, m)
    filters: paddle.Tensor  # G: (n, k)
    pixels: paddle.Tensor  # B^T: (n, n)


@functools.cache  # with dozens of small windows, to make the tensors anew is a tenth of a step
def _toom_cook(kernel: int, dtype: paddle.dtype) -> _Filtering:
    """Minimal filtering with a filter of ``kernel`` numbers, from the Toom-Cook product of two polynomials.

    That evaluates both at n-1 points and infinity, multiplies, and interpolates (Lagrange); filtering is its transpose,
    in which the interpolation, split into its denominators (here in G) and numerators (B), is done on the pixels.
    """
    results = TILE.get(kernel, 1)
    if results == 1:
        one_each = np.ones([kernel, 1]), np.eye(kernel), np.eye(kernel)
        return _Filtering(*(_tensor(matrix, dtype) for matrix in one_each))
    points = np.array(POINTS[: results + kernel - 2])
    a, g, b = np.zeros([len(points) + 1, results]), np.zeros([len(points) + 1, kernel]), np.eye(len(points) + 1)
    for row, point in enumerate(points):
        others = np.delete(points, row)
        a[row] = point ** np.arange(results)
        g[row] = point ** np.arange(kernel) / np.prod(point - others)
        b[row, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1.0  # at infinity only the highest power counts
    b[-1] = np.poly(points)[::-1]
    return _Filtering(*(_tensor(matrix, dtype) for matrix in (a, g, b)))


@functools.cache
def _pixels_to_tiles(kernel: int, columns: int, dtype: paddle.dtype) -> paddle.Tensor:
    """B^T for every tile of a row ``[n, W, tiles]``, its pixels outside of the image left out: they are zero."""
    b = _toom_cook(kernel, dtype).pixels.numpy()
    number = len(b)
    results = number + 1 - kernel
    starts = range(-(kernel // 2), columns - kernel // 2, results)
    matrix = np.zeros([number, columns, len(starts)])
    for tile, start in enumerate(starts):
        inside = slice(max(start, 0), min(start + number, columns))
        matrix[:, inside, tile] = b[:, inside.start - start : inside.stop - start]
    return _tensor(matrix, dtype)


def _tensor(matrix: np.ndarray, dtype: paddle.dtype) -> paddle.Tensor:
    return paddle.to_tensor(matrix, dtype=dtype, place=paddle.CPUPlace())
