"""--device: what Paddle sees, and what is said where it does not see it; --allow_gpu_growth."""

import os
import re
import subprocess
import sys

import paddle
import paddle.nn.functional as F
import pytest
from paddle.base import core

from src.errors import UserError
from src.runtime import device
from src.runtime.process_env import cores_in_use, usable_cores
from tests.helpers import ROOT


@pytest.fixture
def machine(monkeypatch):
    """Have Paddle see accelerators that are not there; returns the devices that were set."""

    def see(gpus=0, xpus=0, npus=()):
        monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: gpus > 0)
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(paddle.device, "is_compiled_with_xpu", lambda: xpus > 0)
        monkeypatch.setattr(paddle.static, "xpu_places", lambda: [None] * xpus)
        monkeypatch.setattr(paddle.device, "get_all_custom_device_type", lambda: ["npu"] if npus else [])
        monkeypatch.setattr(paddle.device, "get_available_custom_device", lambda: list(npus))
        chosen = []
        monkeypatch.setattr(paddle, "set_device", chosen.append)
        monkeypatch.setattr(core, "set_cublas_switch", lambda allowed: chosen.append(f"TF32 {allowed}"), raising=False)
        monkeypatch.setattr(device, "check_gpu", lambda name: chosen.append(f"checked {name}"))
        return chosen

    return see


@pytest.mark.parametrize(
    ("seen", "asked", "expected"),
    [
        ({}, "auto", "cpu"),
        ({"gpus": 2}, "auto", "gpu:0"),
        ({"gpus": 2}, "gpu", "gpu:0"),
        ({"gpus": 2}, "gpu:1", "gpu:1"),
        ({"gpus": 2}, "cpu", "cpu"),
        ({"xpus": 2}, "auto", "xpu:0"),
        ({"xpus": 2}, "xpu:1", "xpu:1"),
        ({"npus": ["npu"]}, "auto", "npu:0"),
        ({"npus": ["npu:0", "npu:1"]}, "npu:1", "npu:1"),
        ({"gpus": 1, "npus": ["npu:0"]}, "auto", "gpu:0"),
    ],
)
def test_the_device_asked_for_is_taken_and_auto_takes_an_accelerator(machine, seen, asked, expected):
    chosen = machine(**seen)
    on_gpu = ["TF32 False", f"checked {expected}"] if expected.startswith("gpu") else []
    assert device.set_device(asked) == expected and chosen == [expected, *on_gpu]


@pytest.mark.parametrize(
    ("seen", "asked", "sees"),
    [
        ({}, "gpu", "cpu"),
        ({}, "npu:0", "cpu"),
        ({"gpus": 2}, "gpu:2", "cpu, gpu:0, gpu:1"),
        ({"gpus": 1}, "xpu", "cpu, gpu:0"),
        ({"npus": ["npu"]}, "npu:1", "cpu, npu:0"),
    ],
)
def test_a_device_that_is_not_there_is_one_line_that_says_what_is(machine, seen, asked, sees):
    chosen = machine(**seen)
    with pytest.raises(UserError) as error:
        device.set_device(asked)
    said = str(error.value)
    assert said.startswith(f"--device {asked}: ") and f" {sees};" in said and "\n" not in said
    assert ("install Paddle's build for" in said) == (asked.split(":")[0] not in sees) and chosen == []


def test_the_build_for_gpus_without_a_card_is_not_told_to_install_it(machine, monkeypatch):
    chosen = machine()
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    with pytest.raises(UserError) as error:
        device.set_device("gpu")
    assert "install" not in str(error.value) and "\n" not in str(error.value)
    assert all(word in str(error.value) for word in ("nvidia-smi", "CUDA_VISIBLE_DEVICES", "--gpus all"))
    assert device.set_device("auto") == "cpu" and chosen == ["cpu"]


@pytest.mark.device
def test_a_gpu_is_found_to_compute():
    """The same operators on a CPU, whose results are the same."""
    device.check_gpu("gpu:0")


MISSING = """
--------------------------------------
C++ Traceback (most recent call last):
--------------------------------------
0   phi::BlasGemm()
----------------------
Error Message Summary:
----------------------
PreconditionNotMetError: The third-party dynamic library (libcublas.so) that Paddle depends on is not configured
  correctly. (error code is libcublas.so: cannot open shared object file: No such file or directory)
  [Hint: see above] (at ../paddle/phi/backends/dynload/dynamic_loader.cc:312)
"""


# As Paddle and NVIDIA's libraries word them, and what the user is told to look at.
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError(MISSING), ["libcublas.so", "setup_gpu.sh"]),
        (RuntimeError("(PreconditionNotMet) Cannot load cudnn shared library."), ["library", "setup_gpu.sh"]),
        (
            OSError(
                "(External) CUDA error(209), no kernel image is available for execution on the device. \n  [Hint: "
                "'cudaErrorNoKernelImageForDevice'. Please search online.] (at ../paddle/phi/a.cu:12)"
            ),
            ["no machine code", "CUDA error(209)", "setup_gpu.sh"],
        ),
        (RuntimeError("Unsupported GPU architecture"), ["no machine code", "setup_gpu.sh"]),
        (OSError("(External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime."), ["driver"]),
        (MemoryError("ResourceExhaustedError: Out of memory error on GPU 0."), ["memory is full", "nvidia-smi"]),
        (OSError("(External) CUDA error(46), all CUDA-capable devices are busy or unavailable."), ["another program"]),
        (OSError("(External) CUDNN error(8), CUDNN_STATUS_EXECUTION_FAILED."), ["CUDNN_STATUS_EXECUTION_FAILED"]),
    ],
)
def test_a_gpu_that_does_not_compute_is_one_line_with_the_cause_and_the_cure(monkeypatch, error, told):
    def fail(*arguments, **settings):
        raise error

    monkeypatch.setattr(F, "conv2d", fail)
    with pytest.raises(UserError) as found:
        device.check_gpu("gpu:0")
    said = str(found.value)
    assert said.startswith("--device gpu:0: ") and "--device cpu" in said
    assert "\n" not in said and all(text in said for text in told), said


def test_a_gpu_that_gives_zeros_is_found_at_the_first_operator(monkeypatch):
    """So does Paddle 2.6 on a card that it was not built for, without an error."""
    monkeypatch.setattr(paddle, "ones", lambda shape: paddle.full(shape, -1.0))
    monkeypatch.setattr(F, "conv2d", None)  # not reached
    with pytest.raises(UserError, match="no machine code.*setup_gpu.sh"):
        device.check_gpu("gpu:0")


def test_a_gpu_without_cudnn_is_refused(monkeypatch):
    monkeypatch.setattr(paddle.version, "cudnn", lambda: "8.6.0")
    monkeypatch.setattr(paddle.device, "get_cudnn_version", lambda: None)
    with pytest.raises(UserError, match="libcudnn.*setup_gpu.sh"):
        device.check_gpu("gpu:0")


@pytest.mark.parametrize("asked", ["gpu", "auto"])
def test_a_driver_that_is_too_old_is_said_though_paddle_sees_no_card(machine, monkeypatch, asked):
    def fail():
        raise OSError("(External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime version.")

    machine(gpus=1)
    monkeypatch.setattr(paddle.device.cuda, "device_count", fail)
    with pytest.raises(UserError, match="driver is too old") as error:
        device.set_device(asked)
    assert "\n" not in str(error.value)
    assert device.set_device("cpu") == "cpu"


@pytest.fixture
def gpu_switches(monkeypatch):
    """Switches of Paddle that a build for CPUs does not have; returns what was set."""
    found = {"FLAGS_cudnn_exhaustive_search": False}
    monkeypatch.setattr(core, "set_cublas_switch", lambda allowed: found.update(tf32=allowed), raising=False)
    monkeypatch.setattr(paddle, "set_flags", found.update)
    monkeypatch.setattr(paddle, "get_flags", lambda name: {name: found[name]})
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    return found


def test_a_gpu_multiplies_in_float32_and_is_exact_where_the_flag_asks_for_it(gpu_switches):
    device.set_gpu_arithmetic(deterministic=False)
    assert gpu_switches == {"FLAGS_cudnn_exhaustive_search": False, "tf32": False}
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    device.set_gpu_arithmetic(deterministic=True)
    assert gpu_switches["FLAGS_cudnn_deterministic"] is True and gpu_switches["tf32"] is False
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"


def test_deterministic_and_a_search_for_the_fastest_algorithm_are_refused(gpu_switches):
    gpu_switches["FLAGS_cudnn_exhaustive_search"] = True
    with pytest.raises(UserError, match="--deterministic True .*FLAGS_cudnn_exhaustive_search=1"):
        device.set_gpu_arithmetic(deterministic=True)
    device.set_gpu_arithmetic(deterministic=False)


@pytest.mark.skipif(not paddle.device.is_compiled_with_cuda(), reason="a build of Paddle for CPUs")
def test_paddles_build_for_gpus_has_these_switches(monkeypatch):
    """No card is needed."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = core.get_cublas_switch(), paddle.get_flags("FLAGS_cudnn_deterministic")
    try:
        device.set_gpu_arithmetic(deterministic=True)
        assert not core.get_cublas_switch() and paddle.get_flags("FLAGS_cudnn_deterministic").popitem()[1]
    finally:
        core.set_cublas_switch(before[0])
        paddle.set_flags(before[1])


CORES = usable_cores()
LAUNCHED = {"PADDLE_LOCAL_SIZE": "2", "PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0", "OMP_NUM_THREADS": "1"}


def output_of(code, **variables):
    """What a program prints whose environment has these variables alone of those that decide on threads."""
    ours = re.compile("PADDLE_|FLAGS_|KMP_BLOCKTIME|.*NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env={**kept, **variables}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, f"{CORES} None"),
        ({"MKL_NUM_THREADS": "7"}, "7 None"),
        ({"OMP_NUM_THREADS": "3"}, "None 3"),
        (LAUNCHED, f"{max(1, CORES // 2)} 1"),  # ranks share the cores; the launcher's 1 is not the user's
        ({**LAUNCHED, "MKL_NUM_THREADS": "3"}, "3 1"),
        ({**LAUNCHED, "OMP_NUM_THREADS": "4"}, "None 4"),
        ({**LAUNCHED, "PADDLE_LOCAL_SIZE": "1000"}, "1 1"),
    ],
)
def test_threads_are_set_unless_the_user_has_set_them(variables, expected):
    code = "import os, src; print(os.environ.get('MKL_NUM_THREADS'), os.environ.get('OMP_NUM_THREADS'))"
    assert output_of(code, **variables) == expected


def test_the_process_is_prepared_also_if_paddle_is_imported_first():
    """Paddle sets OMP_NUM_THREADS to 1 where it is not set; that 1 is not the user's."""
    code = "import paddle, src.errors, os; print(os.environ.get('MKL_NUM_THREADS'))"
    assert output_of(code) == str(CORES)
    assert output_of(code, OMP_NUM_THREADS="1") == "None"


@pytest.mark.parametrize(
    ("own", "few", "busy", "expected"),
    [
        ({}, True, False, "1 None"),  # a small network
        ({}, True, True, "1 None"),
        ({}, False, False, "2 None"),
        ({}, False, True, "2 0"),  # busy cores
        ({"KMP_BLOCKTIME": "50"}, False, True, "2 50"),
        ({"MKL_NUM_THREADS": "2"}, True, True, "2 None"),  # the user's
    ],
)
def test_a_small_network_takes_one_thread_and_a_busy_machine_waits_asleep(own, few, busy, expected):
    code = (
        "import os, sys, types\nimport src\nfrom src.runtime import process_env\n"
        "set_to = [2]\nsys.modules['paddle.base'] = types.SimpleNamespace("
        "core=types.SimpleNamespace(set_num_threads=lambda number: set_to.append(number)))\n"
        f"process_env.cores_in_use = lambda: {1.0 if busy else 0.0}\n"
        f"process_env.fit_threads({1e6 if few else 1e10})\nprint(set_to[-1], os.environ.get('KMP_BLOCKTIME'))"
    )
    assert output_of(code, **own) == expected


def test_the_cores_in_use_are_counted():
    """Beside a process that spins, for as long as that takes on a machine that others use too."""
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert any(cores_in_use() > 0.2 for _ in range(100))
    finally:
        spinning.kill()
        spinning.wait()
    assert 0 <= cores_in_use() <= usable_cores() + 0.1


@pytest.mark.parametrize(
    ("grow", "own", "expected"),
    [
        (True, {}, "auto_growth"),
        (False, {}, "naive_best_fit"),
        (True, {"FLAGS_allocator_strategy": "naive_best_fit"}, "naive_best_fit"),  # the user's
    ],
)
def test_paddle_gets_the_allocator_of_the_flag_unless_the_user_has_set_one(grow, own, expected):
    code = f"import os\nfrom src.runtime.process_env import set_gpu_allocator\nset_gpu_allocator({grow})\n"
    assert output_of(code + "print(os.environ['FLAGS_allocator_strategy'])", **own) == expected
    assert paddle.get_flags("FLAGS_allocator_strategy")  # Paddle has a flag of this name
