"""3-D convolutions over a window of two frames, as 2-D convolutions.

A window ``[B, C, 2, H, W]`` is held as ``[B, 2C, H, W]``: channel 2*c + d is channel c of its frame d. So nothing is
reshaped between the operators.

A convolution has two forms. In the first, one conv2d takes the window; its kernel is block-triangular. It runs on a
GPU, in half precision, in exported programs, and on a CPU where little is to be multiplied: there the number of
operators is the time. In the second, large windows on a CPU become matrix products: see winograd.py.
"""

from __future__ import annotations

from typing import Union

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from src.layers.precision import convolve, on_cpu, precision_in_force
from src.layers.winograd import WinogradWindowConv, transformed_kernel

WINDOW = 2  # frames in a window: the depth of every 3-D convolution here

# Where minimal filtering begins to win on a CPU: from this many multiplications of the block kernel on, and from two
# tiles in a row on (benchmarks/README.md). Both forms agree to 1e-5.
FILTERING_FROM = 3e7
FILTERING_COLUMNS = 8

Kernel = Union[paddle.Tensor, tuple[paddle.Tensor, paddle.Tensor]]  # of :func:`window_kernel`


def conv3d(in_channels: int, out_channels: int, kernel_size: tuple[int, int, int], bias: bool = True) -> nn.Conv3D:
    """The parameters of a 3-D convolution: ``weight`` ``[O, C, frames, rows, columns]``, Glorot's initial values, and
    ``bias`` ``[O]``. They are used through :func:`window_kernel`."""
    glorot = nn.initializer.XavierUniform()
    return nn.Conv3D(in_channels, out_channels, kernel_size, weight_attr=glorot, bias_attr=None if bias else False)


def window_kernel(weight: paddle.Tensor, batch: int, rows: int, columns: int) -> Kernel:
    """The kernel of a convolution over windows ``[B, 2C, H, W]``, in the form that is fastest for them.

    "SAME" with an even depth puts the one zero slice AFTER the window, as in the official code:
    out[0] = k0*x[0] + k1*x[1], out[1] = k0*x[1].

    Args:
        weight: of a 3-D convolution with kernel (2, k, k), k odd: ``[O, C, 2, k, k]``, k0 and k1 along its third axis;
            or with kernel (1, k, k), where k1 is zero.
        batch, rows, columns: B, H and W.

    Returns:
        for minimal filtering G g of each row g of k0 and of k1, ``[m+k-1, O, C*k]`` each; else the block kernel
        ``[2O, 2C, k, k]``: [[k0, k1], [0, k0]] for each pair of an output and an input channel.
    """
    if weight.shape[2] == 1:
        weight = paddle.concat([weight, paddle.zeros_like(weight)], axis=2)
    outputs, channels, _, size, _ = weight.shape
    if _by_filtering(weight, 4 * batch * rows * columns * outputs * channels * size**2, columns):
        k0, k1 = paddle.unbind(weight, axis=2)
        return transformed_kernel(k0), transformed_kernel(k1)
    # A static graph can hold no PyLayer, and an exported program needs no gradient.
    return _BlockKernel.apply(weight) if paddle.in_dynamic_mode() else _block_kernel(weight)


def window_conv(x: paddle.Tensor, kernel: Kernel) -> paddle.Tensor:
    """Windows ``[B, 2C, H, W]`` convolved with a :func:`window_kernel` -> ``[B, 2O, H, W]``."""
    if isinstance(kernel, tuple):
        return WinogradWindowConv.apply(x, *kernel)
    return convolve(x, kernel, padding=kernel.shape[-1] // 2)


def both_frames(values: paddle.Tensor) -> paddle.Tensor:
    """Numbers of each channel ``[n]`` as numbers of each channel of a window ``[2n]``."""
    return values.reshape([-1, 1]).tile([1, WINDOW]).flatten()


def _by_filtering(weight: paddle.Tensor, multiplications: int, columns: int) -> bool:
    # In half precision a CPU follows the GPU, whose roundings it is there to show.
    if not on_cpu(weight) or precision_in_force() != "fp32" or weight.shape[-1] == 1:
        return False
    return multiplications >= FILTERING_FROM and columns >= FILTERING_COLUMNS


class _BlockKernel(PyLayer):
    """:func:`_block_kernel` with a gradient that takes a quarter of the time of Paddle's on a CPU."""

    @staticmethod
    def forward(ctx, weight):
        ctx.shape = weight.shape
        return _block_kernel(weight)

    @staticmethod
    def backward(ctx, gradient):
        outputs, channels, _, size, _ = ctx.shape
        of_first, of_second = paddle.split(gradient.reshape([outputs, WINDOW, -1]), 2, axis=1)
        # The second output has k0 where the second frame is.
        of_k0 = of_second.reshape([outputs, channels, -1])[:, :, size * size :]
        of_k0 = paddle.concat([of_k0, paddle.zeros_like(of_k0)], axis=2)
        return (of_first.reshape([outputs, -1]) + of_k0.reshape([outputs, -1])).reshape(ctx.shape)


def _block_kernel(weight: paddle.Tensor) -> paddle.Tensor:
    """``[O, C, 2, k, k]`` -> ``[2O, 2C, k, k]``. The rows of the first output are the weight as it stands."""
    outputs, channels, _, size, _ = weight.shape
    k0 = weight.reshape([outputs, channels, -1])[:, :, : size * size]
    second = paddle.concat([paddle.zeros_like(k0), k0], axis=2).reshape([outputs, -1])
    both = paddle.concat([weight.reshape([outputs, -1]), second], axis=1)
    return both.reshape([WINDOW * outputs, WINDOW * channels, size, size])
