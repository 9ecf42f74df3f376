"""Time and memory of a training step and of a forecast, the model against the plain formulation (tests/plain_e3d.py).

    python benchmarks/step_time.py --quick                       one small size, a minute
    python benchmarks/step_time.py --lengths 8,20,30 --rounds 1  the full size
    python benchmarks/step_time.py --size quickstart             a small network
    python benchmarks/step_time.py --lengths 8 --profile         where the time of the model goes

Each measurement is a process of its own, so that its peak memory is its own; the implementations take turns. "plain"
runs with the process settings of src/runtime/process_env.py, as the model does; "unset" is plain with MKL's settings
but glibc's own allocator, as a program has it that knows nothing of that file. A forecast keeps no gradients. GMAC/s
counts the multiplications the equations need, 3 times for a step (forward, and two products backward), whoever needs
more. The peak is that of the whole process, Paddle's libraries (0.3 GB) included; on a GPU that of the card's memory.
"matrix product" is the speed of a product of two matrices of 1024 x 1024 in the same run, for machines whose speed
changes.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

IMPLEMENTATIONS = ("model", "plain", "unset")
SIZES = {
    "full": {"img_width": 128, "patch_size": 8, "num_hidden": "64,64,64,64", "filter_size": 5},
    "quickstart": {"img_width": 32, "patch_size": 4, "num_hidden": "48", "filter_size": 3},
    "quickstart_mm": {"img_width": 32, "patch_size": 4, "num_hidden": "48", "filter_size": 3},
    "two_layers": {"img_width": 32, "patch_size": 4, "num_hidden": "32,32", "filter_size": 5},
    "quick": {"img_width": 32, "patch_size": 4, "num_hidden": "32,32", "filter_size": 3},
}
LENGTHS_AND_BATCHES = {  # frames of a clip, frames given, clips in a batch
    "full": ("8,20,30,50", None, "2"),
    "quickstart": ("10", 5, "1"),
    "quickstart_mm": ("20", 10, "2"),
    "two_layers": ("20", 10, "4"),
    "quick": ("8", None, "2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--size", choices=SIZES, default="full", help="of the network (default: %(default)s)")
    parser.add_argument("--lengths", help="frames of a clip, with commas between (by the size; full: 8,20,30,50)")
    parser.add_argument("--batches", help="clips in a batch, with commas between (by the size; full: 2)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each implementation (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=2, help="measured steps of a turn, after one that is not (default: %(default)s)"
    )
    parser.add_argument("--what", default="step,forecast", help="step, forecast or both (default: %(default)s)")
    parser.add_argument("--recompute", action="store_true", help="the model with --recompute True")
    parser.add_argument("--only", help="some of model, plain, unset, with commas between")
    parser.add_argument("--quick", action="store_true", help="a small network, T = 8, B = 2")
    parser.add_argument("--profile", action="store_true", help="the model's time by operator, one step")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(**json.loads(arguments.child))))
        return
    if arguments.quick:
        arguments.size = "quick"
    lengths, _, batches = LENGTHS_AND_BATCHES[arguments.size]
    arguments.lengths, arguments.batches = arguments.lengths or lengths, arguments.batches or batches
    units = f"{'s':>6} {'GMAC/s':>7} {'GB':>6}"
    print(f"{'':32}|" + "|".join(f"{who:^23}" for who in IMPLEMENTATIONS) + "| model/plain | model/unset")
    print(f"{'':32}|" + "|".join(f" {units} " for _ in IMPLEMENTATIONS) + 2 * "| time memory ")
    for batch in map(int, arguments.batches.split(",")):
        for length in map(int, arguments.lengths.split(",")):
            for what in arguments.what.split(","):
                print_row(arguments, what, batch, length)


def print_row(arguments: argparse.Namespace, what: str, batch: int, length: int) -> None:
    chosen = arguments.only.split(",") if arguments.only else ["model"] if arguments.profile else IMPLEMENTATIONS
    found: dict[str, list[dict]] = {who: [] for who in chosen}
    for _ in range(1 if arguments.profile else arguments.rounds):
        for who in chosen:
            task = {
                "who": who,
                "what": what,
                "batch": batch,
                "length": length,
                "steps": arguments.steps,
                "size": arguments.size,
                "profile": arguments.profile,
                "recompute": arguments.recompute and who == "model",
            }
            command = [sys.executable, __file__, "--child", json.dumps(task)]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if result.returncode:
                print(f"{who}: ended with status {result.returncode} (out of memory?)")
                continue
            *profile, last = result.stdout.strip().splitlines()
            print("\n".join(profile), end="\n" if profile else "")
            found[who].append(json.loads(last))
    line, measured = "", {}
    for who in IMPLEMENTATIONS:
        if not found.get(who):
            line += f"|{'':23}"
            continue
        seconds = statistics.median(second for result in found[who] for second in result["seconds"])
        measured[who] = seconds, max(result["peak"] for result in found[who])
        line += f"| {seconds:6.2f} {found[who][0]['macs'] / seconds / 1e9:7.1f} {measured[who][1]:6.2f} "
    for other in IMPLEMENTATIONS[1:]:
        if "model" in measured and other in measured:
            time_ratio, memory_ratio = (ours / theirs for ours, theirs in zip(measured["model"], measured[other]))
            line += f"| {time_ratio:4.2f} {memory_ratio:6.2f} "
    name = f"{what}, T={length}, B={batch}{', recompute' if arguments.recompute else ''}"
    products = [result["product"] for results in found.values() for result in results]
    print(f"{name:32}{line}| matrix product {statistics.median(products):.0f} GMAC/s", flush=True)


def measure(
    who: str, what: str, batch: int, length: int, steps: int, size: str, profile: bool, recompute: bool
) -> dict:
    """Seconds of each step or forecast, and peak memory in GB, of one implementation in this process."""
    if who == "unset":  # the package without its __init__, which prepares the process
        sys.modules["src"] = types.ModuleType("src")
        sys.modules["src"].__path__ = [str(ROOT / "src")]
        from src.runtime.process_env import set_mkl_variables

        set_mkl_variables()
    warnings.filterwarnings("ignore", message="No ccache found")
    import paddle

    from src.config import Config
    from src.models.model_factory import build_model
    from src.step import prediction_loss
    from tests.plain_e3d import plain_e3d

    more = {"recompute": True} if recompute else {}
    given = LENGTHS_AND_BATCHES[size][1] or length // 3
    config = Config(input_length=given, total_length=length, batch_size=batch, **SIZES[size], **more)
    on_gpu = paddle.get_device().startswith("gpu")
    paddle.seed(0)
    model = build_model(config)
    optimizer = paddle.optimizer.SGD(1e-6, parameters=model.parameters())
    grid = config.img_width // config.patch_size
    frames = paddle.rand([batch, length, grid, grid, config.patch_size**2])
    flags = paddle.zeros([batch, length - config.input_length - 1, 1, 1, 1])

    def network():
        return model(frames, flags) if who == "model" else plain_e3d(model, frames, flags)

    def once():
        if what == "step":
            prediction_loss(network(), frames).backward()
            optimizer.step()
            optimizer.clear_grad()
        else:
            with paddle.no_grad():
                network().numpy()
        if on_gpu:
            paddle.device.synchronize()  # what was started is not done yet

    if what == "forecast":
        model.eval()
    once()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - started)
    if profile:
        from paddle.profiler import Profiler, SortedKeys

        with Profiler(on_trace_ready=lambda profiler: None) as profiler:  # by default it writes 66 MB of trace
            once()
        profiler.summary(sorted_by=SortedKeys.CPUTotal, op_detail=True, thread_sep=False, time_unit="ms")
    macs = required_macs(config) * batch * (3 if what == "step" else 1)
    process_peak = 1000 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = paddle.device.cuda.max_memory_allocated() if on_gpu else process_peak
    return {"seconds": seconds, "peak": peak / 1e9, "macs": macs, "product": matrix_product(on_gpu)}


def matrix_product(on_gpu: bool) -> float:
    """GMAC/s of a product of two matrices of 1024 x 1024, the best of ten."""
    import paddle

    a = paddle.rand([1024, 1024])
    fastest = math.inf
    for _ in range(10):
        started = time.perf_counter()
        paddle.matmul(a, a)
        if on_gpu:
            paddle.device.synchronize()
        fastest = min(fastest, time.perf_counter() - started)
    return 1024**3 / fastest / 1e9


def required_macs(config) -> int:
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
    main()
