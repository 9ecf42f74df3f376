"""3-D convolutions over a window of two frames, as 2-D convolutions.

A window ``[B, C, 2, H, W]`` is held as ``[B, 2C, H, W]``: channel 2*c + d is channel c of its frame d. So nothing is
reshaped between the operators.

One conv2d takes the window; its kernel is block-triangular. A large convolution in float32 on a CPU takes half the time
by minimal_filtering.py, which is chosen here alone.
"""

from __future__ import annotations

from typing import Union

import paddle
from paddle.autograd import PyLayer

from src.layers import minimal_filtering
from src.layers.precision import convolve, on_cpu, precision_in_force
from src.layers.reference import WINDOW

FILTERING_FROM = 1e8  # multiplications of the block kernel; fewer are as fast or faster with it (benchmarks/README.md)

Kernel = Union[paddle.Tensor, tuple[paddle.Tensor, paddle.Tensor]]  # of :func:`window_kernel`


def window_kernel(weight: paddle.Tensor, batch: int, rows: int, columns: int) -> Kernel:
    """The kernel of a convolution over windows ``[B, 2C, H, W]``, in the form that is fastest for them.

    Args:
        weight: of a 3-D convolution with kernel (2, k, k), k odd: ``[O, C, 2, k, k]``, k0 and k1 along its third axis;
            or with kernel (1, k, k), where k1 is zero.
        batch, rows, columns: B, H and W.

    Returns:
        those of minimal filtering; else the block kernel ``[2O, 2C, k, k]``: [[k0, k1], [0, k0]] for each pair of an
        output and an input channel.
    """
    if weight.shape[2] == 1:
        weight = paddle.concat([weight, paddle.zeros_like(weight)], axis=2)
    outputs, channels, _, size, _ = weight.shape
    large = 4 * batch * rows * columns * outputs * channels * size**2 >= FILTERING_FROM
    # In half precision a CPU follows the GPU, whose roundings it is there to show.
    if on_cpu(weight) and large and size in minimal_filtering.TILE and precision_in_force() == "fp32":
        return minimal_filtering.filters(weight)
    # A static graph can hold no PyLayer, and an exported program needs no gradient.
    return _BlockKernel.apply(weight) if paddle.in_dynamic_mode() else _block_kernel(weight)


def window_conv(x: paddle.Tensor, kernel: Kernel) -> paddle.Tensor:
    """Windows ``[B, 2C, H, W]`` convolved with a :func:`window_kernel` -> ``[B, 2O, H, W]``."""
    if isinstance(kernel, tuple):
        return minimal_filtering.filtered(x, *kernel)
    return convolve(x, kernel, padding=kernel.shape[-1] // 2)


def window(first: paddle.Tensor, second: paddle.Tensor) -> paddle.Tensor:
    """Two frames ``[B, C, H, W]`` as a window ``[B, 2C, H, W]``."""
    batch, channels, rows, columns = first.shape
    return paddle.stack([first, second], axis=2).reshape([batch, WINDOW * channels, rows, columns])


def both_frames(values: paddle.Tensor) -> paddle.Tensor:
    """Numbers of each channel ``[n]`` as numbers of each channel of a window ``[2n]``."""
    return values.reshape([-1, 1]).tile([1, WINDOW]).flatten()


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
