"""scripts/setup_gpu.sh: which build of Paddle a machine gets, by what nvidia-smi prints there."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from scripts import setup_gpu
from src.errors import UserError
from tests.helpers import ROOT

PYPI = "PyPI"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)
UNKNOWN_FIELD = 'Field "compute_cap" is not a valid field to query.\n\n'


def table(driver, cuda):
    """The head of the table that nvidia-smi prints."""
    return (
        "+-----------------------------------------------------------------------------------------+\n"
        f"| NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} CUDA Version: {cuda:<8} |\n"
        "|-----------------------------------------+------------------------+----------------------+\n"
    )


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Put a nvidia-smi into the path that prints what is given, or a path without any."""

    def prepare(head=None, cards="", status=0, knows_capability=True):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if head is not None else str(tmp_path))
        if head is None:
            return
        (tmp_path / "head").write_text(head)
        (tmp_path / "cards").write_text(cards)
        (tmp_path / "names").write_text("".join(line.split(",")[0] + "\n" for line in cards.splitlines()))
        (tmp_path / "unknown").write_text(UNKNOWN_FIELD)
        query = "cat cards" if knows_capability else "cat unknown; exit 2"
        (tmp_path / "nvidia-smi").write_text(
            f'#!/bin/sh\ncd {tmp_path}\necho "$@" >> arguments\n'
            f'case "$*" in "") cat head; exit {status};; *compute_cap*) {query};; *) cat names;; esac\n'
        )
        (tmp_path / "nvidia-smi").chmod(0o755)

    return prepare


def chosen(python=(3, 11), machine="x86_64"):
    cuda = setup_gpu.read_cuda(setup_gpu.nvidia_smi())
    return setup_gpu.choose_build(setup_gpu.find_cards(), cuda, python, machine)


@pytest.mark.parametrize(
    ("driver", "cuda", "cards", "python", "expected"),
    [
        ("450.80.02", "11.0", "Tesla V100-SXM2-16GB, 7.0", (3, 9), PYPI),
        ("470.57.02", "11.4", "Tesla V100-SXM2-32GB, 7.0", (3, 11), PYPI),
        ("580.65.06", "13.0", "Tesla V100-SXM2-32GB, 7.0", (3, 11), PYPI),
        ("535.104.05", "12.2", "Tesla T4, 7.5", (3, 12), PYPI),
        ("525.85.12", "12.0", "NVIDIA A100-SXM4-40GB, 8.0", (3, 10), PYPI),
        ("550.54.15", "12.4", "NVIDIA GeForce RTX 4090, 8.9", (3, 11), PYPI),
        ("550.54.15", "12.4", "NVIDIA H100 80GB HBM3, 9.0", (3, 11), "cu126"),
        ("575.51.03", "12.9", "NVIDIA GeForce RTX 5090, 12.0", (3, 11), "cu129"),
        # 2.6.2 has no wheel for Python 3.13
        ("550.54.15", "12.4", "NVIDIA A100-SXM4-40GB, 8.0", (3, 13), "cu126"),
        ("470.57.02", "11.4", "Tesla V100-SXM2-32GB, 7.0", (3, 13), "cu118"),
        ("550.54.15", "12.4", "NVIDIA GeForce GTX 1080 Ti, 6.1", (3, 13), "cu118"),
        # one build for all the cards
        ("535.104.05", "12.2", "Tesla T4, 7.5\nTesla V100-PCIE-16GB, 7.0", (3, 11), PYPI),
        ("550.54.15", "12.4", "NVIDIA A100-SXM4-40GB, 8.0\nNVIDIA H100 PCIe, 9.0", (3, 11), "cu126"),
    ],
)
def test_a_card_gets_the_build_that_runs_on_it(machine, driver, cuda, cards, python, expected):
    machine(table(driver, cuda), cards + "\n")
    build = chosen(python)
    if expected == PYPI:
        assert build.requirement == "paddlepaddle-gpu==2.6.2" and build.index == ""
    else:
        assert build.index == f"https://www.paddlepaddle.org.cn/packages/stable/{expected}/"


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("Tesla V100-SXM2-32GB", (7, 0)),
        ("Tesla T4", (7, 5)),
        ("A100-SXM4-40GB", (8, 0)),
        ("Tesla P40", (6, 1)),
        ("GeForce GTX 1080 Ti", (6, 1)),
        ("GeForce RTX 2080 Ti", (7, 5)),
        ("GeForce RTX 3090", (8, 6)),
        ("A10", (8, 6)),
    ],
)
def test_of_a_driver_that_does_not_tell_the_capability_the_name_is_enough(machine, name, capability):
    machine(table("470.57.02", "11.4"), f"{name}, ?\n", knows_capability=False)
    assert setup_gpu.find_cards() == [(name, capability)]


def test_the_table_of_the_newest_drivers_is_read_too():
    head = "| NVIDIA-SMI 610.43.02              KMD Version: 610.43.02     CUDA UMD Version: 13.3     |\n"
    assert setup_gpu.read_cuda(head) == (13, 3)


def test_cards_are_chosen_by_cuda_visible_devices(machine, monkeypatch, tmp_path):
    machine(table("550.54.15", "12.4"), "Tesla T4, 7.5\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    setup_gpu.find_cards()
    assert (tmp_path / "arguments").read_text().startswith("-i 1 --query-gpu=name,compute_cap")


@pytest.mark.parametrize(
    ("what", "python", "expected"),
    [
        ({}, (3, 11), ["nvidia-smi cannot be run (No such file", "install the driver"]),
        ({"head": NO_DRIVER, "status": 9}, (3, 11), ["couldn't communicate with the NVIDIA driver", "restart"]),
        ({"head": table("470.57.02", "N/A")}, (3, 11), ["no CUDA version (driver 470.57.02)", "update the driver"]),
        ({"head": table("550.54.15", "12.4")}, (3, 11), ["lists no card", "CUDA_VISIBLE_DEVICES"]),
        (
            {"head": table("418.87.00", "10.1"), "cards": "Tesla V100-SXM2-16GB, 7.0"},
            (3, 11),
            ["the driver knows CUDA 10.1, Paddle's builds for it need 11", "update the driver to 450.80"],
        ),
        (
            {"head": table("520.61.05", "11.8"), "cards": "NVIDIA H100 PCIe, 9.0"},
            (3, 11),
            ["NVIDIA H100 PCIe (compute capability 9.0)", "need 12", "update the driver to 525.60"],
        ),
        ({"head": table("470.57.02", "11.4"), "cards": "Tesla K80, 3.7"}, (3, 11), ["Tesla K80", "3.7", "6.1 to 12.1"]),
        (
            {"head": table("575.51.03", "12.9"), "cards": "Tesla P40, 6.1\nNVIDIA GeForce RTX 5090, 12.0"},
            (3, 11),
            ["Tesla P40", "RTX 5090", "choose cards by CUDA_VISIBLE_DEVICES"],
        ),
        (
            {"head": table("470.57.02", "11.4"), "cards": "Graphics Device, ?", "knows_capability": False},
            (3, 11),
            ["'Graphics Device'", "update the driver"],
        ),
        (
            {"head": table("550.54.15", "12.4"), "cards": "Tesla T4, 7.5"},
            (3, 14),
            ["Python 3.14: Paddle's builds for Tesla T4", "3.9 to 3.13", "PYTHON=python3.11"],
        ),
        (
            {"head": table("575.51.03", "12.9"), "cards": "NVIDIA H100 PCIe, 9.0"},
            (3, 8),
            ["Python 3.8: Paddle's builds", "3.9 to 3.13", "PYTHON=python3.11"],
        ),
    ],
)
def test_a_machine_that_no_build_fits_is_told_why_in_one_line(machine, what, python, expected):
    machine(**what)
    with pytest.raises(UserError) as error:
        chosen(python)
    assert "\n" not in str(error.value) and all(text in str(error.value) for text in expected), str(error.value)


def test_no_build_is_for_another_processor(machine):
    machine(table("550.54.15", "12.4"), "Tesla T4, 7.5\n")
    with pytest.raises(UserError, match="aarch64: Paddle's builds for NVIDIA cards need x86_64"):
        chosen(machine="aarch64")


def test_another_build_of_paddle_goes_before_one_comes():
    pypi, cu126, *_ = setup_gpu.BUILDS
    first = [["install", "-r", "requirements-gpu.txt", "-r", "requirements/cuda11.txt", "paddlepaddle-gpu==2.6.2"]]
    assert setup_gpu.steps(pypi, ["numpy==1.26.4"]) == first
    assert setup_gpu.steps(pypi, ["paddlepaddle-gpu==2.6.2", "nvidia-curand-cu11==10.3.0.86"], "11.8") == first
    assert setup_gpu.steps(pypi, ["paddlepaddle==3.3.1"]) == [["uninstall", "--yes", "paddlepaddle"], *first]
    there = ["nvidia-curand-cu11==10.3.0.86", "paddlepaddle==3.3.1", "paddlepaddle-gpu==2.6.2"]
    assert setup_gpu.steps(pypi, there, "11.8")[0] == ["uninstall", "--yes", *(name.split("==")[0] for name in there)]

    second = [
        ["install", "-r", "requirements/base.txt"],
        ["install", "paddlepaddle-gpu>=3.0,<3.4", "--index-url", cu126.index],
    ]
    assert setup_gpu.steps(cu126, ["paddlepaddle-gpu==3.3.1", "numpy==2.3.1"], "12.6") == second
    for made_with, version in (("11.8", "3.2.2"), ("11.8", "2.6.2")):
        removed, *rest = setup_gpu.steps(cu126, [f"paddlepaddle-gpu=={version}"], made_with)
        assert removed == ["uninstall", "--yes", "paddlepaddle-gpu"] and rest == second


def test_the_packages_and_the_cuda_of_paddle_are_found_without_importing_it(tmp_path):
    installed = setup_gpu.installed_packages()
    assert any(name.startswith("paddlepaddle") for name in installed) and installed == sorted(installed)
    assert setup_gpu.cuda_of_paddle(tmp_path) == ""
    (tmp_path / "paddle" / "version").mkdir(parents=True)
    for text, expected in (("cuda_version     = '11.8'\n", "11.8"), ("cuda_version = 'False'\n", "")):
        (tmp_path / "paddle" / "version" / "__init__.py").write_text(f"major = '2'\n{text}")
        assert setup_gpu.cuda_of_paddle(tmp_path) == expected


def test_nvidias_libraries_lie_where_paddle_looks(tmp_path):
    cudnn = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.8"
    cudnn.parent.mkdir(parents=True)
    cudnn.write_text("cudnn")
    libs = tmp_path / "paddle" / "libs"
    libs.mkdir(parents=True)
    (libs / "libphi.so").write_text("phi")
    (libs / "libcudnn.so").symlink_to("../nowhere")  # of another version
    (libs / "libcublas.so").symlink_to("../nowhere")
    for _ in range(2):
        assert setup_gpu.link_libraries(tmp_path) == [libs / "libcudnn.so.8", libs / "libcudnn.so"]
        assert sorted(path.name for path in libs.iterdir()) == ["libcudnn.so", "libcudnn.so.8", "libphi.so"]
        assert (libs / "libcudnn.so").resolve() == cudnn.resolve() and (libs / "libphi.so").read_text() == "phi"
    (tmp_path / "moved").symlink_to(tmp_path)  # the links are relative: an environment may be under another name
    assert (tmp_path / "moved" / "paddle" / "libs" / "libcudnn.so").read_text() == "cudnn"


def test_paddle_finds_nvidias_libraries_without_any_variable():
    """Where scripts/setup_gpu.sh has installed Paddle 2.6.2 for a GPU; a card is not needed."""
    libs = Path(sysconfig.get_path("purelib")) / "paddle" / "libs"
    links = [path.name for path in sorted(libs.glob("lib*.so")) if path.is_symlink()]
    if not links:
        pytest.skip("this environment is not one of scripts/setup_gpu.sh with Paddle 2.6.2")
    names = ("cublas", "cublasLt", "cudnn", "cufft", "curand", "cusolver", "cusparse", "nvrtc", "nccl")
    assert {f"lib{name}.so" for name in names} <= set(links)
    code = (
        "import ctypes, sys\nfrom paddle.base import core\nassert core.cudnn_version() > 0\n"  # opened by Paddle itself
        "for path in sys.argv[1:]:\n    ctypes.CDLL(path)\nprint('all open')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    command = [sys.executable, "-c", code, *(str(libs / name) for name in links)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "all open" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("distribution", "installed"),
    [
        ("paddlepaddle-3.3.1", ["requirements.txt", "requirements/dev.txt"]),
        ("paddlepaddle_gpu-2.6.2", ["requirements/base.txt", "requirements/dev.txt"]),
        ("paddlepaddle_xpu-3.3.1", ["requirements/base.txt", "requirements/dev.txt"]),
    ],
)
def test_no_script_puts_the_cpu_build_over_one_for_a_card(tmp_path, distribution, installed):
    (tmp_path / "lib" / "python3.11" / "site-packages" / f"{distribution}.dist-info").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text('#!/bin/sh\nfor last; do :; done\necho "$last" >> "$0.installed"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    code = "source scripts/common.sh; ensure_packages requirements.txt requirements/dev.txt"
    for _ in range(2):  # nothing is left to do the second time
        result = subprocess.run(["bash", "-c", code], cwd=ROOT, env={**os.environ, "E3D_VENV": str(tmp_path)})
        assert result.returncode == 0
        lines = (tmp_path / "bin" / "python.installed").read_text().split()
        assert lines == [str(ROOT / name) for name in installed]


@pytest.fixture
def pip(machine, monkeypatch):
    """A machine with a V100 on which pip does nothing; returns the calls of pip, and may have one fail."""
    machine(table("470.57.02", "11.4"), "Tesla V100-SXM2-16GB, 7.0\n")
    calls = []
    run = subprocess.run

    def instead(command, **settings):
        if command[0] != sys.executable or "pip" not in command:
            return run(command, **settings)
        calls.append(command)
        return subprocess.CompletedProcess(command, 1 if pip_fails in command else 0)

    pip_fails = "nothing"

    def fail(word):
        nonlocal pip_fails
        pip_fails = word

    monkeypatch.setattr(subprocess, "run", instead)
    monkeypatch.setattr(setup_gpu, "choose_build", lambda cards, cuda: setup_gpu.BUILDS[0])  # whatever Python this is
    monkeypatch.setattr(setup_gpu, "installed_packages", lambda: ["paddlepaddle-gpu==2.6.2"])
    monkeypatch.setattr(setup_gpu, "link_libraries", lambda folder: [])
    calls.append(fail)
    return calls


def test_it_ends_with_what_was_installed_and_what_the_card_does(pip, monkeypatch, capsys):
    monkeypatch.setattr(setup_gpu, "try_card", lambda: "gpu:0")
    assert setup_gpu.main() == 0
    expected = (
        "== paddlepaddle-gpu==2.6.2 of PyPI is installed for Tesla V100-SXM2-16GB, driver for CUDA 11.4; "
        "it computes on gpu:0"
    )
    assert capsys.readouterr().out.splitlines()[-1] == expected


def test_a_card_that_does_not_compute_is_said_with_the_cause(pip, monkeypatch, capsys):
    """Here: Paddle sees none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert setup_gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("setup_gpu.py: paddlepaddle-gpu==2.6.2 of PyPI is installed for ")
    assert "but does not compute: --device gpu: this Paddle (" in said


def test_a_paddle_that_aborts_on_the_card_is_said(monkeypatch):
    aborted = subprocess.CompletedProcess([], -6, "", "CUDA error 98: invalid device function\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **settings: aborted)
    with pytest.raises(UserError, match=r"Paddle ended with status -6 \(CUDA error 98: invalid device function\)"):
        setup_gpu.try_card()


def test_a_pip_that_fails_ends_it_with_what_to_see_to(pip, capsys):
    pip[0]("requirements/cuda11.txt")
    assert setup_gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "requirements/cuda11.txt" in said and "10 GB of disk and PyPI" in said


def test_setup_gpu_takes_no_arguments():
    result = subprocess.run(["bash", "scripts/setup_gpu.sh", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "expected no arguments" in result.stderr
