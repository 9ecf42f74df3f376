"""dataset_name -> Dataset and DataLoader."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Generator, Iterator

import cv2
import numpy as np
import paddle

from src.config import Config, split_paths
from src.data_provider.kth_action import KTHAction
from src.data_provider.mnist import MovingMNIST
from src.errors import UserError

Batches = Generator[paddle.Tensor, None, None]  # its close() ends the processes that read


def build_dataset(config: Config, mode: str) -> paddle.io.Dataset:
    """The clips that ``mode`` ("train" or "test") uses: ``dataset[i]`` is float32 ``[T, H, W, C]`` in [0, 1].

    Raises:
        UserError: the data set at --train_data_paths or --valid_data_paths cannot be used; the message names the flag.
    """
    flag = "train_data_paths" if mode == "train" else "valid_data_paths"
    paths = getattr(config, flag)
    try:
        if config.dataset_name == "action":
            return KTHAction(paths, mode, config.total_length, config.img_width)
        return MovingMNIST(split_paths(paths), config.total_length, config.img_width)
    except UserError as error:
        raise UserError(f"--{flag} {error}") from None


def train_batches(config: Config, dataset: paddle.io.Dataset, first_iteration: int = 1) -> Batches:
    """Batches ``[B, T, H, W, C]`` for the iterations first_iteration .. max_iterations, in shuffled order.

    Raises:
        UserError: a file cannot be read.
    """
    return _load(config, dataset, _ShuffledBatches(config, len(dataset), first_iteration))


def test_batches(config: Config, dataset: paddle.io.Dataset) -> Batches:
    """Every clip exactly once, in order; the last batch may be smaller.

    Raises:
        UserError: a file cannot be read.
    """
    order = range(len(dataset))
    size = config.batch_size
    return _load(config, dataset, [list(order[start : start + size]) for start in range(0, len(dataset), size)])


test_batches.__test__ = False  # the name is no test's


STREAM = 0  # keeps these draws apart from those of scheduled sampling, which come from the same seed


class _ShuffledBatches:
    """Indices of each iteration's batch: a function of the seed and the iteration, so a run can start anywhere.

    One shuffled epoch follows another and batches are cut from that stream: each has exactly batch_size clips and no
    clip is left out, also where batch_size does not divide the set or is larger than it.
    """

    def __init__(self, config: Config, clips: int, first_iteration: int) -> None:
        self.config, self.clips, self.first_iteration = config, clips, first_iteration

    def __len__(self) -> int:
        return self.config.max_iterations - self.first_iteration + 1

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for iteration in range(self.first_iteration, self.config.max_iterations + 1):
            batch = []
            for position in range((iteration - 1) * self.config.batch_size, iteration * self.config.batch_size):
                if position // self.clips != epoch:
                    epoch = position // self.clips
                    order = np.random.default_rng([self.config.seed, STREAM, epoch]).permutation(self.clips)
                batch.append(int(order[position % self.clips]))
            yield batch


class _ErrorsAsData(paddle.io.Dataset):
    """Returns an exception instead of raising it.

    An exception in a DataLoader's worker ends its reader thread, which prints tracebacks and leaves the main thread
    with "blocking queue is killed", or waiting for good. As data it reaches the main thread from any number of workers.
    """

    def __init__(self, dataset: paddle.io.Dataset) -> None:
        super().__init__()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray | Exception:
        try:
            return self.dataset[index]
        except Exception as error:  # whatever it is, the main thread decides
            return error


def _collate(clips: list[np.ndarray | Exception]) -> np.ndarray:
    """Clips as float32 ``[B, T, H, W, C]``; where one failed, its exception as bytes (uint8): kind, then message."""
    for clip in clips:
        if isinstance(clip, UserError):
            return _to_bytes("U", str(clip))
        if isinstance(clip, Exception):
            return _to_bytes("E", "".join(traceback.format_exception(type(clip), clip, clip.__traceback__)))
    return np.stack(clips)


def _to_bytes(kind: str, message: str) -> np.ndarray:
    # File names may hold bytes that are no UTF-8; Python keeps them as surrogates.
    return np.frombuffer((kind + message).encode("utf-8", "surrogateescape"), dtype=np.uint8).copy()


def _raise_from_bytes(content: bytes) -> None:
    message = content[1:].decode("utf-8", "backslashreplace")
    raise UserError(message) if content[:1] == b"U" else RuntimeError(f"a clip could not be made:\n{message}")


def _prepare_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # OpenCV's thread pool does not survive a fork, and one frame is too small to share
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one decides
    # SIGTERM stays with Paddle, whose own handler lets the main process end its workers without a complaint.


def _load(config: Config, dataset: paddle.io.Dataset, batch_sampler: object) -> Batches:
    loader = paddle.io.DataLoader(
        _ErrorsAsData(dataset),
        batch_sampler=batch_sampler,
        collate_fn=_collate,
        num_workers=min(config.num_workers, len(batch_sampler)),
        worker_init_fn=_prepare_worker,
    )
    for batch in loader:
        if batch.dtype == paddle.uint8:
            _raise_from_bytes(bytes(batch.numpy()))
        yield batch
