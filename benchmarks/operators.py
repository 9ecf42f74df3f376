"""Operators of a training iteration, and the time of the host that starts them.

    python benchmarks/operators.py             full size with 4 and 2 clips, quickstart, quickstart_mm: a minute each
    python benchmarks/operators.py --quick     one small size

On a GPU, and in a small network, an iteration takes as long as the host needs to start its operators, not as long as
they compute. Both can be measured without a GPU. "cpu" is the model's way on a CPU, "gpu" its way on a GPU of 16 GB,
which runs on the CPU here; "plain" is the plain formulation (tests/plain_e3d.py).

The operators are the kernels that Paddle's profiler sees in one iteration of Adam. A reshape counts as one; the sums of
gradients that several operators give to one tensor do not. The forms of the convolutions and of the recall are those
that the named size has. The host time is that of a grid of 1 x 1 with 8 channels and filter 3, which leaves hardly
anything to compute, but with the forms, layers and steps of the size. It is the CPU time of one thread, which other
programs on the machine change little; the median of all turns, each a process.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.step_time import SIZES  # noqa: E402

RUNS = {  # network of step_time.py; frames given, given and predicted; clips
    "full": ("full", 10, 30, 4),
    "full_b2": ("full", 10, 30, 2),
    "quickstart": ("quickstart", 5, 10, 1),
    "quickstart_mm": ("quickstart_mm", 10, 20, 2),
    "quick": ("quick", 2, 4, 1),
}
CARD_MEMORY = 16e9  # bytes; the recall's way depends on it
WAYS = ("plain", "cpu", "gpu")
PARTS = ("forward", "backward", "optimizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    sizes = "full,full_b2,quickstart,quickstart_mm"
    parser.add_argument("--sizes", default=sizes, help="with commas between (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="measured iterations of a turn (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny size, one turn")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(**json.loads(arguments.child))))
        return
    if arguments.quick:
        arguments.sizes, arguments.rounds, arguments.steps = "quick", 1, 1
    one_thread = {**os.environ, "MKL_NUM_THREADS": "1"}
    print(f"{'size':14} {'way':6}|{'forward':>9}{'backward':>10}{'optimizer':>11} | {'host, s':>8} of plain's")
    for size in arguments.sizes.split(","):
        found: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way in WAYS:
                task = json.dumps({"size": size, "way": way, "steps": arguments.steps})
                command = [sys.executable, __file__, "--child", task]
                result = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=one_thread)
                found[way].append(json.loads(result.stdout.splitlines()[-1]))
        plain = None
        for way in WAYS:
            host = statistics.median(second for turn in found[way] for second in turn["seconds"])
            plain = plain or host
            forward, backward, optimizer = (found[way][0]["operators"][part] for part in PARTS)
            counts = f"{forward:9}{backward:10}{optimizer:11}"
            print(f"{size:14} {way:6}|{counts} | {host:8.3f} {host / plain:5.2f}", flush=True)


def measure(size: str, way: str, steps: int) -> dict:
    """Operators of each part of an iteration, and the host's seconds for each of ``steps`` iterations."""
    warnings.filterwarnings("ignore", message="No ccache found")
    import paddle
    from paddle.profiler import Profiler, ProfilerTarget, RecordEvent

    from src.config import Config
    from src.layers import recall, window_conv
    from src.models import eidetic_3d_lstm_net
    from src.models.model_factory import build_model
    from src.step import prediction_loss
    from tests.plain_e3d import plain_e3d

    if way == "gpu":
        window_conv.on_cpu = recall.on_cpu = lambda x: False
        recall.card_memory = lambda: CARD_MEMORY
    network, given, total, batch = RUNS[size]
    clips = {"input_length": given, "total_length": total, "batch_size": batch}
    real = Config(**SIZES[network], **clips)
    layers, grid = len(real.hidden_sizes), real.img_width // real.patch_size
    state = paddle.zeros([real.batch_size, 2, grid, grid])
    form = recall.recall_form(state, real.total_length - 1, layers)
    eidetic_3d_lstm_net.recall_form = lambda *arguments: form

    decide, decisions = window_conv._by_filtering, []

    def recorded(*arguments):
        decisions.append(decide(*arguments))
        return decisions[-1]

    window_conv._by_filtering = recorded
    build_model(real).prepared_weights(real.batch_size, grid, grid)
    replayed = itertools.cycle(decisions)
    window_conv._by_filtering = lambda *arguments: next(replayed)

    tiny = {"img_width": 4, "patch_size": 4, "num_hidden": ",".join(["8"] * layers), "filter_size": 3}
    config = Config(**tiny, **clips)
    model = build_model(config)
    frames = paddle.rand([config.batch_size, config.total_length, 1, 1, 16])
    flags = paddle.zeros([config.batch_size, config.total_length - config.input_length - 1, 1, 1, 1])
    optimizer = paddle.optimizer.Adam(1e-6, parameters=model.parameters())

    def once() -> None:
        with RecordEvent("forward"):
            predictions = plain_e3d(model, frames, flags) if way == "plain" else model(frames, flags)
            loss = prediction_loss(predictions, frames)
        with RecordEvent("backward"):
            loss.backward()
        with RecordEvent("optimizer"):
            optimizer.step()
            optimizer.clear_grad()

    seconds = []
    for _ in range(1 + steps):
        started = time.process_time()
        once()
        seconds.append(time.process_time() - started)
    with Profiler(targets=[ProfilerTarget.CPU], on_trace_ready=lambda profiler: None) as profiler:
        once()
    counted = collections.Counter()
    for root in profiler.profiler_result.get_data().values():
        count(root, "", counted)
    return {"seconds": seconds[1:], "operators": {part: counted[part] for part in PARTS}}


def count(node, part: str, counted: collections.Counter) -> None:
    """Add the kernels below a node of the profiler's tree to the part of the iteration in which they ran."""
    part = node.name if node.name in PARTS else part
    if str(node.type).endswith("KernelLaunch"):
        counted[part] += 1
    for child in node.children_node:
        count(child, part, counted)


if __name__ == "__main__":
    main()
