"""What the data loader delivers, against what a training step consumes.

    python benchmarks/data_time.py           a made tree of 190,000 frames for the start-up, 2,000 of KTH's size to read
    python benchmarks/data_time.py --quick   a tenth of them

The tree is made in a temporary folder (hard links to a few pictures) and removed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import paddle  # noqa: E402

from scripts.make_sample_data import make_tree  # noqa: E402
from src.config import Config  # noqa: E402
from src.data_provider.datasets_factory import build_dataset  # noqa: E402
from src.data_provider.kth_sequences import ACTIONS  # noqa: E402
from src.data_provider.loader import train_batches  # noqa: E402
from src.models.model_factory import build_model  # noqa: E402
from src.step import train_on_batch  # noqa: E402
from src.utils.optimizer import build_optimizer, build_schedule  # noqa: E402

KTH_SIZE = (160, 120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a tenth of the frames, no training step")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large"), Path(folder, "small")
        make_large_tree(large, 19_000 if arguments.quick else 190_000)
        before, started = memory_mb(), time.perf_counter()
        dataset = build_dataset(Config(train_data_paths=str(large)), "train")
        print(
            f"start-up: {len(dataset)} clips in {time.perf_counter() - started:.2f} s, "
            f"{memory_mb() - before:.0f} MB more (the process: {memory_mb():.0f} MB)"
        )
        persons = ["01", "02"] if arguments.quick else ["01", "02", "03", "04", "17"]
        make_tree(small, persons, list(ACTIONS[:4]), frames=100, size=KTH_SIZE, seed=0, scenarios=1)
        delivered = {}
        for workers in (0, 1, 2):
            delivered[workers] = frames_per_second(small, workers, 40 if arguments.quick else 200)
            print(f"--num_workers {workers}: {delivered[workers]:.0f} frames/s (128 x 128, B = 4, T = 30)")
        if not arguments.quick:
            consumed = step_frames_per_second(small)
            times = delivered[0] / consumed
            print(f"a training step at the full size consumes {consumed:.1f} frames/s, {times:.0f} times fewer")


def make_large_tree(root: Path, frames: int) -> None:
    """A tree of hard links to copies of one picture: 25 persons, 6 actions, 4 recordings each."""
    make_tree(root / "one", ["01"], ["boxing"], frames=1, size=KTH_SIZE, seed=0, scenarios=1)
    picture = next(root.glob("one/boxing/*/image_0001.jpg"))
    each = frames // (25 * 6 * 4)
    for action in ACTIONS:
        for person in range(1, 26):
            for scenario in range(1, 5):
                folder = root / action / f"person{person:02d}_{action}_d{scenario}_uncomp"
                folder.mkdir(parents=True)
                shutil.copy(picture, folder / "image_0001.jpg")  # a file takes 65,000 links, no more
                for number in range(2, each + 1):
                    os.link(folder / "image_0001.jpg", folder / f"image_{number:04d}.jpg")


def frames_per_second(root: Path, workers: int, batches: int) -> float:
    """Of the loader alone, once it runs."""
    config = Config(train_data_paths=str(root), num_workers=workers, max_iterations=batches + 10)
    iterator = train_batches(config, build_dataset(config, "train"))
    for _ in range(10):
        next(iterator)
    started = time.perf_counter()
    for _ in range(batches):
        frames = next(iterator)
    seconds = time.perf_counter() - started
    iterator.close()
    return batches * frames.shape[0] * frames.shape[1] / seconds


def step_frames_per_second(root: Path) -> float:
    """Of a training step at the full size, the second one."""
    config = Config(train_data_paths=str(root), num_workers=0)
    frames = next(train_batches(config, build_dataset(config, "train")))
    paddle.seed(0)
    model = build_model(config)
    optimizer = build_optimizer(config, build_schedule(config), model.parameters())
    for _ in range(2):
        started = time.perf_counter()
        train_on_batch(config, 1, model, optimizer, frames)
    return frames.shape[0] * frames.shape[1] / (time.perf_counter() - started)


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
