"""The precision of the convolutions: the operands and results of conv2d and conv3d in half precision, nothing else.

Norms, the recall, gates, states, loss and metrics stay in float32, as do the weights and the sum of their gradients
over the time steps: :func:`convolve` takes float32 and gives float32. The scores of the recall reach 70, where bfloat16
numbers are 0.5 apart: their exp would be off by a quarter.

A CPU has no convolution in half precision. There it is emulated: operands, results and gradients are rounded to the
type, and the arithmetic between, which adds up in float32 on a GPU too, is float32's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from src.errors import UserError

HALF_TYPES = {"fp16": "float16", "bf16": "bfloat16"}
CONVOLUTIONS = {"conv2d", "conv3d"}  # as Paddle names what autocast casts

logger = logging.getLogger("e3d_lstm")

_in_force = "fp32"


def on_cpu(x: paddle.Tensor) -> bool:
    """Whether x is on a CPU. False in a static graph: what will run it is not known, and it can hold no PyLayer."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def precision_in_force() -> str:
    """fp32, fp16 or bf16: that of the innermost :func:`autocast`."""
    return _in_force


@contextlib.contextmanager
def autocast(precision: str) -> Iterator[None]:
    """Within it the network's convolutions run in ``precision``: fp32, fp16 or bf16. Backward passes need not be."""
    global _in_force
    before, _in_force = _in_force, precision
    try:
        with _paddle_auto_cast(before, precision):
            yield
    finally:
        _in_force = before


def _paddle_auto_cast(before: str, precision: str) -> contextlib.AbstractContextManager:
    if precision == before == "fp32" or paddle.get_device() == "cpu":  # on a CPU it warns and does nothing
        return contextlib.nullcontext()
    if precision == "fp32":
        return paddle.amp.auto_cast(enable=False)
    return paddle.amp.auto_cast(**amp_settings(precision))


def amp_settings(precision: str) -> dict:
    """Arguments of ``paddle.amp.auto_cast`` that have it cast the convolutions and nothing else.

    What Paddle casts by itself, matrix products for one, is forbidden; what is on neither list takes the widest type of
    its arguments, which is float32 everywhere outside of :func:`convolve`.
    """
    dtype = HALF_TYPES[precision]
    return {
        "custom_white_list": CONVOLUTIONS,
        "custom_black_list": paddle.amp.white_list()[dtype]["O1"] - CONVOLUTIONS,
        "level": "O1",
        "dtype": dtype,
    }


def convolve(
    convolution: Callable[..., paddle.Tensor], x: paddle.Tensor, weight: paddle.Tensor, **settings
) -> paddle.Tensor:
    """``convolution(x, weight, **settings)`` of F.conv2d or F.conv3d, in the precision in force.

    The weight is cast at each call, so that what the time steps add to its gradient is summed in float32.

    Args:
        convolution: without a bias, which is to be added to the float32 result.
        x, weight: float32.

    Returns:
        float32.
    """
    if _in_force == "fp32":
        return convolution(x, weight, **settings)
    if on_cpu(x):
        return _rounded(convolution(_rounded(x), _rounded(weight), **settings))
    return convolution(x, weight, **settings).astype("float32")


def _rounded(x: paddle.Tensor) -> paddle.Tensor:
    """The nearest numbers of the half type in force, in float32; the gradient is rounded on its way back."""
    return x.astype(HALF_TYPES[_in_force]).astype("float32")


class Conv3D(nn.Conv3D):
    """Paddle's layer in the precision in force, without padding.

    Parameters:
        in_channels (int), out_channels (int): channels.
        kernel_size (int or three), stride (int or three): frames, rows and columns.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
    ) -> None:
        initializer = nn.initializer.XavierUniform()
        super().__init__(in_channels, out_channels, kernel_size, stride, weight_attr=initializer)
        self.stride = stride

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = convolve(F.conv3d, x, self.weight, stride=self.stride)
        return out + self.bias.reshape([1, -1, 1, 1, 1])


def check_precision(precision: str) -> None:
    """See that the device in use computes convolutions in ``precision``; on a CPU say that they are emulated.

    Raises:
        UserError: Paddle leaves them in float32, as it does with a warning where a GPU is too old.
    """
    if precision == "fp32":
        return
    dtype, device = HALF_TYPES[precision], paddle.get_device()
    if device == "cpu":
        logger.info(
            "--precision %s on a CPU is emulated: the convolutions' operands, results and gradients are rounded to %s; "
            "it shows what the rounding does to a training, and takes more time than fp32", precision, dtype,
        )  # fmt: skip
        return
    flat, deep = paddle.ones([1, 1, 1, 1]), paddle.ones([1, 1, 1, 1, 1])
    with autocast(precision):
        results = {"conv2d": F.conv2d(flat, flat), "conv3d": F.conv3d(deep, deep)}
    for name, result in results.items():
        if result.dtype != getattr(paddle, dtype):
            other = "bf16" if precision == "fp16" else "fp16"
            raise UserError(
                f"--precision {precision}: Paddle {paddle.__version__} has no {name} in {dtype} for {device} and "
                f"leaves it in {str(result.dtype).split('.')[-1]}; give {other} or fp32"
            )
