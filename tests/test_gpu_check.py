"""benchmarks/gpu_check.py: its steps on a CPU at a tiny size, and what it makes of a step that fails."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest

from benchmarks import gpu_check, gpu_steps
from src.layers import recall
from tests.helpers import ROOT

ON_A_CPU = ["--device", "cpu", "--quick", "--patience", "10"]
FAILING = """
import os, signal, subprocess, sys, time
from benchmarks import gpu_check, gpu_steps

def hang(setting):
    print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
    time.sleep(1000)

def refuse(setting):
    raise gpu_steps.CannotRun("not with this Paddle")

def be_wrong(setting):
    raise gpu_steps.Failed("gradients differ by 1")

gpu_steps.hang, gpu_steps.refuse, gpu_steps.be_wrong = hang, refuse, be_wrong
gpu_steps.crash = lambda setting: os.kill(os.getpid(), signal.SIGSEGV)
gpu_steps.err = lambda setting: [][1]
for name in ("hang", "refuse", "be_wrong", "crash", "err"):
    gpu_check.STEPS[name] = gpu_check.Step("a test", name, 1 if name == "hang" else 100)
sys.exit(gpu_check.main(sys.argv[1:]))
"""


def run(*command):
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)


def rows_of(output):
    """The cells of each step's row in the table."""
    table = output.split("\n\n")[0].splitlines()
    return {row[0]: row[1:] for row in ([cell.strip() for cell in line.split(" | ")] for line in table[1:])}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """All steps at a tiny size: check.json and what was printed."""
    out = tmp_path_factory.mktemp("check")
    result = run("benchmarks/gpu_check.py", *ON_A_CPU, "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((out / "check.json").read_text()), result.stdout


def test_every_step_that_a_cpu_has_passes_and_the_others_say_why_they_do_not_run(checked):
    found, output = checked
    assert list(found["steps"]) == list(gpu_check.STEPS) == list(rows_of(output))
    old = {"compiled", "export"} if paddle.__version__.startswith("2.") else set()
    for name, step in gpu_check.STEPS.items():
        result = found["steps"][name]
        assert rows_of(output)[name][0] == result["status"]
        if not step.on_cpu:
            assert (result["status"], result["why"]) == ("not run", "not on a CPU")
        elif name in old:
            assert result["status"] == "not run" and result["why"].startswith(f"not with Paddle {paddle.__version__}")
        else:
            assert result["status"] == "passed" and result["figures"], name


def test_the_figures_are_those_of_the_steps(checked):
    figures = {name: result.get("figures") for name, result in checked[0]["steps"].items()}
    assert figures["card"]["paddle"] == paddle.__version__
    assert set(figures["probe"]) == {"convolution", "product", "norm"}
    assert 0 < figures["goldens"]["outputs"] < 1e-5 and 0 < figures["goldens"]["gradients"] < 1e-4
    assert set(figures["gradients"]) == {"plain", "again", "blocks"}
    for name in ("fp32", "fp16", "bf16", "plain"):
        assert figures[name]["seconds"] >= figures[name]["host_seconds"] > 0 and figures[name]["peak_gb"] > 0
    assert figures["training"] == {"difference": 0.0, "iterations": 20}
    assert figures["test"]["psnr"] > figures["test"]["repeat_psnr"]


def test_the_last_paragraph_can_be_pasted_into_a_report(checked):
    found, output = checked
    paragraph = output.split("\n\n")[1]
    assert paragraph == found["report"] and "\n" not in paragraph
    assert f"paddle {paddle.__version__}" in paragraph and "0 steps failed" in paragraph
    assert "fp32, B = 2: " in paragraph and "cuda_graph (not on a CPU)" in paragraph


def test_a_step_that_fails_crashes_or_hangs_is_shown_and_the_next_ones_run(tmp_path):
    steps = "hang,be_wrong,crash,err,refuse,card"
    result = run("-c", FAILING, "--device", "cpu", "--quick", "--steps", steps, "--out", tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    rows = rows_of(result.stdout)
    assert [rows[name][0] for name in steps.split(",")] == [*["failed"] * 4, "not run", "passed"]
    assert rows["hang"][2] == f"no answer within 1 s; see {tmp_path}/hang.log"
    assert rows["be_wrong"][2] == "gradients differ by 1" and rows["refuse"][2] == "not with this Paddle"
    assert rows["crash"][2].startswith("its process ended with signal 11; see ")
    assert rows["err"][2].startswith("IndexError: list index out of range; see ")
    assert "Traceback" in (tmp_path / "err.log").read_text()
    found = json.loads((tmp_path / "check.json").read_text())
    assert {name: step["status"] for name, step in found["steps"].items()} == {name: rows[name][0] for name in rows}
    assert "1 steps passed, 4 steps failed. Failed: hang (no answer within 1 s). Failed: be_wrong" in found["report"]

    assert ends(int((tmp_path / "hang.log").read_text()))  # what the step has started


def test_a_check_that_is_stopped_ends_its_step_and_keeps_what_it_found(tmp_path):
    """Its own files are removed last, when no process is left that writes them."""
    command = [sys.executable, "benchmarks/gpu_check.py", *ON_A_CPU, "--steps", "card,training", "--out", tmp_path]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    check = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    log = tmp_path / "training.log"
    assert any((log.exists() and log.read_text()) or time.sleep(0.1) for _ in range(1000))
    check.terminate()
    assert check.wait(100) == 143
    assert list(tmp_path.glob("gpu_check_*")) == []
    assert list(json.loads((tmp_path / "check.json").read_text())["steps"]) == ["card"]


def ends(pid):
    """Whether a process has ended, or does within seconds; one whose status nobody has asked for has."""
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_all_steps_together_stay_within_ten_minutes_whatever_hangs():
    assert sum(step.limit for step in gpu_check.STEPS.values()) <= 600
    assert all(callable(getattr(gpu_steps, step.function)) for step in gpu_check.STEPS.values())


@pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason="this Paddle is one for GPUs")
def test_a_gpu_that_is_not_there_is_one_line(tmp_path):
    """The step's process is started as on a GPU, not forked."""
    result = run("benchmarks/gpu_check.py", "--out", tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    line = f"gpu_check.py: --device gpu: this Paddle ({paddle.__version__}) sees cpu; install Paddle's build for GPUs"
    assert result.stderr.startswith(line) and result.stderr.count("\n") == 1


def test_the_build_for_gpus_without_a_card_is_not_told_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_steps, "visible_devices", lambda: ["cpu"])
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    result = gpu_steps.outcome(gpu_check.Setting("gpu", True, tmp_path), gpu_steps.card, {})
    assert result["no_device"] and "see the driver (nvidia-smi)" in result["why"] and "install" not in result["why"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "xpu"], "--device xpu: expected gpu, gpu:N or cpu"),
        (["--device", "cpu"], "--device cpu: the full size takes longer there than a step may; add --quick"),
        (["--steps", "card,nothing"], "--steps nothing: no such step; known: card, probe"),
        (["--patience", "0"], "--patience 0: expected 1 or more"),
        ([*ON_A_CPU, "--out", "FILE"], "FILE"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, message, tmp_path, capsys):
    (tmp_path / "FILE").write_text("")
    flags = [str(tmp_path / flag) if flag == "FILE" else flag for flag in flags]
    assert gpu_check.main(flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("gpu_check.py: ") and error.count("\n") == 1
    assert (tmp_path / "FILE").read_text() == ""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("list index out of range", "list index out of range"),
        ("(InvalidArgument) Wrong.\n  [Hint: 2] (at /x.cc:1)", "(InvalidArgument) Wrong. [Hint: 2] (at /x.cc:1)"),
        ("In transformed code:\n  File x\n\n  ValueError: (NotFound) y\n", "ValueError: (NotFound) y"),
        ("\n---\nC++ Traceback\n0 x\n---\nResourceExhaustedError: \n\nOut of memory", "Out of memory"),
        ("", ""),
    ],
)
def test_an_error_of_paddle_is_told_in_a_line(message, line):
    assert line in gpu_check.summary(message) and "\n" not in gpu_check.summary(message)
    assert len(gpu_check.summary(1000 * message)) <= 200


@pytest.mark.parametrize(
    ("room", "expected"), [(7, None), (8, (8, False)), (12, (12, False)), (30, (24, False)), (500, (64, True))]
)
def test_the_largest_batch_is_found_by_doubling_and_one_halfway(room, expected):
    tried = []

    def measure(batch):
        tried.append(batch)
        return {"seconds": 1.0} if batch <= room else None

    if expected is None:
        with pytest.raises(gpu_steps.CannotRun, match="8 clips do not fit"):
            gpu_steps.largest_that_fits(measure, 8)
        return
    found = gpu_steps.largest_that_fits(measure, 8)
    assert (found["batch"], found["larger_not_tried"]) == expected and found["seconds"] == 1.0
    assert len(tried) == len(set(tried)) and max(tried) <= 64


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError("ResourceExhaustedError"), True),
        (RuntimeError("Out of memory error on GPU 0."), True),
        (OSError("(External) CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("an illegal memory access"), False),
    ],
)
def test_a_full_card_is_no_other_failure(error, is_memory):
    def run():
        raise error

    if is_memory:
        assert gpu_steps.unless_out_of_memory(run) is None
    else:
        with pytest.raises(RuntimeError, match="illegal"):
            gpu_steps.unless_out_of_memory(run)


@pytest.mark.parametrize("wrong", [0.0, float("nan")])
def test_a_kernel_with_a_wrong_result_fails_the_probe(wrong, monkeypatch, tmp_path):
    setting = gpu_check.Setting("cpu", True, tmp_path)
    assert gpu_steps.probe(setting)
    monkeypatch.setattr(gpu_steps.F, "conv2d", lambda x, weight: paddle.full([1, 4, 8, 8], wrong))
    with pytest.raises(gpu_steps.Failed, match="convolution"):
        gpu_steps.probe(setting)


def test_paddle_s_attention_is_given_the_recall_s_own_queries_and_keys(monkeypatch):
    """Its kernel is for GPUs alone; a stand-in with its layout ``[B, positions, heads, n]`` takes its place."""

    def attention(query, key, value, attn_bias=None, p=0.0, scale=None, training=True):
        query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))
        weights = paddle.nn.functional.softmax(scale * paddle.matmul(query, key, transpose_y=True))
        return paddle.matmul(weights, value).transpose([0, 2, 1, 3])

    monkeypatch.setattr("paddle.incubate.nn.memory_efficient_attention.memory_efficient_attention", attention)
    queries, keys = paddle.rand([2, 4, 18]), paddle.randn([2, 4, 54])
    found = gpu_steps.memory_efficient_recall(queries, keys)
    np.testing.assert_allclose(found.numpy(), recall.plain_recall(queries, keys).numpy(), atol=1e-6)
