"""What a run says: lines on the terminal, a bar where there is one, and all of it in <save_dir>/train.log."""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import sys

from tqdm import tqdm

from src.config import Config
from src.errors import UserError
from src.runtime import ranks

LOG_FILE = "train.log"
SPEED_MEMORY = 0.95  # how much of the mean time of an iteration is carried over to the next

logger = logging.getLogger("e3d_lstm")


def log_to(save_dir: str | None) -> None:
    """Log to the terminal and, in a training, to train.log of save_dir, which stays locked: a save_dir has one run.

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


class Progress:
    """A bar on a terminal, plain lines elsewhere; the log file gets the lines either way."""

    def __init__(self, config: Config, iterations_done: int) -> None:
        self.config = config
        self.mean_seconds: float | None = None
        self.bar = tqdm(
            total=config.max_iterations, initial=iterations_done, unit="it", dynamic_ncols=True, disable=None
        )

    def step(self, iteration: int, loss: float, lr: float, eta: float, seconds: float, reading: float) -> None:
        """Show an iteration: its loss, learning rate, probability of a true frame, and seconds (for reading alone)."""
        memory = 0.0 if self.mean_seconds is None else SPEED_MEMORY
        self.mean_seconds = memory * (self.mean_seconds or 0.0) + (1 - memory) * seconds
        self._on_bar(self.bar.update)
        if iteration % self.config.display_interval:
            return
        speed = ranks.rank_count() * self.config.batch_size * self.config.total_length / seconds
        left = datetime.timedelta(seconds=round(self.mean_seconds * (self.config.max_iterations - iteration)))
        # The bar itself shows time per iteration and time left; 80 columns have to hold it all.
        self._on_bar(self.bar.set_postfix_str, f"loss {loss:.4g}, lr {lr:.3g}, eta {eta:.3f}, {speed:.0f} f/s")
        logger.info(
            "iteration %d/%d, loss %.4f, lr %.3g, eta %.4f, %.3f s/it (reading %.3f), %.1f frames/s, left %s",
            iteration, self.config.max_iterations, loss, lr, eta, seconds, reading, speed, left,
            extra={"on_bar": True},
        )  # fmt: skip

    def close(self) -> None:
        self._on_bar(self.bar.close)

    def _on_bar(self, show, *arguments: object) -> None:
        try:
            show(*arguments)
        except OSError:  # the terminal is gone (a lost connection): the run goes on
            self.bar.disable = True


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

    def __init__(self, save_dir: str) -> None:
        path = os.path.join(save_dir, LOG_FILE)
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"--save_dir {save_dir}: {path} cannot be written ({error.strerror})") from None
        try:
            # lockf, not flock: a lock that the processes which read frames do not inherit ends with this process.
            fcntl.lockf(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise UserError(
                f"--save_dir {save_dir}: another process is training there; wait for it, or give another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        pass
