"""Batches of clips: their order, the processes that read them, and what happens to files that are lost on the way."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Generator, Iterator, Sized
from concurrent.futures import Future, wait

import cv2
import numpy as np
import paddle

from src.config import Config
from src.errors import LostFile, UserError
from src.runtime import ranks
from src.runtime.signals import SIGNALS, StopRequest, die_with_parent

ERRORS = (LostFile, UserError, MemoryError)  # that keep their kind on the way from a process that reads
TRAINING_TRIES = 8  # clips to try in place of a lost one
MAX_DEATHS = 3  # of reading processes, in a row
SECONDS_TO_END = 1.0  # for reading processes, or the thread of --num_workers 0, to finish their batch
POLL = 0.1  # seconds between two looks at whether a signal has come or a reading process has died
STREAM = 0  # keeps these draws apart from those of scheduled sampling, which come from the same seed

logger = logging.getLogger("e3d_lstm")

Batches = Generator[paddle.Tensor, None, None]  # its close() ends the processes that read


def train_batches(
    config: Config, dataset: paddle.io.Dataset, first_iteration: int = 1, stop: StopRequest | None = None
) -> Batches:
    """Batches ``[B, T, H, W, C]`` for the iterations first_iteration .. max_iterations, in shuffled order.

    With several ranks each has its own part of every iteration's clips.

    A file that is lost during the run is told once, and another clip takes its place. A reading process that is killed
    is started again. Neither changes the order of the clips that follow.

    Raises:
        UserError: a file cannot be read and could not be at the start; many are lost; processes are killed repeatedly.
        Stopped: ``stop`` has noted a signal, and the batch does not come: a lost disk may keep it back for good.
    """
    return _load(config, dataset, _ShuffledBatches(config, len(dataset), first_iteration), TRAINING_TRIES, stop)


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


class _ShuffledBatches:
    """Indices of each iteration's batch: a function of the seed and the iteration, so a run can start anywhere.

    One shuffled epoch follows another and batches are cut from that stream: each has exactly batch_size clips and no
    clip is left out, also where batch_size does not divide the set or is larger than it. With N ranks an iteration's
    batch has N * batch_size clips, of which each rank has its part.
    """

    def __init__(self, config: Config, clips: int, first_iteration: int) -> None:
        self.config, self.clips, self.first_iteration = config, clips, first_iteration

    def __len__(self) -> int:
        return self.config.max_iterations - self.first_iteration + 1

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        size = self.config.batch_size * ranks.world_size()
        for iteration in range(self.first_iteration, self.config.max_iterations + 1):
            batch = []
            for position in range((iteration - 1) * size, iteration * size):
                if position // self.clips != epoch:
                    epoch = position // self.clips
                    order = np.random.default_rng([self.config.seed, STREAM, epoch]).permutation(self.clips)
                batch.append(int(order[position % self.clips]))
            yield ranks.shard(batch)


class _ReplacingLostClips(paddle.io.Dataset):
    """(clip, what was lost): a clip whose file is lost is replaced by another one, up to ``tries`` times.

    Where none is left, or on any other error, the exception stands in place of the clip.

    An exception in a DataLoader's worker ends its reader thread, which prints tracebacks and leaves the main thread
    with "blocking queue is killed", or waiting for good. As data it reaches the main thread from any number of workers.
    """

    def __init__(self, dataset: paddle.io.Dataset, tries: int) -> None:
        super().__init__()
        self.dataset, self.tries = dataset, tries

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[np.ndarray | Exception, list[str]]:
        lost: list[str] = []
        for attempt in range(self.tries):
            # Spread over the set: the neighbours of a clip may hold the same frames, or lie in the same lost folder.
            other = (index + attempt * (len(self) // self.tries + 1)) % len(self)
            try:
                return self.dataset[other], lost
            except LostFile as error:
                lost.append(str(error))
            except Exception as error:  # whatever it is, the main thread decides
                return error, lost
        return LostFile(lost[0]), lost


def _collate(samples: list[tuple[np.ndarray | Exception, list[str]]]) -> tuple[np.ndarray, np.ndarray]:
    """Clips as float32 ``[B, T, H, W, C]``, and JSON as bytes (uint8): what was lost, and the error if there is one."""
    note = {"lost": [message for _, lost in samples for message in lost]}
    errors = [clip for clip, _ in samples if isinstance(clip, Exception)]
    frames = np.zeros([1], dtype=np.float32)
    try:
        if not errors:
            frames = np.stack([clip for clip, _ in samples])
    except MemoryError as error:
        errors = [error]
    if errors:
        kind = next((kind for kind in ERRORS if isinstance(errors[0], kind)), None)
        note["kind"] = kind.__name__ if kind else ""
        trace = traceback.format_exception(type(errors[0]), errors[0], errors[0].__traceback__)
        note["message"] = str(errors[0]) if kind else "".join(trace)
    return frames, np.frombuffer(json.dumps(note).encode(), dtype=np.uint8).copy()


def _raise(note: dict[str, str]) -> None:
    message = note["message"].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    for kind in ERRORS:
        if note["kind"] == kind.__name__:
            raise kind(message)
    raise RuntimeError(f"a clip could not be made:\n{message}")


def _prepare_worker(worker: int, parent: int) -> None:
    cv2.setNumThreads(0)  # OpenCV's thread pool does not survive a fork, and one frame is too small to share
    for number in SIGNALS:  # a terminal or a launcher sends them to every process of a run; the main one decides
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent)


class _Remaining:
    """The batches of a sampler from one on."""

    def __init__(self, batches: Sized, served: int) -> None:
        self.batches, self.served = batches, served

    def __len__(self) -> int:
        return len(self.batches) - self.served

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(self.batches, self.served, None)


def _load(config: Config, dataset: paddle.io.Dataset, batches: Sized, tries: int, stop: StopRequest | None) -> Batches:
    served = deaths = 0
    lost_files: set[str] = set()
    while served < len(batches):
        with _reading(config, _ReplacingLostClips(dataset, tries), _Remaining(batches, served)) as reader:
            while served < len(batches):
                try:
                    frames, note = reader.next(stop)
                except (SystemError, ChildProcessError):  # the first is Paddle's way to say that a worker has died
                    deaths += 1
                    if deaths == MAX_DEATHS:
                        raise UserError(
                            f"--num_workers {config.num_workers}: the processes that read frames were killed {deaths} "
                            "times in a row (out of memory?); give a smaller number, 0 to read in the main process"
                        ) from None
                    logger.warning("a process that reads frames was killed; starting it again")
                    break
                note = json.loads(bytes(note.numpy()))
                for message in note["lost"]:
                    if message not in lost_files and "message" not in note:
                        logger.warning("lost: %s; another clip takes its place", message)
                        lost_files.add(message)
                if "message" in note:
                    _raise(note)
                yield frames
                served += 1
                deaths = 0


@contextlib.contextmanager
def _reading(config: Config, dataset: paddle.io.Dataset, batches: Sized) -> Iterator[_Reader]:
    """A reader of the batches; its processes and its thread end when this is left, or with the program."""
    reader = _Reader(config, dataset, batches)
    atexit.register(reader.end)  # earlier than multiprocessing, which would wait for processes that ignore its SIGTERM
    try:
        yield reader
    finally:
        reader.end()
        atexit.unregister(reader.end)  # not before: a second signal may have come in between


class _Reader:
    """Paddle's iterator over the batches, for which a thread waits.

    Paddle waits in a lock of its own, which no signal ends. This one's main thread waits in one of Python's.
    """

    def __init__(self, config: Config, dataset: paddle.io.Dataset, batches: Sized) -> None:
        loader = paddle.io.DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=_collate,
            num_workers=min(config.num_workers, len(batches)),
            worker_init_fn=functools.partial(_prepare_worker, parent=os.getpid()),
            # Batches come through pipes. /dev/shm has 64 MB in a container as a rule, 8 batches of the full size; where
            # it is full a bus error kills the process, and what a stopped run leaves there stays.
            use_shared_memory=False,
        )
        on_death = signal.getsignal(signal.SIGCHLD)
        self.iterator = _start(loader)
        if signal.getsignal(signal.SIGCHLD) is not on_death:
            # Paddle's handler would raise in the middle of a training step; without it the reader tells, between two.
            signal.signal(signal.SIGCHLD, on_death)
        self.workers = getattr(self.iterator, "_workers", [])  # none with --num_workers 0
        self.waiting: threading.Thread | None = None

    def next(self, stop: StopRequest | None) -> list[paddle.Tensor]:
        """The next batch and its note.

        Raises:
            Stopped: ``stop`` has noted a signal, and the batch does not come.
            ChildProcessError, SystemError: a reading process has died.
        """
        batch: Future[list[paddle.Tensor]] = Future()
        self.waiting = threading.Thread(target=_put_next, args=(self.iterator, batch), daemon=True)
        self.waiting.start()
        while not wait([batch], POLL).done:
            if stop is not None:
                stop.check()
            if not all(worker.is_alive() for worker in self.workers):
                # Paddle finds that out too, but not where the process died while it wrote into the pipe of all.
                raise ChildProcessError
        return batch.result()

    def end(self) -> None:
        """Paddle itself ends its processes and its thread after the last batch alone: the thread holds the iterator, so
        that its __del__ is never called. It has no public way to do so before."""
        stalled = self.waiting is not None and self.waiting.is_alive()
        thread = self.iterator._thread
        if not self.workers:
            self.iterator._thread = None  # Paddle would wait for it at the exit, for good where the disk is lost
        self.iterator._exit_thread_expectedly()  # a thread that waits goes on to end the processes
        if self.workers and not stalled:
            self.iterator._try_shutdown_all(timeout=0)  # asks them to end
        deadline = time.monotonic() + SECONDS_TO_END
        for worker in self.workers:
            worker.join(0.0 if stalled else max(0.0, deadline - time.monotonic()))
            worker.kill()  # it reads a long video, or waits for a lost disk
            worker.join(SECONDS_TO_END)  # some disks hold even a killed one
        if thread and not self.workers:
            thread.join(SECONDS_TO_END)


def _start(loader: paddle.io.DataLoader) -> Iterator:
    others = multiprocessing.active_children()
    try:
        return iter(loader)
    except OSError as error:
        for worker in multiprocessing.active_children():
            if worker not in others:
                worker.kill()  # at the exit Python would wait for it
                worker.join(SECONDS_TO_END)
        raise UserError(
            f"--num_workers {loader.num_workers}: the processes that read frames cannot be started ({error.strerror}); "
            "give a smaller number, 0 to read in the main process, or raise the system's limit (ulimit -n for open "
            "files, ulimit -u for processes)"
        ) from None


def _put_next(iterator: Iterator, batch: Future) -> None:
    try:
        batch.set_result(next(iterator))
    except BaseException as error:
        batch.set_exception(error)
