"""Ctrl-C and SIGTERM (a cluster's or AI Studio's way to end a job) as a request to stop at the next safe point."""

from __future__ import annotations

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The run was asked to stop; ``status`` is the exit status that shells expect of a signal: 130 or 143."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


class StopRequest:
    """While entered, the first signal is only noted, so that an iteration can be finished; the second stops at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.number is not None:
            raise Stopped(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt  # asked twice: at once, whatever is half done is lost
        self.number = number
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping at the next safe point; once more stops at once\n")


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """A signal handler that stops at once."""
    raise Stopped(number)
