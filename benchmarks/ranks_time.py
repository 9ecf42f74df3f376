"""Time and memory of a training step by 1, 2, ... processes of a job on this machine's CPU, which share its cores.

    python benchmarks/ranks_time.py                            the full size, 2 clips an iteration: some minutes
    python benchmarks/ranks_time.py --quick                    a small size, a minute
    python benchmarks/ranks_time.py --ranks 1,2,4 --clips 4

"same clips": the iteration's clips are divided among the processes. "same batch": each process has as many clips as one
had alone. A step is forward, backward, averaging of the gradients and the optimizer's step. GB is the sum of the peaks
of all processes. The rounds take turns, as the machine may be slower at one time than at another.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.step_time import QUICK, SIZES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--ranks", default="1,2", help="processes, with commas between (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=2, help="clips an iteration (default: %(default)s)")
    parser.add_argument("--length", type=int, default=30, help="frames of a clip (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=2, help="measured steps of a turn, after one that is not (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a small network, T = 8, 1 round")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure(**json.loads(arguments.child))
        return
    if arguments.quick:
        arguments.length, arguments.rounds = 8, 1
    counts = [int(count) for count in arguments.ranks.split(",")]
    cases = [("same clips", count, arguments.clips // count) for count in counts if arguments.clips % count == 0]
    cases += [("same batch", count, arguments.clips) for count in counts if count > 1]
    results: list[list[dict]] = [[] for _ in cases]
    for _ in range(arguments.rounds):
        for (_, count, batch), found in zip(cases, results):
            found += launch(arguments, count, batch)
    print(f"{'':12} processes  clips of each   s a step   clips/s   GB in all   clips/s of one process's")
    alone = None
    for (what, count, batch), found in zip(cases, results):
        seconds = statistics.median(second for result in found for second in result["seconds"])
        speed = count * batch / seconds
        alone = alone or speed
        # Each round has one result of each process.
        memory = sum(result["peak"] for result in found) / arguments.rounds
        print(f"{what:12} {count:9} {batch:14} {seconds:10.2f} {speed:9.3f} {memory:11.2f} {speed / alone:14.2f}")


def launch(arguments: argparse.Namespace, count: int, batch: int) -> list[dict]:
    """What each process of a job of ``count`` measured."""
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "batch": batch,
            "length": arguments.length,
            "steps": arguments.steps,
            "folder": folder,
            "sizes": QUICK if arguments.quick else SIZES,
        }
        command = [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            "--nproc_per_node",
            str(count),
            "--log_dir",
            folder,
            __file__,
            "--child",
            json.dumps(task),
        ]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            sys.exit(f"{result.stdout}\n{count} processes ended with status {result.returncode}")
        return [json.loads(path.read_text()) for path in Path(folder).glob("*.result")]


def measure(batch: int, length: int, steps: int, folder: str, sizes: dict) -> None:
    """Write seconds of each step and peak memory in GB of this process to ``<folder>/<rank>.result``."""
    warnings.filterwarnings("ignore", message="No ccache found")
    import paddle

    from src.config import Config
    from src.models.model_factory import build_model
    from src.runtime import parallel, ranks
    from src.step import train_on_batch
    from src.utils.optimizer import build_optimizer, build_schedule

    paddle.set_device("cpu")
    parallel.start("cpu")
    config = Config(**sizes, total_length=length, input_length=length // 3, batch_size=batch, lr=1e-6)
    paddle.seed(0)
    model = build_model(config)
    optimizer = build_optimizer(config, build_schedule(config), model.parameters())
    paddle.seed(ranks.rank())
    frames = paddle.rand([batch, length, config.img_width, config.img_width, 1])
    seconds = []
    for iteration in range(1, steps + 2):
        started = time.perf_counter()
        train_on_batch(config, iteration, model, optimizer, frames)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    Path(folder, f"{ranks.rank()}.result").write_text(json.dumps({"seconds": seconds[1:], "peak": peak}))
    parallel.leave()


if __name__ == "__main__":
    main()
