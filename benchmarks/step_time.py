"""Time and memory of a training step and of a forecast, the model against the plain formulation of its equations.

    python benchmarks/step_time.py --device gpu                  full size, three precisions, the largest batches
    python benchmarks/step_time.py --lengths 8,20,30 --rounds 1  full size on a CPU
    python benchmarks/step_time.py --quick                       one small size, a minute
    python benchmarks/step_time.py --size quickstart             a small network
    python benchmarks/step_time.py --lengths 8 --profile         where the time of the model goes

All that it prints makes an issue report: card, driver, Paddle, figures. Each measurement is a process of its own, so
that its peak memory is its own; model and plain take turns. A forecast keeps no gradients. GMAC/s counts the
multiplications the equations need, 3 times for a step (forward, and two products backward), whoever needs more. GB is
the peak: on a GPU of the card's memory, else of the whole process, Paddle's libraries (0.3 GB) included. "matrix
product" is the speed of a product of two matrices of 1024 x 1024 in the same run, for machines whose speed changes.
"host" is the time until the last operator was started: a GPU cannot be faster.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scripts.command import command  # noqa: E402
from scripts.setup_gpu import nvidia_smi  # noqa: E402
from src.config import Config  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.models.model_factory import build_model  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402

WAYS = ("model", "plain")
WHAT = ("step", "forecast")
PRECISIONS = ("fp32", "fp16", "bf16")
SIZES = {
    "full": {"img_width": 128, "patch_size": 8, "num_hidden": "64,64,64,64", "filter_size": 5},
    "quickstart": {"img_width": 32, "patch_size": 4, "num_hidden": "48", "filter_size": 3},
    "quickstart_mm": {"img_width": 32, "patch_size": 4, "num_hidden": "48", "filter_size": 3},
    "two_layers": {"img_width": 32, "patch_size": 4, "num_hidden": "32,32", "filter_size": 5},
    "quick": {"img_width": 32, "patch_size": 4, "num_hidden": "32,32", "filter_size": 3},
}
LENGTHS_AND_BATCHES = {  # frames of a clip, frames given, clips in a batch
    "full": ("8,20,30,50", None, "2"),
    "full on a GPU": ("30", None, "1,4"),
    "quickstart": ("10", 5, "1"),
    "quickstart_mm": ("20", 10, "2"),
    "two_layers": ("20", 10, "4"),
    "quick": ("8", None, "2"),
}
MOST_CLIPS = 256  # of the largest batch


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="benchmarks/step_time.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", default="cpu", help="as runp.py's (default: %(default)s)")
    add("--precision", help="some of fp32,fp16,bf16 with commas between (default: fp32; on a GPU all)")
    add("--size", choices=SIZES, default="full", help="of the network (default: %(default)s)")
    add(
        "--lengths",
        type=numbers,
        help="frames of a clip, with commas between (by the size; full: 8,20,30,50, on a GPU 30)",
    )
    add("--batches", type=numbers, help="clips in a batch, with commas between (by the size; full: 2, on a GPU 1,4)")
    add("--rounds", type=int, default=2, help="turns of each way (default: %(default)s)")
    add("--steps", type=int, help="measured steps of a turn, after one that is not (default: 2; on a GPU 5)")
    add("--what", default="step,forecast", help="step, forecast or both (default: %(default)s)")
    add("--recompute", action="store_true", help="the model with --recompute True")
    add("--only", choices=WAYS, help="one of the ways")
    add("--quick", action="store_const", dest="size", const="quick", help="a small network, T = 8, B = 2")
    add("--profile", action="store_true", help="the model's time by operator, one step")
    add("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    on_gpu = options.device.startswith("gpu")
    lengths, _, batches = LENGTHS_AND_BATCHES["full on a GPU" if on_gpu and options.size == "full" else options.size]
    options.lengths, options.batches = options.lengths or numbers(lengths), options.batches or numbers(batches)
    options.precision = options.precision.split(",") if options.precision else PRECISIONS[: 3 if on_gpu else 1]
    for flag, values, known in (
        ("--precision", options.precision, PRECISIONS),
        ("--what", options.what.split(","), WHAT),
    ):
        if not set(values) <= set(known):
            raise UserError(f"{flag} {','.join(values)}: expected some of {','.join(known)}")
    options.steps = options.steps or (5 if on_gpu else 2)
    options.common = {name: getattr(options, name) for name in ("size", "device", "steps", "recompute")}
    return options


@command("what was printed stands")
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.child:
        function, settings = json.loads(options.child)
        print(json.dumps({"describe": describe, "measure": measure}[function](**settings)))
        return
    print(in_a_process("describe", device=options.device))
    print(f"{'':32}|" + "|".join(f"{way:^25}" for way in WAYS) + "| model/plain")
    print(f"{'':32}|" + 2 * f" {'s':>7} {'GMAC/s':>8} {'GB':>6} |" + " time memory", flush=True)
    for precision in options.precision:
        for batch in options.batches:
            for length in options.lengths:
                for what in options.what.split(","):
                    print_row(options, what, precision, batch, length)
    if options.device.startswith("gpu") and not options.profile:
        for precision in options.precision:
            print_largest_batch(options, precision)


def in_a_process(function: str, **settings: object) -> dict | str:
    """What a function of this file returns in a process of its own; the lines that it prints before that are passed on.

    Raises:
        UserError: the process failed; why, in a line.
    """
    command = [sys.executable, __file__, "--child", json.dumps([function, settings])]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        if re.search("out of memory|ResourceExhausted|ALLOC_FAILED", result.stderr, re.IGNORECASE):
            raise UserError("out of memory")
        last = (result.stderr.strip() or f"ended with status {result.returncode}").splitlines()[-1]
        raise UserError(last.removeprefix("step_time.py: "))
    *printed, answer = result.stdout.strip().splitlines()
    print("\n".join(printed), end="\n" if printed else "")
    return json.loads(answer)


def print_row(options: argparse.Namespace, what: str, precision: str, batch: int, length: int) -> None:
    ways = [options.only] if options.only else ["model"] if options.profile or precision != "fp32" else WAYS
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    notes = []
    for _ in range(1 if options.profile else options.rounds):
        for way in ways:
            settings = {"way": way, "what": what, "precision": precision, "batch": batch, "length": length}
            try:
                found[way].append(in_a_process("measure", **settings, **options.common, profile=options.profile))
            except UserError as error:
                notes.append(f"{way}: {error}")
    line, measured = "", []
    for results in found.values():
        if not results:
            line += f"|{'':25}"
            continue
        seconds = statistics.median(second for result in results for second in result["seconds"])
        measured.append((seconds, max(result["peak"] for result in results)))
        line += f"| {seconds:7.3f} {results[0]['macs'] / seconds / 1e9:8.1f} {measured[-1][1]:6.2f} "
    if len(measured) == 2:
        line += "| {:4.2f} {:6.2f} ".format(*(model / plain for model, plain in zip(*measured)))
    results = [result for results in found.values() for result in results]
    if results:
        line += f"| matrix product {statistics.median(result['product'] for result in results):.0f} GMAC/s"
    if found["model"] and options.device != "cpu":
        line += f", host {statistics.median(second for result in found['model'] for second in result['host']):.3f} s"
    name = f"{what}, T={length}, B={batch}, {precision}{', recompute' if options.recompute else ''}"
    print(f"{name:32}{line}", *dict.fromkeys(notes), sep=" | ", flush=True)


def print_largest_batch(options: argparse.Namespace, precision: str) -> None:
    length = options.lengths[-1]
    settings = {"way": "model", "what": "step", "precision": precision, "length": length, **options.common}

    def fits(batch: int) -> dict | None:
        try:
            return in_a_process("measure", batch=batch, **settings)
        except UserError:
            return None

    first = 2 * options.batches[-1]
    batch, figures = largest_batch(fits, first)
    found = f"{batch} clips, {figures['peak']:.1f} GB, {min(figures['seconds']):.3f} s a step" if figures else "none"
    tried = f", {2 * batch} was not tried" if 2 * batch > MOST_CLIPS else ""
    print(f"largest batch from {first} on, T={length}, {precision}: {found}{tried}", flush=True)


def largest_batch(fits: Callable[[int], dict | None], first: int) -> tuple[int, dict | None]:
    """The largest of first, 2 * first, ... and one halfway to the next that ``fits`` returns figures of, and these."""
    best, figures, batch = 0, None, first
    while batch <= MOST_CLIPS:
        found = fits(batch)
        if not found:
            halfway = best * 3 // 2
            found = fits(halfway) if best > 1 else None
            return (halfway, found) if found else (best, figures)
        best, figures, batch = batch, found, 2 * batch
    return best, figures


# ---- In a process of its own


def describe(device: str) -> str:
    """Card, driver, and versions."""
    import paddle

    from src.reports.versions import versions
    from src.runtime.device import set_device

    parts = [set_device(device)]
    if parts[0].startswith("gpu"):
        card = paddle.device.cuda.get_device_properties()
        parts += [card.name, f"{card.total_memory / 1e9:.0f} GB, compute capability {card.major}.{card.minor}"]
        try:
            parts.append(f"driver {nvidia_smi('driver_version')[0][0]}")
        except UserError as error:
            parts.append(f"driver: {error}")
        parts += [f"CUDA {paddle.version.cuda()}", f"cuDNN {paddle.version.cudnn()}"]
    found = versions()
    parts += [f"Paddle {found['paddle']}", f"Python {found['python']}", found["platform"], f"code {found['source']}"]
    return ", ".join(parts)


def measure(
    way: str,
    what: str,
    precision: str,
    batch: int,
    length: int,
    steps: int,
    size: str,
    device: str,
    recompute: bool,
    profile: bool = False,
) -> dict:
    """Seconds of each step or forecast, the host's part of them, and peak memory in GB, in this process."""
    warnings.filterwarnings("ignore", message="No ccache found")
    import paddle

    from src.layers.precision import autocast
    from src.runtime.device import check_precision, set_device
    from src.step import prediction_loss

    on_gpu = set_device(device).startswith("gpu")
    check_precision(precision)
    given = LENGTHS_AND_BATCHES[size][1] or length // 3
    clips = {"input_length": given, "total_length": length, "batch_size": batch}
    config = Config(**SIZES[size], **clips, recompute=recompute and way == "model")
    paddle.seed(0)
    model, network = networks(way, config)
    optimizer = paddle.optimizer.SGD(1e-6, parameters=model.parameters())
    grid = config.img_width // config.patch_size
    frames = paddle.rand([batch, length, grid, grid, config.patch_size**2])
    flags = paddle.zeros([batch, length - config.input_length - 1, 1, 1, 1])

    def once() -> None:
        if what == "step":
            with autocast(precision):
                predictions = network(frames, flags)
            prediction_loss(predictions, frames).backward()
            optimizer.step()
            optimizer.clear_grad()
        else:
            with paddle.no_grad(), autocast(precision):
                network(frames, flags)

    def wait() -> None:
        if on_gpu:
            paddle.device.synchronize()  # what was started is not done yet

    if what == "forecast":
        model.eval()
    once()
    wait()
    seconds, host = [], []
    for _ in range(steps):
        started = time.perf_counter()
        once()
        host.append(time.perf_counter() - started)
        wait()
        seconds.append(time.perf_counter() - started)
    if profile:
        from paddle.profiler import Profiler, SortedKeys

        with Profiler(on_trace_ready=lambda profiler: None) as profiler:  # by default it writes 66 MB of trace
            once()
        profiler.summary(sorted_by=SortedKeys.CPUTotal, op_detail=True, thread_sep=False, time_unit="ms")
    process_peak = 1000 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = paddle.device.cuda.max_memory_allocated() if on_gpu else process_peak
    return {
        "seconds": seconds,
        "host": host,
        "peak": peak / 1e9,
        "macs": required_macs(config) * batch * (3 if what == "step" else 1),
        "product": matrix_product(wait),
    }


def networks(way: str, config: Config) -> tuple:
    """The layer whose parameters are trained, and the function of frames and flags that predicts with them."""
    model = build_model(dataclasses.replace(config, model_name="e3d_lstm_plain") if way == "plain" else config)
    return model, model


def matrix_product(wait: Callable[[], None]) -> float:
    """GMAC/s of a product of two matrices of 1024 x 1024, the best of ten."""
    import paddle

    a = paddle.rand([1024, 1024])
    fastest = math.inf
    for _ in range(10):
        started = time.perf_counter()
        paddle.matmul(a, a)
        wait()
        fastest = min(fastest, time.perf_counter() - started)
    return 1024**3 / fastest / 1e9


def required_macs(config: Config) -> int:
    """Multiplications of one forward pass of one clip: convolutions without their padding, and the recall."""
    n, positions = config.hidden_sizes[0], (config.img_width // config.patch_size) ** 2
    kernel = 3 * positions * config.filter_size**2  # of the 4 pairs of slices one meets the padding
    total = 0
    for layer in range(len(config.hidden_sizes)):
        channels = config.patch_size**2 * config.img_channel if layer == 0 else n
        convolutions = kernel * n * (7 * channels + 4 * n + 4 * n + n + n) + 2 * positions * 2 * n * n
        for t in range(config.total_length - 1):
            total += convolutions + 2 * (2 * positions) * (2 * positions * (t + 1)) * n
    return total


if __name__ == "__main__":
    sys.exit(main())
