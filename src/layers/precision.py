"""The precision of the convolutions: the operands and results of conv2d in half precision, nothing else.

Norms, the recall, gates, states, loss and metrics stay in float32, as do the weights and the sum of their gradients
over the time steps: :func:`convolve` takes float32 and gives float32. The scores of the recall reach 70, where bfloat16
numbers are 0.5 apart: their exp would be off by a quarter.

A CPU has no convolution in half precision. There it is emulated: operands, results and gradients are rounded to the
type, and the arithmetic between, which adds up in float32 on a GPU too, is float32's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import paddle
import paddle.nn.functional as F

from src.runtime.device import HALF_TYPES, amp_settings

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


def convolve(x: paddle.Tensor, weight: paddle.Tensor, **settings) -> paddle.Tensor:
    """``F.conv2d(x, weight, **settings)`` in the precision in force; a bias is to be added to the result.

    The weight is cast at each call, so that what the time steps add to its gradient is summed in float32.

    Args:
        x, weight: float32.

    Returns:
        float32.
    """
    if _in_force == "fp32":
        return F.conv2d(x, weight, **settings)
    if on_cpu(x):
        return _rounded(F.conv2d(_rounded(x), _rounded(weight), **settings))
    return F.conv2d(x, weight, **settings).astype("float32")


def _rounded(x: paddle.Tensor) -> paddle.Tensor:
    """The nearest numbers of the half type in force, in float32; the gradient is rounded on its way back."""
    return x.astype(HALF_TYPES[_in_force]).astype("float32")
