"""--device and --precision: where Paddle computes, and in which type it convolves."""

from __future__ import annotations

import functools
import logging

import paddle
import paddle.nn.functional as F

from src.errors import UserError

ACCELERATORS = ("gpu", "xpu", "npu")  # in the order in which auto looks for them
HALF_TYPES = {"fp16": "float16", "bf16": "bfloat16"}
CONVOLUTIONS = {"conv2d"}  # as Paddle names what autocast casts

logger = logging.getLogger("e3d_lstm")


def visible_devices() -> list[str]:
    """What this Paddle can compute on: cpu, and gpu:0 ..., xpu:0 ..., npu:0 ... (an NPU's plugin has to be installed).
    """
    found = ["cpu"]
    if paddle.device.is_compiled_with_cuda():
        found += [f"gpu:{index}" for index in range(paddle.device.cuda.device_count())]
    if paddle.device.is_compiled_with_xpu():
        found += [f"xpu:{index}" for index in range(len(paddle.static.xpu_places()))]
    if "npu" in paddle.device.get_all_custom_device_type():
        names = paddle.device.get_available_custom_device()  # "npu" where there is one, else "npu:0" ...
        found += [name if ":" in name else f"{name}:0" for name in names if name.split(":")[0] == "npu"]
    return found


def set_device(device: str) -> str:
    """Make Paddle use the device of --device and return its name, as cpu or gpu:0.

    Raises:
        UserError: one is asked for that Paddle does not see.
    """
    visible = visible_devices()
    if device == "auto":
        chosen = next((name for kind in ACCELERATORS for name in visible if name.startswith(kind)), "cpu")
    else:
        chosen = device if device == "cpu" or ":" in device else f"{device}:0"
    if chosen not in visible:
        kind = chosen.split(":")[0]
        advice = "" if f"{kind}:0" in visible else f", or install Paddle's build for {kind.upper()}s"
        raise UserError(
            f"--device {device}: this Paddle ({paddle.__version__}) sees {', '.join(visible)}; "
            f"give one of these or auto{advice}"
        )
    paddle.set_device(chosen)
    return chosen


@functools.cache
def card_memory() -> int:
    """Bytes of memory of the GPU in use; 0 where there is none, or where Paddle does not tell."""
    device = paddle.get_device()
    if not (device.startswith("gpu") and paddle.device.is_compiled_with_cuda()):
        return 0
    return paddle.device.cuda.get_device_properties(device).total_memory


def amp_settings(precision: str) -> dict:
    """Arguments of ``paddle.amp.auto_cast`` that have it cast the convolutions and nothing else.

    What Paddle casts by itself, matrix products for one, is forbidden; what is on neither list takes the widest type of
    its arguments, which is float32 everywhere outside of ``src.layers.precision.convolve``.
    """
    dtype = HALF_TYPES[precision]
    return {
        "custom_white_list": CONVOLUTIONS,
        "custom_black_list": paddle.amp.white_list()[dtype]["O1"] - CONVOLUTIONS,
        "level": "O1",
        "dtype": dtype,
    }


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
    one = paddle.ones([1, 1, 1, 1])
    with paddle.amp.auto_cast(**amp_settings(precision)):
        result = F.conv2d(one, one)
    if result.dtype != getattr(paddle, dtype):
        other = "bf16" if precision == "fp16" else "fp16"
        raise UserError(
            f"--precision {precision}: Paddle {paddle.__version__} has no conv2d in {dtype} for {device} and "
            f"leaves it in {str(result.dtype).split('.')[-1]}; give {other} or fp32"
        )
