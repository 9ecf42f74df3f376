"""--device, --deterministic and --precision: where Paddle computes, and how."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.base import core

from src.errors import UserError
from src.runtime import ranks
from src.runtime.process_env import machine_memory

ACCELERATORS = ("gpu", "xpu", "npu")  # in the order in which auto looks for them
HALF_TYPES = {"fp16": "float16", "bf16": "bfloat16"}
CONVOLUTIONS = {"conv2d"}  # as Paddle names what autocast casts
SETUP = "bash scripts/setup_gpu.sh installs what fits the card"
SEE_DRIVER = "for a card see the driver (nvidia-smi), CUDA_VISIBLE_DEVICES and, in a container, --gpus all"
# What Paddle's errors on a GPU say, the cause, and the cure. The first that is found decides.
GPU_FAILURES = (
    (
        r"CUDA error\(35\)|driver version is insufficient",
        "the driver is too old for this build",
        "update the driver (nvidia-smi shows it)",
    ),
    (r"dynamic library|cudnn shared library", "a library of NVIDIA's is not found", SETUP),
    (
        r"no kernel image|invalid device function|GPU [Aa]rchitecture|CUDA error\((98|209)\)",
        "this build has no machine code for the card",
        SETUP,
    ),
    (
        r"ResourceExhausted|[Oo]ut of memory|ALLOC_FAILED|CUDA error\(2\)",
        "the card's memory is full",
        "end the other programs on it (nvidia-smi lists them), or give another card",
    ),
    (r"busy or unavailable|CUDA error\(46\)", "another program has the card for itself", "give another card"),
)

logger = logging.getLogger("e3d_lstm")


def visible_devices() -> list[str]:
    """What this Paddle can compute on: cpu, and gpu:0 ..., xpu:0 ..., npu:0 ... (an NPU's plugin has to be installed).

    Raises:
        UserError: there are GPUs, but the driver is too old to tell.
    """
    found = ["cpu"]
    if paddle.device.is_compiled_with_cuda():
        try:
            found += [f"gpu:{index}" for index in range(paddle.device.cuda.device_count())]
        except Exception as error:
            raise UserError(_gpu_failure("gpu", str(error))) from None
    if paddle.device.is_compiled_with_xpu():
        found += [f"xpu:{index}" for index in range(len(paddle.static.xpu_places()))]
    if "npu" in paddle.device.get_all_custom_device_type():
        names = paddle.device.get_available_custom_device()  # "npu" where there is one, else "npu:0" ...
        found += [name if ":" in name else f"{name}:0" for name in names if name.split(":")[0] == "npu"]
    return found


def set_device(device: str, deterministic: bool = False) -> str:
    """Make Paddle use the device of --device and return its name, as cpu or gpu:0.

    Args:
        deterministic: whether a GPU has to give the same bits each time.

    Raises:
        UserError: one is asked for that Paddle does not see, or a GPU that it cannot compute on.
    """
    visible = ["cpu"] if device == "cpu" else visible_devices()
    if device == "auto":
        chosen = next((name for kind in ACCELERATORS for name in visible if name.startswith(kind)), "cpu")
    else:
        chosen = device if device == "cpu" or ":" in device else f"{device}:0"
    if chosen not in visible:
        kind = chosen.split(":")[0]
        advice = "" if f"{kind}:0" in visible else f", or install Paddle's build for {kind.upper()}s"
        if kind == "gpu" and advice and paddle.device.is_compiled_with_cuda():
            advice = f". It is the build for GPUs: {SEE_DRIVER}"
        raise UserError(
            f"--device {device}: this Paddle ({paddle.__version__}) sees {', '.join(visible)}; "
            f"give one of these or auto{advice}"
        )
    paddle.set_device(chosen)
    if chosen.startswith("gpu"):
        set_gpu_arithmetic(deterministic)
        check_gpu(chosen)
    return chosen


def set_gpu_arithmetic(deterministic: bool) -> None:
    """Have a GPU multiply matrices in float32 and, if ``deterministic``, give the same bits each time.

    From Ampere on cuBLAS may round the factors of a product to 10 bits (TF32), and Paddle 2.6 lets it: the recall would
    be off by 4e-4 in place of 1e-6. The convolutions stay as Paddle and the user have them. It has to come before the
    first computation.

    Raises:
        UserError: the user has asked for the opposite.
    """
    core.set_cublas_switch(False)
    if not deterministic:
        return
    if paddle.get_flags("FLAGS_cudnn_exhaustive_search")["FLAGS_cudnn_exhaustive_search"]:
        raise UserError(
            "--deterministic True and FLAGS_cudnn_exhaustive_search=1: Paddle can do one of them; unset the variable"
        )
    paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS: the same bits with several streams too


def check_gpu(device: str) -> None:
    """Compute on the GPU in use what has a known result: a sum, a matrix product, a convolution and a norm.

    Raises:
        UserError: an error of Paddle or a wrong result, with the cause and the cure.
    """
    if paddle.version.cudnn() != "False" and paddle.device.get_cudnn_version() is None:
        raise UserError(_gpu_failure(device, "cudnn shared library", "no libcudnn"))
    try:
        wrong = next(
            (
                f"a {name} gives {result.numpy().flat[0]:g} in place of {expected[0]}"
                for name, result, expected in _known_results()
                if not np.allclose(result.numpy(), expected, atol=1e-3)
            ),
            "",
        )
    except Exception as error:  # Paddle has one type for each kind of failure
        raise UserError(_gpu_failure(device, str(error))) from None
    if wrong:
        raise UserError(_gpu_failure(device, "no kernel image", wrong))


def _known_results() -> Iterator[tuple[str, paddle.Tensor, list[int]]]:
    """Name, result and expected result of one operator after the other.

    The sum comes first: on a card that Paddle 2.6 has no code for it is zero, and other operators abort.
    """
    ones = paddle.ones([4, 4, 3, 3])
    yield "sum", ones + 1, [2]
    yield "matrix product", paddle.matmul(ones, ones), [3]
    yield "convolution", F.conv2d(ones, ones), [36]
    yield "norm", F.layer_norm(paddle.to_tensor([[1.0, -1.0]]), [2]), [1, -1]


def _gpu_failure(device: str, error: str, seen: str = "") -> str:
    """One line: what was seen, the cause and the cure of an error on a GPU, as far as its text tells them."""
    known = ((cause, cure) for pattern, cause, cure in GPU_FAILURES if re.search(pattern, error))
    cause, cure = next(known, ("Paddle fails", SETUP))
    if not seen:
        lines = [line.strip() for line in error.splitlines() if line.strip()] or ["no message"]
        # Paddle's own line stands among those of a traceback and of a hint.
        seen = next((line for line in lines if re.match(r"\w+Error: |\(\w+\) ", line)), lines[0])
    return (
        f"--device {device}: Paddle {paddle.__version__} (CUDA {paddle.version.cuda()}) cannot compute on it: {cause} "
        f"({' '.join(seen.split())[:200]}); {cure}, --device cpu computes without it"
    )


@functools.cache
def memory_limit() -> int:
    """Bytes of memory for this process: the card's in use; on a CPU its share of what the machine or the container has.

    0 if Paddle does not tell of the device.
    """
    device = paddle.get_device()
    if device == "cpu":
        return machine_memory() // ranks.local_count()
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
            "it shows what the rounding does to a training, and takes more time than fp32",
            precision,
            dtype,
        )
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
