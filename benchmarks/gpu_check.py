"""Does everything here work on this GPU, and how fast? Every step is a process of its own; at most ten minutes.

    python benchmarks/gpu_check.py                        on a GPU; the full size
    python benchmarks/gpu_check.py --device gpu:1         on the second one
    python benchmarks/gpu_check.py --steps card,goldens   some steps
    python benchmarks/gpu_check.py --device cpu --quick   the same steps at a tiny size without a GPU, a minute

It prints a table with a row for each step, and a paragraph to paste into a report. --out keeps check.json, the same
with all figures, and a log of each step. A step that this device or this Paddle cannot run is "not run", and the table
says why. Exit status: 0 no step failed, 1 one did, 2 a flag is wrong.

STEPS below lists the steps. Each is a function of gpu_steps.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402

NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}  # NVIDIA's libraries read it when they are loaded


class Step(NamedTuple):
    what: str
    function: str  # of gpu_steps.py
    limit: int  # seconds, the start of Paddle and of the card included; all of them together are ten minutes
    on_cpu: bool = True  # whether a CPU can run it
    arguments: dict[str, Any] = {}
    environment: dict[str, str] = {}


STEPS = {
    "card": Step("card, driver, versions", "card", 20),
    "probe": Step("a convolution, a matrix product, a norm", "probe", 20),
    "goldens_no_tf32": Step("the official code's figures, without TF32", "goldens", 20, False, {}, NO_TF32),
    "goldens": Step("the official code's figures", "goldens", 20),
    "gradients": Step("gradients against a CPU's in float64", "gradients", 30, True, {}, NO_TF32),
    "fp32": Step("an iteration", "speed", 25, True, {"precision": "fp32"}),
    "fp16": Step("an iteration in float16", "speed", 25, True, {"precision": "fp16"}),
    "bf16": Step("an iteration in bfloat16", "speed", 25, True, {"precision": "bf16"}),
    "largest_fp32": Step("the largest batch that fits", "largest_batch", 27, False, {"precision": "fp32"}),
    "largest_fp16": Step("the largest batch in float16", "largest_batch", 27, False, {"precision": "fp16"}),
    "largest_bf16": Step("the largest batch in bfloat16", "largest_batch", 27, False, {"precision": "bf16"}),
    "plain": Step("an iteration of the plain formulation", "plain", 25),
    "host": Step("operators, and the host's time to start them", "host", 30),
    "cuda_graph": Step("forward and backward as one CUDA graph", "cuda_graph", 25, False),
    "compiled": Step("all layers of a step as one program", "compiled", 40),
    "attention": Step("Paddle's memory-efficient attention as the recall", "attention", 20, False),
    "exhaustive": Step(
        "cuDNN tries all its algorithms", "paddle_flag", 25, False, {"flag": "FLAGS_cudnn_exhaustive_search"}
    ),
    "deterministic": Step(
        "cuDNN's deterministic algorithms", "paddle_flag", 25, False, {"flag": "FLAGS_cudnn_deterministic"}
    ),
    "training": Step("20 iterations, SIGTERM, --resume", "training", 52),
    "training_deterministic": Step("the same bits with --deterministic", "training", 52, False, {"same_bits": True}),
    "test": Step("a test of the weights that come with the project", "test", 15),
    "predict_video": Step("their forecast of a film", "predict_video", 10),
    "export": Step("their exported program", "export", 15),
}


class Setting(NamedTuple):
    """What a step is told."""

    device: str  # cpu, gpu or gpu:N
    quick: bool  # a tiny size
    folder: Path  # for its files


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = parse(arguments)
        out = options.out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
            results = run_steps(options, out, Path(folder))
    except (UserError, OSError) as error:
        print(f"gpu_check.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"gpu_check.py: stopped; what was found is in {options.out}", file=sys.stderr)
        return 130
    print(f"\n{report(options, results)}\n\nall figures: {out / 'check.json'}")
    return int(any(result["status"] == "failed" for result in results.values()))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="benchmarks/gpu_check.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="gpu", help="gpu, gpu:N or cpu (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny size; the times say nothing then")
    parser.add_argument("--steps", default=",".join(STEPS), help="some of them, with commas between (default: all)")
    parser.add_argument("--patience", type=int, default=1, help="times a step's limit, on a busy machine (1)")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"cpu|gpu(:\d+)?", options.device):
        raise UserError(f"--device {options.device}: expected gpu, gpu:N or cpu")
    if options.device == "cpu" and not options.quick:
        raise UserError("--device cpu: the full size takes longer there than a step may; add --quick")
    options.steps = options.steps.split(",")
    if options.patience < 1:
        raise UserError(f"--patience {options.patience}: expected 1 or more")
    unknown = [name for name in options.steps if name not in STEPS]
    if unknown:
        raise UserError(f"--steps {unknown[0]}: no such step; known: {', '.join(STEPS)}")
    return options


def run_steps(options: argparse.Namespace, out: Path, folder: Path) -> dict[str, dict]:
    """The result of each step; check.json has them as soon as they are there.

    Raises:
        UserError: Paddle does not see the device.
    """
    if options.device == "cpu":
        with suppress(ImportError):  # each step shows it
            import benchmarks.gpu_steps  # noqa: F401  (Paddle takes seconds to load; here once for all steps)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the step too; after Paddle, which sets its own
    results: dict[str, dict] = {}
    width = max(map(len, options.steps))
    for name in options.steps:
        step = STEPS[name]
        if options.device == "cpu" and not step.on_cpu:
            result = {"status": "not run", "why": "not on a CPU", "seconds": 0.0}
        else:
            setting = Setting(options.device, options.quick, folder / name)
            result = run_step(name, setting, options.patience * step.limit, out)
        if result.pop("no_device", False):
            raise UserError(result["why"])
        if not results:
            print(f"{'step':{width}} | {'result':7} | {'s':>5} | figures")
        results[name] = {"what": step.what, **result}
        found = result.get("why") or ", ".join(f"{key} {short(value)}" for key, value in result["figures"].items())
        print(f"{name:{width}} | {result['status']:7} | {result['seconds']:5.1f} | {found}", flush=True)
        everything = {"device": options.device, "quick": options.quick, "steps": results}
        everything["report"] = report(options, results)
        (out / "check.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return results


def run_step(name: str, setting: Setting, limit: int, out: Path) -> dict:
    """``status`` passed, failed or not run; ``seconds``; ``figures`` where it passed, ``why`` where not."""
    log, answer = out / f"{name}.log", out / f"{name}.answer"
    answer.unlink(missing_ok=True)
    setting.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    process = new_process(setting.device, answer_step, STEPS[name], setting, log, answer)
    process.start()
    try:
        process.join(limit)
        status = process.exitcode  # None: it is still busy
    finally:
        end_group(process)
    seconds = round(time.perf_counter() - started, 1)
    if status is None:
        result = {"status": "failed", "why": f"no answer within {limit} s; see {log}"}
    elif not answer.exists():
        cause = f"signal {-status}" if status < 0 else f"status {status}"
        result = {"status": "failed", "why": f"its process ended with {cause}; see {log}"}
    else:
        result = json.loads(answer.read_text(encoding="utf-8"))
    answer.unlink(missing_ok=True)
    return {**result, "seconds": seconds}


def new_process(device: str, function, *arguments) -> multiprocessing.process.BaseProcess:
    """A process that will call a function; forked on a CPU, which saves the start of Paddle. Fork hands on no GPU."""
    context = multiprocessing.get_context("fork" if device == "cpu" else "spawn")
    return context.Process(target=function, args=arguments)


def end_group(process: multiprocessing.process.BaseProcess) -> None:
    """End a step's process and all that it has started."""
    process.kill()  # where it has not begun its group yet
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def answer_step(step: Step, setting: Setting, log: Path, answer: Path) -> None:
    """Run a step in this process, with its output in ``log`` and its result in ``answer``."""
    os.setsid()  # a group of its own, see end_group
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(step.environment)
    try:
        from benchmarks import gpu_steps  # after the environment is set: it loads Paddle

        result = gpu_steps.outcome(setting, getattr(gpu_steps, step.function), step.arguments)
    except Exception as error:
        traceback.print_exc()
        result = {"status": "failed", "why": f"{type(error).__name__}: {summary(str(error))}; see {log}"}
    answer.write_text(json.dumps(result), encoding="utf-8")


def summary(message: str) -> str:
    """What an error says, in a line. Paddle puts its stack before that and the place in its code behind it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if re.match(r"\(\w+\)|\w+Error: ", line)]
    return " ".join(lines[starts[0] if starts else 0 :])[:200]


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def report(options: argparse.Namespace, results: dict[str, dict]) -> str:
    """A paragraph that says what was found, to be pasted."""
    card = results.get("card", {}).get("figures", {})
    machine = ", ".join(f"{key} {value}" for key, value in card.items() if key != "memory_gb")
    counts = [(sum(r["status"] == status for r in results.values()), status) for status in ("passed", "failed")]
    parts = [
        f"gpu_check.py{' --quick' if options.quick else ''} on {options.device} ({machine or 'card not known'}):",
        ", ".join(f"{count} steps {status}" for count, status in counts) + ".",
    ]
    for name, result in results.items():
        if result["status"] == "failed":
            parts.append(f"Failed: {name} ({result['why'].split('; see ')[0]}).")
    for name in ("fp32", "fp16", "bf16", "plain"):
        figures = results.get(name, {}).get("figures")
        if figures:
            times = f"{short(figures['seconds'])} s an iteration (host {short(figures['host_seconds'])} s)"
            parts.append(f"{name}, B = {figures['batch']}: {times}, {short(figures['peak_gb'])} GB.")
    for name, result in results.items():
        if "of_the_time" in result.get("figures", {}):
            parts.append(f"{name}: {short(result['figures']['of_the_time'])} of the time.")
        if name.startswith("largest") and "figures" in result:
            parts.append(f"{name}: B = {result['figures']['batch']}.")
    missing = [f"{name} ({result['why']})" for name, result in results.items() if result["status"] == "not run"]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    return " ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
