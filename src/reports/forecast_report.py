"""What a test leaves behind: figures (a table, metrics.json) and pictures."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from src.config import Config
from src.data_provider.datasets_factory import TEST_SET
from src.errors import WriteError
from src.reports.charts import draw_per_frame
from src.reports.figures import METRICS_FILE
from src.reports.own_folder import FILM, TEST, kind_of, take_folder
from src.reports.pictures import (
    ANIMATION_FILE,
    FRAMES_PER_SECOND,
    PER_FRAME_FILE,
    SHEET_FILE,
    VIDEO_FILE,
    animation,
    contact_sheet,
    write_gif,
    write_mp4,
    write_png,
)
from src.reports.report_page import CHOSEN_ON_TEST_SET, REPORT_FILE, report_page
from src.runtime.files import remove_files, write_whole
from src.runtime.log import warn_if_unwritable
from src.utils.metrics import BASELINES, UNITS, frame_mae, frame_mse, frame_psnr, frame_ssim, to_uint8

PICTURE_NAME = re.compile(rf"(gt|pd)\d+\.png|{re.escape(SHEET_FILE)}|{re.escape(ANIMATION_FILE)}")
COLUMNS = "repeat = the last given frame, repeated; mean = the mean of the given frames"
CELL_WIDTH = 6  # of the table: with this and the longest action it has 100 characters

logger = logging.getLogger("e3d_lstm")


class FrameMetrics:
    """PSNR, SSIM, MSE and MAE of each predicted frame of each clip: those of ``parts``, and what is added."""

    def __init__(self, parts: Sequence[FrameMetrics] = ()) -> None:
        self.per_clip = {name: [values for part in parts for values in part.per_clip[name]] for name in UNITS}

    def add(self, pred: np.ndarray, true: np.ndarray) -> None:
        """Add a batch: frames ``[B, steps, H, W, C]``, true in [0, 1], pred is clipped to it."""
        frames = [array.reshape([-1, *array.shape[2:]]) for array in (pred, true)]
        in_uint8 = [to_uint8(array) for array in frames]
        self.per_clip["psnr"].append(frame_psnr(*in_uint8).reshape(true.shape[:2]))
        self.per_clip["ssim"].append(frame_ssim(*in_uint8).reshape(true.shape[:2]))
        self.per_clip["mse"].append(frame_mse(*frames).reshape(true.shape[:2]))
        self.per_clip["mae"].append(frame_mae(*frames).reshape(true.shape[:2]))

    def summary(self) -> dict[str, Any]:
        """Mean of each metric over clips and frames, and over the clips for each predicted frame.

        A frame predicted without any error has an infinite PSNR: it is left out of the means, and counted.
        """
        result: dict[str, Any] = {}
        for name in UNITS:
            values = self.values(name)
            if name == "psnr":
                result["psnr_infinite_frames"] = int((values == np.inf).sum())
            result[name] = _mean(values)
            result[f"{name}_per_frame"] = [_mean(values[:, step]) for step in range(values.shape[1])]
        return result

    def means(self, clips: np.ndarray) -> dict[str, float | None]:
        """Mean of each metric over some of the clips (a mask, bool ``[clips]``) and their frames."""
        return {name: _mean(self.values(name)[clips]) for name in UNITS}

    def values(self, name: str) -> np.ndarray:
        """A metric of every frame, float64 ``[clips, steps]``."""
        return np.concatenate(self.per_clip[name])


class ForecastMetrics:
    """:class:`FrameMetrics` of forecasts, and of the trivial ones of BASELINES, which are made of the given frames.

    It begins with those of ``parts``.
    """

    def __init__(self, parts: Sequence[ForecastMetrics] = ()) -> None:
        names = ("model", *BASELINES)
        self.of_forecast = {name: FrameMetrics([part.of_forecast[name] for part in parts]) for name in names}
        self.actions = [action for part in parts for action in part.actions]  # of each clip, if they are known

    def add(self, given: np.ndarray, true: np.ndarray, pred: np.ndarray, actions: Sequence[str] = ()) -> None:
        """Add a batch.

        Args:
            given: the given frames of each clip, ``[B, input_length, H, W, C]`` in [0, 1].
            true, pred: the frames after them ``[B, steps, H, W, C]``, true in [0, 1], pred is clipped to it.
            actions: what each clip shows; empty if that is not known.
        """
        forecasts = {"model": pred, "repeat_last_frame": given[:, -1:], "mean_frame": given.mean(axis=1, keepdims=True)}
        for name, frames in forecasts.items():
            self.of_forecast[name].add(np.broadcast_to(frames, true.shape), true)
        self.actions.extend(actions)

    def summary(self, config: Config) -> dict[str, Any]:
        """What metrics.json holds of all of them, and the frames that they belong to."""
        result = {
            "input_length": config.input_length,
            "total_length": config.total_length,
            "img_width": config.img_width,
            **{name: metrics.summary() for name, metrics in self.of_forecast.items()},
        }
        actions = sorted(set(self.actions))
        if len(actions) > 1:
            clips = {action: np.array(self.actions) == action for action in actions}
            result["actions"] = {
                action: {
                    "sequences": int(mask.sum()),
                    **{name: metrics.means(mask) for name, metrics in self.of_forecast.items()},
                }
                for action, mask in clips.items()
            }
        return result


def _mean(values: np.ndarray) -> float | None:
    """Of the finite ones; None if there is none."""
    finite = values[values != np.inf]
    return float(finite.mean()) if finite.size else None


def table(metrics: dict[str, Any]) -> str:
    """metrics.json as a table of at most 100 characters: a row for each predicted frame, one for the means over all of
    them, and one for each action if there are several."""
    actions = metrics.get("actions", {})
    width = max(map(len, ("frame", *actions)))  # of the labels
    names = "".join(f" {name:>{CELL_WIDTH}}" for name in BASELINES.values())
    lines = [f"{'frame':<{width}}" + "".join(f" |{name.upper():>{CELL_WIDTH}}{names}" for name in UNITS)]
    lines.append("-" * len(lines[0]))
    for step in range(len(metrics["model"]["mse_per_frame"])):
        label = f"{metrics['input_length'] + 1 + step:5d}"
        lines.append(_row(label, width, lambda who, name, step=step: metrics[who][f"{name}_per_frame"][step]))
    lines.append(_row("  all", width, lambda who, name: metrics[who][name]))
    for action, means in actions.items():
        lines.append(_row(action, width, lambda who, name, means=means: means[who][name]))
    return "\n".join(lines)


def _row(label: str, width: int, value: Callable[[str, str], float | None]) -> str:
    """A row of the table, of the values of each forecast and metric."""
    row = f"{label:<{width}}"
    for name in UNITS:
        cells = [_cell(value(who, name), 4 if name == "ssim" else 2) for who in ("model", *BASELINES)]
        row += " |" + " ".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)
    return row


def _cell(value: float | None, places: int) -> str:
    """With fewer places if a number would be too wide."""
    if value is None:
        return "inf"
    return next((text for p in range(places, 0, -1) if len(text := f"{value:.{p}f}") <= CELL_WIDTH), f"{value:.0f}")


def report_test(config: Config, directory: str | None, metrics: dict[str, Any]) -> None:
    """Log the table of a test, and write metrics.json, per_frame.png and report.html to its folder.

    Args:
        config: settings of the run.
        directory: as from :func:`open_test_folder`; None if there is none to write to.
        metrics: what metrics.json is to hold.

    Raises:
        WriteError: when testing; in a training what cannot be written is a warning.
    """
    if directory is not None:
        with warn_if_unwritable(config.is_training):
            write_metrics(directory, metrics)
    after = "" if metrics["iteration"] is None else f" after {metrics['iteration']} iterations"
    logger.info("test of %d clips%s; %s\n%s", metrics["sequences"], after, COLUMNS, table(metrics))
    if metrics.get("best_chosen_on") == TEST_SET:
        logger.info(CHOSEN_ON_TEST_SET)
    if directory is None:
        return
    pictures = f"\npictures: {directory}/1 ..." if config.num_save_samples else ""
    logger.info("figures: %s%s", os.path.join(directory, METRICS_FILE), pictures)
    _draw_per_frame(config, directory, metrics)
    path = os.path.join(directory, REPORT_FILE)
    with _drawing(config, path):
        _write(path, report_page(config, directory, metrics))
        logger.info("all of it on one page, for a browser: %s", path)


def report_film(config: Config, directory: str, metrics: dict[str, Any]) -> None:
    """Write metrics.json and per_frame.png of a film's forecast to its folder, and log the table.

    Raises:
        WriteError: they cannot be written.
    """
    write_metrics(directory, metrics)
    logger.info("against how it went on; %s\n%s", COLUMNS, table(metrics))
    _draw_per_frame(config, directory, metrics)


def _draw_per_frame(config: Config, directory: str, metrics: dict[str, Any]) -> None:
    path = os.path.join(directory, PER_FRAME_FILE)
    with _drawing(config, path):
        draw_per_frame(path, metrics)
        logger.info("curves: %s", path)


@contextlib.contextmanager
def _drawing(config: Config, path: str) -> Iterator[None]:
    """Have a file that a package cannot make be a warning: metrics.json holds all of its figures."""
    try:
        with warn_if_unwritable(config.is_training):
            yield
    except WriteError:
        raise
    except (ImportError, ValueError, RuntimeError) as error:  # not installed, or a font or a setting of it is broken
        logger.warning("%s is not drawn (%s); pip install -r requirements/base.txt", path, error)


def write_metrics(directory: str, metrics: dict[str, Any]) -> str:
    """Write metrics.json, whole or not at all, and return its path."""
    return _write(os.path.join(directory, METRICS_FILE), json.dumps(metrics, indent=1, allow_nan=False))


def _write(path: str, content: str) -> str:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def open_test_folder(config: Config, directory: str) -> str | None:
    """Take the folder of a test, without the pictures of an earlier one.

    Returns:
        the folder; in a training None where it cannot be taken, which is a warning.

    Raises:
        WriteError: when testing, where it is another's or cannot be written.
    """
    with warn_if_unwritable(config.is_training):
        take_folder(directory, TEST)
        remove_pictures(directory)
        return directory
    return None


def remove_pictures(directory: str) -> None:
    """Remove the pictures of an earlier test: per_frame.png, report.html, and those of its batches.

    Other files stay.
    """
    try:
        _remove_files(directory, re.compile("|".join(map(re.escape, (PER_FRAME_FILE, REPORT_FILE)))))
    except OSError as error:
        raise _unwritable(directory, error) from None
    remove_clips(directory)


def remove_clips(directory: str) -> None:
    """Remove the pictures of a test's batches, and their folders where nothing else is in them.

    Nothing goes of a folder that is not of a test of this program.
    """
    try:
        for batch in os.listdir(directory) if kind_of(directory) == TEST else []:
            folder = os.path.join(directory, batch)
            if batch.isdecimal() and os.path.isdir(folder) and not os.path.islink(folder):
                _remove_files(folder, PICTURE_NAME)
    except OSError as error:
        raise _unwritable(directory, error) from None


def remove_forecast(directory: str) -> None:
    """Remove what an earlier forecast of a film left in its folder; other files stay."""
    others = "|".join(map(re.escape, (VIDEO_FILE, PER_FRAME_FILE, METRICS_FILE)))
    try:
        _remove_files(directory, re.compile(f"{PICTURE_NAME.pattern}|{others}"))
    except OSError as error:
        raise _unwritable(directory, error) from None


def _remove_files(folder: str, names: re.Pattern[str]) -> None:
    """Remove the files of a folder that have such names, and the folder if nothing is left; an empty one stays."""
    found = [name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if names.fullmatch(name)]
    if found:
        remove_files(folder, found)


def write_pictures(directory: str, given: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> None:
    """Write gt01.png ... and pd<input_length+1>.png ... of one clip, and all of it as sheet.png and forecast.gif.

    Args:
        directory: made if missing.
        given: frames ``[M, H, W, C]`` in [0, 1].
        truth: the frames after them, of one clip ``[at most N, H, W, C]``; of a film that ends, fewer or none.
        pred: the predicted ones, ``[N, H, W, C]``, clipped to [0, 1].
    """
    if os.path.islink(directory):  # of a test only the folder of a batch can be: its pictures are elsewhere, a user's
        raise WriteError(f"{directory}: is a link; move it away, or give another --gen_frm_dir")
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from None
    for kind, frames, first in (("gt", given, 1), ("gt", truth, len(given) + 1), ("pd", pred, len(given) + 1)):
        for number, frame in enumerate(to_uint8(frames), start=first):
            write_png(os.path.join(directory, f"{kind}{number:02d}.png"), frame)
    write_png(os.path.join(directory, SHEET_FILE), contact_sheet(given, truth, pred))
    write_gif(os.path.join(directory, ANIMATION_FILE), animation(given, truth, pred), FRAMES_PER_SECOND)


def write_film(directory: str, given: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> None:
    """Write the pictures, the GIF and the MP4 of a film's forecast in place of an earlier one's.

    Args:
        directory, given, truth, pred: as of :func:`write_pictures`.

    Raises:
        WriteError: the folder is not of a film's forecast, or cannot be written.
    """
    take_folder(directory, FILM)
    remove_forecast(directory)
    write_pictures(directory, given, truth, pred)
    write_mp4(os.path.join(directory, VIDEO_FILE), animation(given, truth, pred), FRAMES_PER_SECOND)


def _unwritable(path: str, error: OSError) -> WriteError:
    return WriteError(f"{path}: cannot be written ({error.strerror}); make room, or give another --gen_frm_dir")
