"""The benchmarks run: a few iterations of each kind; and run_tests.sh --device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.step_time import MOST_CLIPS, largest_batch
from tests.helpers import ROOT


def run(tmp_path, *arguments):
    command = [sys.executable, ROOT / "benchmarks" / "learning.py", *arguments, "--out", tmp_path]
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_learning_prints_a_row_for_each_trial_and_goes_on_where_it_was(tmp_path):
    arguments = ("digits", "--quick", "--flags", "--num_hidden 4,4 --optimizer adam --lr 1e-3 --layer_norm False")
    lines = run(tmp_path, *arguments)
    assert lines[0].startswith("| trial | seed | iterations | PSNR, dB") and lines[2].startswith("| own | 1 | ")
    cells = [float(cell) for cell in lines[2].strip("| ").split(" | ")[2:]]
    assert len(cells) == 7 and cells[0] == 2 and cells[1] > 5  # PSNR of a forecast after 2 iterations
    assert lines[-1] == f"curves: {tmp_path}/digits_quick/learning.png" and Path(lines[-1].split(": ")[1]).exists()
    again = run(tmp_path, *arguments, "--iterations", "4")
    assert again[2].startswith("| own | 1 | 4 | ")
    output = (tmp_path / "digits_quick" / "own_seed1" / "output.txt").read_text()
    assert "going on from" in output and "iteration 2/" not in output


def test_learning_lists_its_trials_and_refuses_unknown_ones(tmp_path):
    assert any(line.startswith("recipe: ") for line in run(tmp_path, "quickstart", "--list"))
    command = [sys.executable, ROOT / "benchmarks" / "learning.py", "digits", "--only", "nothing"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "--only nothing: no such trial; known: " in result.stderr


def step_time(*arguments):
    command = [sys.executable, ROOT / "benchmarks" / "step_time.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_step_time_ends_with_figures_for_a_report():
    result = step_time("--quick", "--rounds", "1", "--steps", "1", "--what", "step")
    assert result.returncode == 0, result.stderr
    machine, *_, row = result.stdout.splitlines()
    assert "Paddle " in machine and "Python " in machine
    name, model, plain, ratios, *_ = row.split("|")
    assert name.startswith("step, T=8, B=2, fp32")
    assert all(float(figure) > 0 for figure in (model + plain + ratios).split())


def test_step_time_of_a_device_that_is_not_there_is_one_line():
    result = step_time("--device", "gpu:99")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "--device gpu:99" in result.stderr


@pytest.mark.parametrize(
    ("limit", "expected"), [(7, 0), (8, 8), (11, 8), (12, 12), (16, 16), (50, 48), (10**6, MOST_CLIPS)]
)
def test_the_largest_batch_is_found_by_doubling_and_one_halfway(limit, expected):
    batch, figures = largest_batch(lambda batch: {"batch": batch} if batch <= limit else None, first=8)
    assert batch == expected and figures == ({"batch": expected} if expected else None)


def test_the_tests_for_a_card_are_there_and_do_not_begin_without_it():
    """bash scripts/run_tests.sh --device gpu."""

    def collected(name):
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "device", "--collect-only"]
        environment = {**os.environ, "E3D_TEST_DEVICE": name}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    found = collected("cpu")
    assert found.returncode == 0
    assert all(f"tests/test_{name}.py::" in found.stdout for name in ("model_golden", "resume", "training", "export"))
    missing = collected("gpu:99")
    assert missing.returncode == 2 and "--device gpu:99" in missing.stderr and "::" not in missing.stdout
