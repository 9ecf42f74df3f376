"""3-D convolutions over a window of two frames, as 2-D convolutions that do not multiply the padding."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

WINDOW = 2  # frames in a window: the depth of every 3-D convolution here


class WindowConv(nn.Conv3D):
    """A 3-D convolution with kernel (2, k, k), ``[B, C, 2, H, W]`` -> ``[B, O, 2, H, W]``.

    "SAME" with an even depth puts the one zero slice AFTER the window, as in the official code:
    out[0] = k0*x[0] + k1*x[1], out[1] = k0*x[1]. These three are computed; conv3d also multiplies the zero slice.

    Parameters:
        in_channels (int): C.
        out_channels (int): O.
        filter_size (int): k, rows and columns of the kernel; odd.
        bias (bool): whether a bias is added.

    Its parameters are those of a Conv3D, ``weight`` ``[O, C, 2, k, k]``; :meth:`pieces` makes of them what
    :meth:`forward` needs, once for all the steps of a forward pass: slices of a weight are copied at every use, and
    their gradient fills a whole zero weight each time.
    """

    def __init__(self, in_channels: int, out_channels: int, filter_size: int, bias: bool = True) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=(WINDOW, filter_size, filter_size),
            weight_attr=nn.initializer.XavierUniform(),
            bias_attr=None if bias else False,
        )

    def pieces(self) -> paddle.Tensor:
        """k0 above k1: ``[2*O, C, k, k]``."""
        return paddle.concat(paddle.unbind(self.weight, axis=2), axis=0)

    def forward(self, x: paddle.Tensor, pieces: paddle.Tensor) -> paddle.Tensor:
        """Convolve a window, given :meth:`pieces`."""
        out = window_conv(x, pieces)
        return out if self.bias is None else out + self.bias.reshape([1, -1, 1, 1, 1])


def window_conv(x: paddle.Tensor, pieces: paddle.Tensor) -> paddle.Tensor:
    """The window ``[B, C, 2, H, W]`` convolved with k0 above k1, ``[2*O, C, k, k]`` -> ``[B, O, 2, H, W]``."""
    if _on_cpu(x):
        return _MatmulWindowConv.apply(x, pieces)
    first, second = paddle.unbind(x, axis=2)
    k0, k1 = paddle.split(pieces, 2, axis=0)
    padding = pieces.shape[-1] // 2
    by_k0, by_k1 = paddle.split(F.conv2d(second, pieces, padding=padding), 2, axis=1)
    return paddle.stack([F.conv2d(first, k0, padding=padding) + by_k1, by_k0], axis=2)


class _MatmulWindowConv(PyLayer):
    """window_conv for CPUs, as unfold and matrix products with nothing kept for the backward pass but the window."""

    @staticmethod
    def forward(ctx, x, pieces):
        ctx.constant = x.stop_gradient, pieces.stop_gradient
        ctx.save_for_backward(x, pieces)
        outputs, kernel = pieces.shape[0] // 2, pieces.shape[-1]
        weights = pieces.flatten(1)  # (2*O, C*k*k)
        first, second = _columns(x, kernel)  # (B, C*k*k, H*W) each
        by_both = paddle.matmul(weights, second)
        out = [paddle.matmul(weights[:outputs], first) + by_both[:, outputs:], by_both[:, :outputs]]
        return paddle.stack(out, axis=2).reshape([x.shape[0], outputs, *x.shape[2:]])

    @staticmethod
    def backward(ctx, gradient):
        x, pieces = ctx.saved_tensor()
        outputs, kernel = pieces.shape[0] // 2, pieces.shape[-1]
        weights = pieces.flatten(1)
        of_first, of_second = paddle.unbind(gradient.flatten(3), axis=2)  # (B, O, H*W) each
        of_both = paddle.concat([of_second, of_first], axis=1)  # what k0 and k1 made of the second slice
        x_gradient = pieces_gradient = None
        x_constant, pieces_constant = ctx.constant
        if not pieces_constant:
            first, second = _columns(x, kernel)  # again: kept, they would be k*k times the memory of x
            by_first, by_second = _sum_of_products(of_first, first), _sum_of_products(of_both, second)
            pieces_gradient = paddle.concat([by_second[:outputs] + by_first, by_second[outputs:]])
            pieces_gradient = pieces_gradient.reshape(pieces.shape)
        if not x_constant:
            columns = [
                paddle.matmul(weights[:outputs], of_first, transpose_x=True),
                paddle.matmul(weights, of_both, transpose_x=True),
            ]
            slices = [F.fold(part, x.shape[3:], kernel, paddings=kernel // 2) for part in columns]
            x_gradient = paddle.stack(slices, axis=2)
        return x_gradient, pieces_gradient


def _sum_of_products(gradients: paddle.Tensor, columns: paddle.Tensor) -> paddle.Tensor:
    """gradients @ columns^T, summed over the clips. One by one: Paddle's sum over the clips of a batched product
    took 0.9 s of the 20 of a step of 30 frames."""
    total = paddle.matmul(gradients[0], columns[0], transpose_y=True)
    for clip in range(1, gradients.shape[0]):
        total = total.add_(paddle.matmul(gradients[clip], columns[clip], transpose_y=True))
    return total


def _on_cpu(x: paddle.Tensor) -> bool:
    return x.place.is_cpu_place()


def _columns(x: paddle.Tensor, kernel: int) -> list[paddle.Tensor]:
    """Of each slice of the window the pixels under the kernel at every position, ``[B, C*k*k, H*W]``."""
    return [F.unfold(part, kernel, paddings=kernel // 2) for part in paddle.unbind(x, axis=2)]
