"""--device: what Paddle sees, and what is said where it does not see it; --allow_gpu_growth."""

import os
import subprocess
import sys

import paddle
import pytest

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
    assert device.set_device(asked) == expected and chosen == [expected]


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
    assert str(error.value).startswith(f"--device {asked}: this Paddle ({paddle.__version__}) sees {sees}; give one of")
    assert ("install Paddle's build for" in str(error.value)) == (asked.split(":")[0] not in sees)
    assert chosen == [] and "\n" not in str(error.value)


@pytest.mark.parametrize(("own", "expected"), [({}, str(usable_cores())), ({"OMP_NUM_THREADS": "1"}, "None")])
@pytest.mark.parametrize("order", ["import paddle, src.errors", "import src.errors, paddle"])
def test_the_process_is_prepared_whichever_of_paddle_and_src_is_imported_first(order, own, expected):
    """Paddle sets OMP_NUM_THREADS to 1 where it is not set; that 1 is not the user's."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    code = f"{order}, os; print(os.environ.get('MKL_NUM_THREADS'))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**kept, **own}, capture_output=True, text=True)
    assert result.stdout.strip() == expected, result.stderr


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
    kept = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name and name != "KMP_BLOCKTIME"}
    code = (
        "import os, sys, types\nimport src\nfrom src.runtime import process_env\n"
        "set_to = [2]\nsys.modules['paddle.base'] = types.SimpleNamespace("
        "core=types.SimpleNamespace(set_num_threads=lambda number: set_to.append(number)))\n"
        f"process_env.cores_in_use = lambda: {1.0 if busy else 0.0}\n"
        f"process_env.fit_threads({1e6 if few else 1e10})\nprint(set_to[-1], os.environ.get('KMP_BLOCKTIME'))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**kept, **own}, capture_output=True, text=True)
    assert result.stdout.strip() == expected, result.stderr


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
        (False, {"FLAGS_allocator_strategy": "auto_growth"}, "auto_growth"),
        (True, {"FLAGS_allocator_strategy": "naive_best_fit"}, "naive_best_fit"),
    ],
)
def test_paddle_gets_the_allocator_of_the_flag_unless_the_user_has_set_one(grow, own, expected):
    """That it then takes nearly the whole card is Paddle's default: FLAGS_fraction_of_gpu_memory_to_use is 0.92."""
    names = ["FLAGS_allocator_strategy", "FLAGS_fraction_of_gpu_memory_to_use"]
    code = f"from src.runtime.process_env import set_gpu_allocator\nset_gpu_allocator({grow})\nimport paddle\n"
    code += f"print(*paddle.get_flags({names}).values())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLAGS_")}
    result = subprocess.run([sys.executable, "-c", code], env={**environment, **own}, capture_output=True, text=True)
    strategy, fraction = result.stdout.split()[-2:]
    assert strategy == expected and float(fraction) == pytest.approx(0.92)
