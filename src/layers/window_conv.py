"""3-D convolutions over a window of two frames, as 2-D convolutions that do not multiply the padding.

On a GPU, and in half precision, they are the library's conv2d. On a CPU, where a step spends most of its time in them,
they are matrix products: see winograd.py.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from src.layers.precision import convolve, on_cpu, precision_in_force
from src.layers.winograd import WinogradWindowConv, transformed_kernel

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

    Its parameters are those of a Conv3D, ``weight`` ``[O, C, 2, k, k]``; :meth:`kernel_slices` makes of them what
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

    def kernel_slices(self) -> tuple[paddle.Tensor, paddle.Tensor]:
        """:func:`split_kernel` of the weight."""
        return split_kernel(self.weight)

    def forward(self, x: paddle.Tensor, kernel_slices: tuple[paddle.Tensor, paddle.Tensor]) -> paddle.Tensor:
        """Convolve a window, given :meth:`kernel_slices`."""
        out = window_conv(x, kernel_slices)
        return out if self.bias is None else out + self.bias.reshape([1, -1, 1, 1, 1])


def split_kernel(weight: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """k0 and k1 of a weight ``[O, C, 2, k, k]`` as :func:`window_conv` wants them where the weight is: on a CPU in
    float32 ``[m+k-1, O, C*k]``, G g of each of their rows; else ``[O, C, k, k]`` each."""
    k0, k1 = paddle.unbind(weight, axis=2)
    if not paddle.in_dynamic_mode():  # a graph knows no strides
        return k0, k1
    if not _by_filtering(weight):
        return k0.contiguous(), k1.contiguous()
    return transformed_kernel(k0), transformed_kernel(k1)


def window_conv(x: paddle.Tensor, kernel_slices: tuple[paddle.Tensor, paddle.Tensor]) -> paddle.Tensor:
    """The window ``[B, C, 2, H, W]`` convolved with the kernel slices of a weight -> ``[B, O, 2, H, W]``."""
    k0, k1 = kernel_slices
    if _by_filtering(x):
        return WinogradWindowConv.apply(x, k0, k1)
    first, second = paddle.unbind(x, axis=2)
    padding = k0.shape[-1] // 2
    by_k0 = convolve(F.conv2d, paddle.concat([first, second]), k0, padding=padding)
    first_by_k0, second_by_k0 = paddle.split(by_k0, 2)
    second_by_k1 = convolve(F.conv2d, second, k1, padding=padding)
    return paddle.stack([first_by_k0 + second_by_k1, second_by_k0], axis=2)


def _by_filtering(x: paddle.Tensor) -> bool:
    # In half precision a CPU follows the GPU, whose roundings it is there to show.
    return on_cpu(x) and precision_in_force() == "fp32"
