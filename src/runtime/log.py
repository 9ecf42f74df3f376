"""What a run says: lines on the terminal, a bar where there is one, and all of it in <save_dir>/train.log."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Iterator

from tqdm import tqdm

from src.errors import UserError, WriteError
from src.runtime import ranks
from src.runtime.files import lock

LOG_FILE = "train.log"

logger = logging.getLogger("e3d_lstm")


def log_to(save_dir: str | None) -> None:
    """Log to the terminal and, in a training, to train.log of save_dir. Both are locked: a save_dir has one run.

    Of a job's ranks the first does so; the others print warnings alone, which the launcher keeps in workerlog.N.

    Raises:
        UserError: the file cannot be written, or another process trains there.
    """
    logger.setLevel(logging.DEBUG)  # the log file takes everything
    logger.propagate = False
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # Paddle's root logger would print what it says of fonts
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(_Terminal(logging.INFO if ranks.is_first() else logging.WARNING))
    if save_dir is not None and ranks.is_first():
        logger.addHandler(_LogFile(save_dir))


@contextlib.contextmanager
def warn_if_unwritable(is_training: bool) -> Iterator[None]:
    """In a training, a file that cannot be written is a warning and the training goes on; elsewhere it is an error."""
    try:
        yield
    except WriteError as error:
        if not is_training:
            raise
        logger.warning("%s; the training goes on", error)


class _Terminal(logging.Handler):
    """Standard output that a bar does not tear apart; lines that the bar shows are left out where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not (sys.stderr.isatty() and sys.stdout.isatty()):
                print(self.format(record), flush=True)
            elif not getattr(record, "on_bar", False):
                tqdm.write(self.format(record))
        except OSError:  # a closed pipe, a lost terminal, a full disk: no reason to end a training
            pass


class _LogFile(logging.FileHandler):
    """train.log. A line that cannot be written is lost: no reason to end a training either."""

    folder: int | None = None  # descriptor of save_dir

    def __init__(self, save_dir: str) -> None:
        path = os.path.join(save_dir, LOG_FILE)
        try:
            self.folder = os.open(save_dir, os.O_RDONLY)
        except OSError as error:
            raise UserError(
                f"--save_dir {save_dir}: cannot be read ({error.strerror}); check its permissions, or give another"
            ) from None
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            self.leave_folder()
            raise UserError(f"--save_dir {save_dir}: {path} cannot be written ({error.strerror})") from None
        try:
            # The file's lock holds between machines too, the folder's where a user deletes train.log during a run.
            lock(self.stream)
            lock(self.folder, fcntl.flock)
        except BlockingIOError:
            self.close()
            raise UserError(
                f"--save_dir {save_dir}: another process is training there; wait for it, or give another folder"
            ) from None
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def close(self) -> None:
        self.leave_folder()
        super().close()

    def leave_folder(self) -> None:
        """Close this process's descriptor of the folder; its lock ends when the last process has done so."""
        if self.folder is not None:
            os.close(self.folder)
            self.folder = None

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _leave_folder() -> None:
    """A forked process, as of a user's data set, inherits flock's lock (not lockf's), which is to end with the run."""
    for handler in logger.handlers:
        if isinstance(handler, _LogFile):
            handler.leave_folder()


os.register_at_fork(after_in_child=_leave_folder)
