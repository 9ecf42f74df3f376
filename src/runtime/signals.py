"""Ctrl-C, SIGTERM (a cluster's or AI Studio's way to end a job) and SIGHUP (a lost connection) as a request to stop at
the next safe point."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from src.runtime import ranks

PR_SET_PDEATHSIG = 1  # of prctl(2)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The run was asked to stop; ``status`` is the exit status that shells expect of a signal: 130, 143 or 129."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        self.status = 128 + number


class Signal(NamedTuple):
    """A signal and when it came, in seconds of time.monotonic()."""

    number: int
    time: float


_first: Signal | None = None


class StopRequest:
    """While entered, the first signal is only noted, so that an iteration can be finished; the second stops at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._twice = False

    def __enter__(self) -> StopRequest:
        self._before = handle_signals(self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._twice and kind is not None:  # out of a backward pass KeyboardInterrupt comes as an error of Paddle
            raise KeyboardInterrupt from None

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.number is not None:
            raise Stopped(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number == signal.SIGHUP:  # a closing terminal may send several: the kernel one, the shell another
                return
            self._twice = True
            raise KeyboardInterrupt  # asked twice: at once, whatever is half done is lost
        self.number = number
        # Not print: the signal may have come in the middle of one.
        more = b"" if ranks.is_launched() else b"; once more stops at once"
        try:
            os.write(2, b"\nstopping at the next safe point" + more + b"\n")
        except OSError:  # the terminal is gone
            pass


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle the signals that stop a run; returns what handled them before. The SIGHUP that nohup ignores stays so.

    Of those that Paddle's launcher sends only the first counts: it sends three within half a second for one.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        global _first
        if _first is not None and ranks.is_launched():
            return
        _first = _first or Signal(number, time.monotonic())
        handler(number, frame)

    watched = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handle) for number in watched}


@contextlib.contextmanager
def sigterm_waits() -> Iterator[None]:
    """While entered, SIGTERM waits: Paddle puts a handler of its own in the place of ours when it is imported, which
    prints a block and kills the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def first_signal() -> Signal | None:
    """The first signal to stop that this process was sent, if there was one."""
    return _first


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """A signal handler that stops at once."""
    raise Stopped(number)


def die_with_parent(parent: int) -> None:
    """Have this process killed when the one that started it, with the id ``parent``, ends in any way, kill -9 included
    (Linux only): a pool's processes would wait in their pipes for good."""
    if sys.platform.startswith("linux"):
        _ask_for_signal(signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)


def stop_with_launcher() -> None:
    """Where Paddle's launcher has started this process, have it asked to stop when the launcher ends in any way (Linux
    only): its processes have sessions of their own, so a lost connection or a kill -9 would leave them running."""
    if ranks.is_launched() and sys.platform.startswith("linux"):
        _ask_for_signal(signal.SIGTERM)


def _ask_for_signal(number: int) -> None:
    """From the system, when the parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
