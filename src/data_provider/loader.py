"""Batches of clips: their order, the threads that read them, and what happens to files that are lost on the way."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, wait

import cv2
import numpy as np
import paddle

from src.config import Config
from src.errors import LostFile, UserError
from src.runtime import ranks
from src.runtime.signals import StopRequest

TRAINING_TRIES = 8  # clips to try in place of a lost one
BATCHES_AHEAD = 2  # for each reading thread
SECONDS_TO_END = 1.0  # for the reading threads, to finish their clip
POLL = 0.1  # seconds between two looks at whether a signal has come
STREAM = 0  # keeps these draws apart from those of scheduled sampling, which come from the same seed

logger = logging.getLogger("e3d_lstm")

Batches = Generator[paddle.Tensor, None, None]  # its close() ends the threads that read
Read = tuple[np.ndarray, list[str]]  # float32 [B, T, H, W, C] in [0, 1], and what was lost on the way


def train_batches(
    config: Config, dataset: paddle.io.Dataset, first_iteration: int = 1, stop: StopRequest | None = None
) -> Batches:
    """Batches ``[B, T, H, W, C]`` for the iterations first_iteration .. max_iterations, in shuffled order.

    With several ranks each has its own part of every iteration's clips.

    A file that is lost during the run is told once, and another clip takes its place; the order of the clips that
    follow stays.

    Raises:
        UserError: a file cannot be read and could not be at the start; many are lost; a thread cannot be started.
        Stopped: ``stop`` has noted a signal, and the batch does not come: a lost disk may keep it back for good.
    """
    return _load(config, dataset, _shuffled(config, len(dataset), first_iteration), TRAINING_TRIES, stop)


def test_batches(config: Config, dataset: paddle.io.Dataset, stop: StopRequest | None = None) -> Batches:
    """Every clip exactly once, in order; the last batch may be smaller.

    With several ranks the batches are dealt out: the first to rank 0, the second to rank 1, and so on.

    Raises:
        UserError: a file cannot be read; LostFile where it could be at the start.
        Stopped: as in :func:`train_batches`.
    """
    order = range(len(dataset))
    size = config.batch_size
    batches = [list(order[start : start + size]) for start in range(0, len(dataset), size)]
    return _load(config, dataset, batches[ranks.rank() :: ranks.world_size()], 1, stop)


test_batches.__test__ = False  # the name is no test's


def spread(dataset: paddle.io.Dataset, limit: int) -> paddle.io.Dataset:
    """At most ``limit`` clips (0: all), spread evenly over the data set, the same ones every time."""
    if not limit or limit >= len(dataset):
        return dataset
    return paddle.io.Subset(dataset, [index * len(dataset) // limit for index in range(limit)])


def actions_of(dataset: paddle.io.Dataset) -> list[str]:
    """What each clip shows, of a data set that has ``actions``, or of a part of one; empty where it has none."""
    if isinstance(dataset, paddle.io.Subset):
        actions = actions_of(dataset.dataset)
        return [actions[index] for index in dataset.indices] if actions else []
    return list(getattr(dataset, "actions", ()))


def _shuffled(config: Config, clips: int, first_iteration: int) -> Iterator[list[int]]:
    """Indices of each iteration's batch: a function of the seed and the iteration, so a run can start anywhere.

    One shuffled epoch follows another and batches are cut from that stream: each has exactly batch_size clips and no
    clip is left out, also where batch_size does not divide the set or is larger than it. With N ranks an iteration's
    batch has N * batch_size clips, of which each rank has its part.
    """
    epoch, order = -1, np.empty(0, dtype=np.int64)
    size = config.batch_size * ranks.world_size()
    for iteration in range(first_iteration, config.max_iterations + 1):
        batch = []
        for position in range((iteration - 1) * size, iteration * size):
            if position // clips != epoch:
                epoch = position // clips
                order = np.random.default_rng([config.seed, STREAM, epoch]).permutation(clips)
            batch.append(int(order[position % clips]))
        yield ranks.shard(batch)


def _load(
    config: Config, dataset: paddle.io.Dataset, batches: Iterable[list[int]], tries: int, stop: StopRequest | None
) -> Batches:
    cv2.setNumThreads(0)  # one frame is too small to share
    reported: set[str] = set()
    window: deque[Future[Read]] = deque()  # the batch that is needed, and those after it that are read meanwhile
    readers = _Readers(dataset, tries, config.num_workers)
    try:
        for indices in batches:
            window.append(readers.submit(indices))
            if len(window) > BATCHES_AHEAD * config.num_workers:
                yield _result(window.popleft(), stop, reported)
        while window:
            yield _result(window.popleft(), stop, reported)
    finally:
        readers.close()


def _result(batch: Future[Read], stop: StopRequest | None, reported: set[str]) -> paddle.Tensor:
    while not wait([batch], POLL).done:
        if stop is not None:
            stop.check()
    frames, lost = batch.result()
    for message in lost:
        if message not in reported:
            logger.warning("lost: %s; another clip takes its place", message)
            reported.add(message)
    return paddle.to_tensor(frames)


class _Readers:
    """Threads that read batches, in the order in which they are submitted; with num_workers 0 there is one too, as a
    main thread that reads a lost disk itself would not come to see a signal.

    They are daemons: those of concurrent.futures' own pool keep the program from ending while a disk holds one of them.
    """

    def __init__(self, dataset: paddle.io.Dataset, tries: int, num_workers: int) -> None:
        self.dataset, self.tries = dataset, tries
        self.tasks: queue.SimpleQueue[tuple[list[int], Future[Read]] | None] = queue.SimpleQueue()
        self.closed = False
        self.threads: list[threading.Thread] = []
        atexit.register(self.close)  # a thread in OpenCV's code when the interpreter ends would abort the process
        for _ in range(max(1, num_workers)):
            thread = threading.Thread(target=self._work, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self.close()
                raise UserError(
                    f"--num_workers {num_workers}: the threads that read frames cannot be started; give a smaller "
                    "number, or raise the system's limit (ulimit -u)"
                ) from None
            self.threads.append(thread)

    def submit(self, indices: list[int]) -> Future[Read]:
        batch: Future[Read] = Future()
        self.tasks.put((indices, batch))
        return batch

    def close(self) -> None:
        """End the threads; one that reads a lost disk or a long video is left to itself after a second."""
        self.closed = True
        for _ in self.threads:
            self.tasks.put(None)
        deadline = time.monotonic() + SECONDS_TO_END
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self.threads):
            atexit.unregister(self.close)

    def _work(self) -> None:
        for indices, batch in iter(self.tasks.get, None):
            lost: list[str] = []
            try:
                clips = [self._clip(index, lost) for index in indices if not self.closed]
                batch.set_result((np.stack(clips), lost))
            except BaseException as error:  # whatever it is, the main thread decides
                batch.set_exception(error)

    def _clip(self, index: int, lost: list[str]) -> np.ndarray:
        """A clip; where its file is lost another one takes its place, and ``lost`` is added to."""
        clips, before = len(self.dataset), len(lost)
        for attempt in range(self.tries):
            # Spread over the set: the neighbours of a clip may hold the same frames, or lie in the same lost folder.
            other = (index + attempt * (clips // self.tries + 1)) % clips
            try:
                return self.dataset[other]
            except LostFile as error:
                lost.append(str(error))
        raise LostFile(lost[before])
