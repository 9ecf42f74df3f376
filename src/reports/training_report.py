"""What a training leaves to look at: config.json, losses.csv, metrics.csv, curves.png and logs for VisualDL; and its
progress on the terminal.

None of the files is needed to go on, so one that cannot be written is a warning, given once, and the training goes on.
Of a job's ranks rank 0 writes them.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from src.config import Config
from src.flag_values import lr_schedule_length
from src.reports.charts import draw_curves
from src.reports.forecast_report import remove_clips
from src.reports.training_files import (
    COLUMNS_OF,
    CONFIG_FILE,
    CURVES_FILE,
    LATER_COLUMNS,
    LOSSES_FILE,
    METRICS,
    METRICS_CSV,
    rows_of_csv,
)
from src.reports.versions import versions
from src.runtime import ranks
from src.runtime.files import free_name, write_whole
from src.utils.metrics import UNITS, to_uint8

LOSSES = ("iteration", "loss", "lr", "eta", "gradient_norm", "seconds")
LONG_TESTS = 0.2  # of a training's time is worth a line of advice,
LONG_SECONDS = 60  # if the tests to come take more than this
FEWER_CLIPS = 200  # of a test, which tell much the same
SPEED_MEMORY = 0.95  # how much of the mean time of an iteration is carried over to the next
# Of the progress bar; tqdm's own has no room for all of it on 80 columns.
BAR = "{n_fmt}/{total_fmt}|{bar}| {rate_inv_fmt}, left {remaining}{postfix}"
WIDE_TERMINAL = 110  # columns that have room for more than loss and learning rate
ZOOM_TO = 64  # pixels: smaller frames are enlarged in VisualDL's pictures

logger = logging.getLogger("e3d_lstm")


def log_settings(config: Config, iterations_done: int) -> None:
    """Log what is unusual about a training's settings; all of them go to the log file."""
    logger.debug("settings: %s", dataclasses.asdict(config))
    if iterations_done > config.max_iterations:
        logger.warning("--max_iterations %d: the run has %d already", config.max_iterations, iterations_done)
    length = lr_schedule_length(config.lr_schedule)
    if length > config.max_iterations:
        logger.warning(
            "--max_iterations %d ends before the %d iterations of --lr_schedule", config.max_iterations, length
        )
    if config.l1_weight != 1 or config.l1_from > 1:  # not the paper's loss: figures of the two cannot be compared
        since = f", these from iteration {config.l1_from} on" if config.l1_weight and config.l1_from > 1 else ""
        logger.info("loss: squares / 2 + %g x absolute differences%s", config.l1_weight, since)


class Progress:
    """A bar on a terminal, plain lines elsewhere; the log file gets the lines either way."""

    def __init__(self, config: Config, iterations_done: int) -> None:
        self.config = config
        self.mean_seconds: float | None = None
        self.bar = tqdm(
            total=config.max_iterations,
            initial=iterations_done,
            unit="it",
            dynamic_ncols=True,
            disable=None,
            bar_format=BAR,
        )

    def step(self, iteration: int, loss: float, lr: float, eta: float, seconds: float, reading: float) -> None:
        """Show an iteration: its loss, learning rate, probability of a true frame, and seconds (for reading alone)."""
        memory = 0.0 if self.mean_seconds is None else SPEED_MEMORY
        self.mean_seconds = memory * (self.mean_seconds or 0.0) + (1 - memory) * seconds
        self._on_bar(self.bar.update)
        if iteration % self.config.display_interval:
            return
        speed = ranks.world_size() * self.config.batch_size * self.config.total_length / seconds
        left = datetime.timedelta(seconds=round(self.mean_seconds * (self.config.max_iterations - iteration)))
        text = f"loss {loss:.4g}, lr {lr:.3g}"
        if not self.bar.disable and (self.bar.format_dict["ncols"] or 0) >= WIDE_TERMINAL:
            text += f", sampling {eta:.3f}, {speed:.0f} frames/s"
        self._on_bar(self.bar.set_postfix_str, text)
        logger.info(
            "iteration %d/%d, loss %.4f, lr %.3g, sampling %.4f, %.3f s/it (reading %.3f), %.1f frames/s, left %s",
            iteration,
            self.config.max_iterations,
            loss,
            lr,
            eta,
            seconds,
            reading,
            speed,
            left,
            extra={"on_bar": True},
        )

    def close(self) -> None:
        self._on_bar(self.bar.close)

    def _on_bar(self, show, *arguments: object) -> None:
        try:
            show(*arguments)
        except OSError:  # the terminal is gone (a lost connection): the run goes on
            self.bar.disable = True


class TrainingReport:
    """Writes the files of a run into save_dir, and into --log_dir if that is given.

    Args:
        config: settings of the run.
        iteration, tested: the last iteration that is done, and that of the last test. Lines of later ones, of a run
            that was killed after its last checkpoint, are taken out: they are done again. At 0, the start of a new
            run, files that are there are renamed.
        device: what the run runs on.
    """

    def __init__(self, config: Config, iteration: int, tested: int, device: str) -> None:
        self.config = config
        self.failed: set[str] = set()
        self.visual_dl: Any = None
        self.losses = self.metrics = None
        self.iteration_seconds: deque[float] | None = deque(maxlen=100)  # None after the advice on tests
        if iteration == 0:
            for name in (CONFIG_FILE, LOSSES_FILE, METRICS_CSV, CURVES_FILE):
                self._attempt(name, _keep_earlier, os.path.join(config.save_dir, name))
        self._attempt(CONFIG_FILE, self._write_config, device)
        self.losses = self._attempt(LOSSES_FILE, self._open, LOSSES_FILE, LOSSES, iteration)
        self.metrics = self._attempt(METRICS_CSV, self._open, METRICS_CSV, METRICS, tested)
        if config.log_dir:
            self.visual_dl = self._attempt("--log_dir", _visual_dl, config.log_dir, iteration > 0)

    def step(self, iteration: int, loss: float, lr: float, eta: float, norm: float | None, seconds: float) -> None:
        """Record a training iteration: its loss, learning rate, probability of a true frame, gradient norm (None if
        its step was skipped), seconds."""
        if self.iteration_seconds is not None:
            self.iteration_seconds.append(seconds)
        values = (loss, lr, eta, norm, seconds)
        self._attempt(LOSSES_FILE, self._append, self.losses, (iteration, *values))
        for name, value in zip(LOSSES[1:-1], values):
            self._scalar(f"train/{name}", value, iteration)
        self._scalar("train/ips", ranks.world_size() * self.config.batch_size / seconds, iteration)

    def test(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Record the metrics of a test (what its metrics.json holds) and draw the curves anew."""
        row = (iteration, metrics["sequences"], *(metrics[who][name] for who in COLUMNS_OF for name in UNITS))
        self._attempt(METRICS_CSV, self._append, self.metrics, row)
        for name in UNITS:
            self._scalar(f"test/{name}", metrics["model"][name], iteration)
        self._attempt(CURVES_FILE, draw_curves, self.config.save_dir)

    def advise_on_tests(self, iteration: int, clips: int, seconds: float) -> None:
        """Say once, after the first test, if tests will take much of the training, and which flag makes it less.

        Args:
            iteration: of the test.
            clips: of the test.
            seconds: that it took.
        """
        if not self.iteration_seconds:
            return
        interval = self.config.test_interval
        trained = interval * float(np.median(self.iteration_seconds))  # seconds between two tests
        self.iteration_seconds = None
        to_come = (self.config.max_iterations - iteration) // interval * seconds
        if seconds < LONG_TESTS * (seconds + trained) or to_come < LONG_SECONDS:
            return
        if clips > FEWER_CLIPS:
            flag, less = f"--test_max_clips {FEWER_CLIPS}", seconds * FEWER_CLIPS / clips
        else:
            flag, less = f"--test_interval {10 * interval}", seconds / 10
        share, left = (100 * test / (test + trained) for test in (seconds, less))
        logger.info("tests of %d clips will take %.0f %% of the run; %s makes it %.0f %%", clips, share, flag, left)

    def remove_old_pictures(self, best: Mapping[str, Any] | None) -> None:
        """Remove the pictures of all but the newest --keep_pictures tests of this run and of the best one.

        What metrics.csv lists are this run's tests. metrics.json, per_frame.png and report.html stay.

        Args:
            best: the best test so far, as state.json holds it.
        """
        if not self.config.keep_pictures or not ranks.is_first():
            return
        try:
            rows = rows_of_csv(os.path.join(self.config.save_dir, METRICS_CSV), METRICS[:1])
            tests = sorted({int(row["iteration"]) for row in rows})
            for iteration in tests[: -self.config.keep_pictures]:
                if best is None or iteration != best["iteration"]:
                    remove_clips(os.path.join(self.config.gen_frm_dir, str(iteration)))
        except (OSError, ValueError, csv.Error) as error:
            logger.warning("pictures of older tests cannot be removed (%s)", error)

    def forecast(self, iteration: int, number: int, true: np.ndarray, pred: np.ndarray) -> None:
        """Give VisualDL a picture of a forecast: the true frames above, the predicted ones ``[steps, H, W, C]`` below.

        Args:
            iteration: of the test.
            number: of the test batch, from 1.
            true, pred: frames in [0, 1] (pred is clipped), of the same shape.
        """
        if self.visual_dl is None:
            return
        rows = [np.concatenate(list(to_uint8(frames)), axis=1) for frames in (true, pred)]
        picture = np.concatenate(rows)
        zoom = max(1, ZOOM_TO // true.shape[1])
        picture = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
        self._attempt("--log_dir", self.visual_dl.add_image, f"test/forecast_{number}", picture, iteration)

    def close(self) -> None:
        """Close the files."""
        for name, file in ((LOSSES_FILE, self.losses), (METRICS_CSV, self.metrics), ("--log_dir", self.visual_dl)):
            if file is not None:
                self._attempt(name, file.close)

    def _scalar(self, tag: str, value: float | None, iteration: int) -> None:
        if self.visual_dl is not None and value is not None:
            self._attempt("--log_dir", self.visual_dl.add_scalar, tag, value, iteration)

    def _attempt(self, name: str, write: Callable[..., Any], *arguments: Any) -> Any:
        if not ranks.is_first():
            return None
        try:
            return write(*arguments)
        # ValueError: numbers in a file that someone has edited; ImportError: matplotlib or VisualDL is not installed.
        except (OSError, ValueError, csv.Error, ImportError) as error:
            if name not in self.failed:
                self.failed.add(name)
                logger.warning("%s cannot be written (%s); the training goes on without", name, error)
            return None

    def _write_config(self, device: str) -> None:
        content = {
            "flags": dataclasses.asdict(self.config),
            "command": sys.argv,
            "device": device,
            "ranks": ranks.world_size(),
            "versions": versions(),
        }
        write_whole(os.path.join(self.config.save_dir, CONFIG_FILE), json.dumps(content, indent=1))

    def _open(self, name: str, header: Sequence[str], iteration: int) -> io.TextIOBase:
        path = os.path.join(self.config.save_dir, name)
        required = [column for column in header if column not in LATER_COLUMNS]
        rows = [row for row in rows_of_csv(path, required) if int(row["iteration"]) <= iteration]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([header, *([row.get(column, "") for column in header] for row in rows)])
        write_whole(path, text.getvalue())
        return open(path, "a", encoding="utf-8", newline="", buffering=1)

    @staticmethod
    def _append(file: io.TextIOBase | None, row: Sequence[Any]) -> None:
        if file is not None:
            csv.writer(file, lineterminator="\n").writerow(["" if value is None else value for value in row])


def _keep_earlier(path: str) -> None:
    """Rename a file of another run, or the user's own, that is in the way."""
    if os.path.lexists(path):
        os.rename(path, free_name(path, "earlier"))


def _visual_dl(log_dir: str, resumed: bool) -> Any:
    from visualdl import LogWriter

    # VisualDL shows one file of a folder: a run that is resumed goes on writing its file.
    os.makedirs(log_dir, exist_ok=True)
    files = sorted(name for name in os.listdir(log_dir) if resumed and name.startswith("vdlrecords."))
    return LogWriter(log_dir, file_name=files[-1] if files else "")
