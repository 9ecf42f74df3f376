"""--device: where Paddle computes."""

from __future__ import annotations

import paddle

from src.errors import UserError

ACCELERATORS = ("gpu", "xpu", "npu")  # in the order in which auto looks for them


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
