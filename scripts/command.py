"""What all scripts share: a mistake that its user can mend is one line and exit status 2, and no traceback.

from scripts.command import command  # before any package: one that is missing is one line too

@command("finished videos stay; run again for the rest")
def main() -> None: ...
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from src.errors import UserError

CLOSED_PIPE = 141  # 128 + SIGPIPE, as of a program that it kills


def command(stopped: str) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Decorator of a script's main(): it answers what its user can mend, and returns the exit status.

    Args:
        stopped: what is said after Ctrl-C.
    """

    def decorate(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def answering(*arguments: object) -> int:
            try:
                if sys.stdout is None:  # closed, as by >&-
                    return main(*arguments) or 0
                sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be Unicode
                status = main(*arguments) or 0
                sys.stdout.flush()  # here, and not when Python ends: the pipe may be closed
                return status
            except BaseException as error:
                status = _answer(error, Path(main.__code__.co_filename).name, stopped)
                if status is None:
                    raise
                return status

        return answering

    return decorate


def _answer(error: BaseException, script: str, stopped: str) -> int | None:
    """Print the line for an error and return the exit status; None if the script is to blame, not its user."""
    status = 2
    if isinstance(error, KeyboardInterrupt):
        line, status = f"stopped; {stopped}", 130
    elif isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it closes the pipe
        return CLOSED_PIPE
    elif isinstance(error, UserError):
        line = str(error)
    elif isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] not in ("src", "scripts"):
        line = (
            f"the package {error.name} is not installed for {sys.executable}; install what the project needs with "
            "pip install -r requirements.txt (for a GPU or AI Studio see Install in README.md)"
        )
    elif isinstance(error, ImportError) and ".so" in str(error):
        line = (
            f"a library cannot be loaded ({error}); see Install in README.md. If it is libGL: "
            "pip uninstall opencv-python, then pip install opencv-python-headless"
        )
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        line = f"{where}{error.strerror or error}; check the path, make room on its disk, or give another --out"
    elif isinstance(error, MemoryError):
        line = f"out of memory ({error}); free some, or ask for less"
    else:
        return None
    print(f"{script}: {' '.join(line.split())}", file=sys.stderr)
    return status


def _answer_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """In place of sys.excepthook: what comes before main(), when packages are imported."""
    status = _answer(error, Path(sys.argv[0]).name, "nothing was done")
    if status is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        sys.exit(status)


sys.excepthook = _answer_uncaught
