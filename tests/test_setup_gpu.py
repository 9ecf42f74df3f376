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


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a nvidia-smi into the path: that of an old driver knows no compute capability; or one that fails."""

    def prepare(*cards, old=False, fails=""):
        names = "".join(",".join(card.split(",")[:2]) + "\n" for card in cards)
        (tmp_path / "cards").write_text(names if old else "".join(f"{card}\n" for card in cards))
        unknown = "*compute_cap*) echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2;;" if old else ""
        end = f"echo {fails!r}; exit 9" if fails else "cat cards"
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\ncd {tmp_path}\necho "$@" > asked\ncase "$*" in {unknown} *) {end};; esac\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return prepare


@pytest.mark.parametrize(
    ("cards", "python", "expected"),
    [
        (["Tesla V100-SXM2-16GB, 450.80.02, 7.0"], (3, 9), "PyPI"),
        (["Tesla V100-SXM2-32GB, 580.65.06, 7.0"], (3, 11), "PyPI"),
        (["Tesla T4, 535.104.05, 7.5"], (3, 12), "PyPI"),
        (["NVIDIA A100-SXM4-40GB, 525.85.12, 8.0"], (3, 10), "PyPI"),
        (["NVIDIA GeForce RTX 4090, 550.54.15, 8.9"], (3, 11), "PyPI"),
        (["NVIDIA H100 80GB HBM3, 550.54.15, 9.0"], (3, 11), "cu126"),
        (["NVIDIA GeForce RTX 5090, 575.51.03, 12.0"], (3, 11), "cu129"),
        # 2.6.2 has no wheel for Python 3.13
        (["NVIDIA A100-SXM4-40GB, 550.54.15, 8.0"], (3, 13), "cu126"),
        (["Tesla V100-SXM2-32GB, 470.57.02, 7.0"], (3, 13), "cu118"),
        (["NVIDIA GeForce GTX 1080 Ti, 550.54.15, 6.1"], (3, 13), "cu118"),
        # one build for all the cards
        (["Tesla T4, 535.104.05, 7.5", "Tesla V100-PCIE-16GB, 535.104.05, 7.0"], (3, 11), "PyPI"),
        (["NVIDIA A100-SXM4-40GB, 550.54.15, 8.0", "NVIDIA H100 PCIe, 550.54.15, 9.0"], (3, 11), "cu126"),
    ],
)
def test_a_card_gets_the_build_that_runs_on_it(nvidia_smi, cards, python, expected):
    nvidia_smi(*cards)
    build = setup_gpu.choose_build(setup_gpu.find_cards(), python, "x86_64")
    if expected == "PyPI":
        assert (build.requirement, build.index) == ("paddlepaddle-gpu==2.6.2", "")
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
        ("GeForce RTX 3090", (8, 6)),
        ("A10", (8, 6)),
    ],
)
def test_of_a_driver_that_does_not_tell_the_capability_the_name_is_enough(nvidia_smi, name, capability):
    nvidia_smi(f"{name}, 470.57.02, ?", old=True)
    assert setup_gpu.find_cards() == [(name, capability, (470, 57))]


def test_cards_are_chosen_by_cuda_visible_devices(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi("Tesla T4, 550.54.15, 7.5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    setup_gpu.find_cards()
    assert (tmp_path / "asked").read_text().startswith("-i 1 ")


@pytest.mark.parametrize(
    ("cards", "more", "choice", "part"),
    [
        (None, {}, {}, "nvidia-smi"),
        ([], {"fails": "couldn't communicate with the NVIDIA driver"}, {}, "couldn't communicate"),
        ([], {}, {}, "CUDA_VISIBLE_DEVICES"),
        (["Tesla V100-SXM2-16GB, 418.87.00, 7.0"], {}, {}, "450.80"),
        (["NVIDIA H100 PCIe, 520.61.05, 9.0"], {}, {}, "525.60"),
        (["Tesla K80, 470.57.02, 3.7"], {}, {}, "Tesla K80"),
        (["Tesla P40, 575.51.03, 6.1", "NVIDIA GeForce RTX 5090, 575.51.03, 12.0"], {}, {}, "CUDA_VISIBLE_DEVICES"),
        (["Graphics Device, 470.57.02, ?"], {"old": True}, {}, "Graphics Device"),
        (["Tesla T4, 550.54.15, 7.5"], {}, {"python": (3, 14)}, "PYTHON=python3.11"),
        (["NVIDIA H100 PCIe, 575.51.03, 9.0"], {}, {"python": (3, 8)}, "PYTHON=python3.11"),
        (["Tesla T4, 550.54.15, 7.5"], {}, {"machine": "aarch64"}, "aarch64"),
    ],
)
def test_a_machine_that_no_build_fits_is_told_why_in_one_line(nvidia_smi, cards, more, choice, part):
    if cards is not None:
        nvidia_smi(*cards, **more)
    with pytest.raises(UserError) as error:
        setup_gpu.choose_build(setup_gpu.find_cards(), **{"python": (3, 11), "machine": "x86_64", **choice})
    assert "\n" not in str(error.value) and part in str(error.value), str(error.value)


def test_another_build_of_paddle_goes_before_one_comes():
    pypi, cu126, *_ = setup_gpu.BUILDS
    (first,) = setup_gpu.pip_calls(pypi, ["numpy"], is_same=False)
    assert first[0] == "install" and {"requirements/cuda11.txt", "paddlepaddle-gpu==2.6.2"} <= set(first)
    there = ["numpy", "nvidia-curand-cu11", "paddlepaddle-gpu"]
    assert setup_gpu.pip_calls(pypi, there, is_same=True) == [first]
    for installed, is_same in ((there, False), ([*there, "paddlepaddle"], True)):
        removed, *rest = setup_gpu.pip_calls(pypi, installed, is_same)
        assert (
            removed[:2] == ["uninstall", "--yes"] and set(removed[2:]) == {*installed} - {"numpy"} and rest == [first]
        )
    *_, second = setup_gpu.pip_calls(cu126, [], is_same=False)
    assert second == ["install", "paddlepaddle-gpu>=3.0,<3.4", "--index-url", cu126.index]


def test_nvidias_libraries_lie_where_paddle_looks(tmp_path):
    cudnn = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.8"
    cudnn.parent.mkdir(parents=True)
    cudnn.write_text("cudnn")
    libs = tmp_path / "paddle" / "libs"
    libs.mkdir(parents=True)
    (libs / "libphi.so").write_text("phi")
    (libs / "libcublas.so").symlink_to("../nowhere")  # of another version
    for _ in range(2):
        setup_gpu.link_libraries(tmp_path)
        assert sorted(path.name for path in libs.iterdir()) == ["libcudnn.so", "libcudnn.so.8", "libphi.so"]
    (tmp_path / "moved").symlink_to(tmp_path)  # the links are relative: an environment may be under another name
    assert (tmp_path / "moved" / "paddle" / "libs" / "libcudnn.so").read_text() == "cudnn"


def test_paddle_finds_nvidias_libraries_without_any_variable():
    """In an environment of scripts/setup_gpu.sh with Paddle 2.6.2; a card is not needed."""
    libs = Path(sysconfig.get_path("purelib")) / "paddle" / "libs"
    links = [str(path) for path in sorted(libs.glob("lib*.so")) if path.is_symlink()]
    if not links:
        pytest.skip("this environment is not one of scripts/setup_gpu.sh with Paddle 2.6.2")
    code = (
        "import ctypes, sys\nfrom paddle.base import core\nassert core.cudnn_version() > 0\n"  # opened by Paddle itself
        "for path in sys.argv[1:]:\n    ctypes.CDLL(path)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    assert subprocess.run([sys.executable, "-c", code, *links], env=environment).returncode == 0


@pytest.mark.parametrize(
    ("distribution", "installed"),
    [
        ("paddlepaddle-3.3.1", ["requirements.txt", "requirements/dev.txt"]),
        ("paddlepaddle_gpu-2.6.2", ["requirements/base.txt", "requirements/dev.txt"]),
    ],
)
def test_no_script_puts_the_cpu_build_over_one_for_a_card(tmp_path, distribution, installed):
    (tmp_path / "lib" / "python3.11" / "site-packages" / f"{distribution}.dist-info").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text('#!/bin/sh\nfor last; do :; done\necho "$last" >> "$0.installed"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    code = "source scripts/common.sh; ensure_packages requirements.txt requirements/dev.txt"
    for _ in range(2):  # nothing is left to do the second time
        subprocess.run(["bash", "-c", code], cwd=ROOT, env={**os.environ, "E3D_VENV": str(tmp_path)}, check=True)
        lines = (tmp_path / "bin" / "python.installed").read_text().split()
        assert lines == [str(ROOT / name) for name in installed]


@pytest.fixture
def pip(nvidia_smi, monkeypatch, tmp_path):
    """A machine with a V100, and an environment whose pip ends with the status returned last."""
    nvidia_smi("Tesla V100-SXM2-16GB, 470.57.02, 7.0")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "paddle" / "libs").mkdir(parents=True)
    run, status = subprocess.run, [0]

    def instead(command, **settings):
        if "pip" not in command:
            return run(command, **settings)
        return subprocess.CompletedProcess(command, status[0])

    monkeypatch.setattr(subprocess, "run", instead)
    return status


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a V100 gets another build there")
def test_it_ends_with_what_was_installed_and_why_the_card_does_not_compute(pip, capsys):
    """Here: Paddle sees none."""
    assert setup_gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "paddlepaddle-gpu==2.6.2" in said and "V100" in said and "--device gpu" in said
    pip[0] = 1
    assert setup_gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip " in said and "PyPI" in said


def test_a_paddle_that_aborts_on_the_card_is_said(monkeypatch):
    aborted = subprocess.CompletedProcess([], -6, "", "CUDA error 98: invalid device function\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **settings: aborted)
    with pytest.raises(UserError, match="-6 .*invalid device function"):
        setup_gpu.try_card()


def test_setup_gpu_takes_no_arguments():
    result = subprocess.run(["bash", "scripts/setup_gpu.sh", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
