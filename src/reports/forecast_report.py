"""What a test leaves behind: figures (a table, metrics.json) and pictures."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.config import Config
from src.errors import WriteError
from src.reports.pictures import (
    ANIMATION_FILE,
    FRAMES_PER_SECOND,
    PER_FRAME_FILE,
    SHEET_FILE,
    VIDEO_FILE,
    animation,
    contact_sheet,
    draw_per_frame,
    write_gif,
    write_mp4,
    write_png,
)
from src.runtime.files import write_whole
from src.runtime.log import warn_if_unwritable
from src.utils.metrics import BASELINE, UNITS, frame_mse, frame_psnr, frame_ssim, to_uint8

PICTURE_NAME = re.compile(rf"(gt|pd)\d+\.png|{re.escape(SHEET_FILE)}|{re.escape(ANIMATION_FILE)}")
METRICS_FILE = "metrics.json"

logger = logging.getLogger("e3d_lstm")


class FrameMetrics:
    """PSNR, SSIM and MSE of each predicted frame of each clip, added batch by batch."""

    def __init__(self) -> None:
        self.per_clip: dict[str, list[np.ndarray]] = {name: [] for name in UNITS}

    @classmethod
    def of(cls, parts: Sequence[FrameMetrics]) -> FrameMetrics:
        """Those of all the parts."""
        whole = cls()
        for name, values in whole.per_clip.items():
            values.extend(value for part in parts for value in part.per_clip[name])
        return whole

    def add(self, pred: np.ndarray, true: np.ndarray) -> None:
        """Add a batch: frames ``[B, steps, H, W, C]``, true in [0, 1], pred is clipped to it."""
        batch, steps = true.shape[:2]
        pred, true = pred.reshape([-1, *pred.shape[2:]]), true.reshape([-1, *true.shape[2:]])
        pred_uint8, true_uint8 = to_uint8(pred), to_uint8(true)
        batch_metrics = {
            "psnr": frame_psnr(pred_uint8, true_uint8),
            "ssim": frame_ssim(pred_uint8, true_uint8),
            "mse": frame_mse(pred, true),
        }
        for name, values in batch_metrics.items():
            self.per_clip[name].append(values.reshape([batch, steps]))

    def summary(self) -> dict[str, Any]:
        """Mean of each metric over clips and frames, and over the clips for each predicted frame.

        A frame predicted without any error has an infinite PSNR: it is left out of the means, and counted.
        """
        result: dict[str, Any] = {}
        for name in UNITS:
            values = np.concatenate(self.per_clip[name])  # (clips, steps)
            finite = values != np.inf
            if name == "psnr":
                result["psnr_infinite_frames"] = int((~finite).sum())
            result[name] = _mean(values[finite])
            result[f"{name}_per_frame"] = [_mean(values[finite[:, step], step]) for step in range(values.shape[1])]
        return result


class ForecastMetrics:
    """:class:`FrameMetrics` of forecasts, and of the trivial forecast that repeats the last given frame."""

    def __init__(self) -> None:
        self.model, self.baseline = FrameMetrics(), FrameMetrics()

    @classmethod
    def of(cls, parts: Sequence[ForecastMetrics]) -> ForecastMetrics:
        """Those of all the parts."""
        whole = cls()
        whole.model = FrameMetrics.of([part.model for part in parts])
        whole.baseline = FrameMetrics.of([part.baseline for part in parts])
        return whole

    def add(self, last_given: np.ndarray, true: np.ndarray, pred: np.ndarray) -> None:
        """Add a batch.

        Args:
            last_given: the last given frame of each clip, ``[B, 1, H, W, C]`` in [0, 1].
            true, pred: the frames after it ``[B, steps, H, W, C]``, true in [0, 1], pred is clipped to it.
        """
        self.model.add(pred, true)
        self.baseline.add(np.broadcast_to(last_given, true.shape), true)

    def summary(self, config: Config) -> dict[str, Any]:
        """What metrics.json holds of both, and the frames that they belong to."""
        return {
            "input_length": config.input_length,
            "total_length": config.total_length,
            "img_width": config.img_width,
            "model": self.model.summary(),
            BASELINE: self.baseline.summary(),
        }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def table(metrics: dict[str, Any]) -> str:
    """metrics.json as a table: a row for each predicted frame, and the means."""
    model, baseline = metrics["model"], metrics[BASELINE]
    header = "frame" + "".join(f" |{unit:>9} {'repeat':>8}" for unit in UNITS.values())
    lines = [header, "-" * len(header)]
    first = metrics["input_length"] + 1
    for step in range(len(model["mse_per_frame"])):
        cells = [(model[f"{name}_per_frame"][step], baseline[f"{name}_per_frame"][step]) for name in UNITS]
        lines.append(_row(f"{first + step:5d}", cells))
    lines.append(_row(" mean", [(model[name], baseline[name]) for name in UNITS]))
    return "\n".join(lines)


def _row(label: str, cells: list[tuple[float | None, float | None]]) -> str:
    columns = zip(cells, (2, 4, 2))  # decimals of PSNR, SSIM, MSE
    return label + "".join(f" |{_cell(m, places):>9} {_cell(b, places):>8}" for (m, b), places in columns)


def _cell(value: float | None, places: int) -> str:
    return "inf" if value is None else f"{value:.{places}f}"


def report_test(config: Config, directory: str, metrics: dict[str, Any]) -> None:
    """Write metrics.json and per_frame.png of a test to its folder, and log the table.

    Raises:
        WriteError: when testing; in a training what cannot be written is a warning.
    """
    iteration = metrics["iteration"]
    with warn_if_unwritable(config.is_training):
        write_metrics(directory, metrics)
    logger.info(
        "test of %d clips%s; repeat = the last given frame, repeated\n%s\nfigures: %s%s",
        metrics["sequences"], "" if iteration is None else f" after {iteration} iterations", table(metrics),
        os.path.join(directory, METRICS_FILE), f"\npictures: {directory}/1 ..." if config.num_save_samples else "",
    )  # fmt: skip
    _draw_per_frame(config, directory, metrics)


def report_film(config: Config, directory: str, metrics: dict[str, Any]) -> None:
    """Write metrics.json and per_frame.png of a film's forecast to its folder, and log the table.

    Raises:
        WriteError: they cannot be written.
    """
    write_metrics(directory, metrics)
    logger.info("against how it went on; repeat = the last given frame, repeated\n%s", table(metrics))
    _draw_per_frame(config, directory, metrics)


def _draw_per_frame(config: Config, directory: str, metrics: dict[str, Any]) -> None:
    """Draw the metrics of each frame. Where matplotlib cannot, that is a warning: metrics.json holds them all."""
    path = os.path.join(directory, PER_FRAME_FILE)
    try:
        with warn_if_unwritable(config.is_training):
            draw_per_frame(path, metrics)
            logger.info("curves: %s", path)
    except WriteError:
        raise
    except (ImportError, ValueError, RuntimeError) as error:  # not installed, or a font or a setting of it is broken
        logger.warning("%s is not drawn (matplotlib: %s); pip install -r requirements/base.txt", path, error)


def write_metrics(directory: str, metrics: dict[str, Any]) -> str:
    """Write metrics.json, whole or not at all, and return its path."""
    path = os.path.join(directory, METRICS_FILE)
    try:
        os.makedirs(directory, exist_ok=True)
        write_whole(path, json.dumps(metrics, indent=1, allow_nan=False))
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def remove_pictures(directory: str) -> None:
    """Remove the pictures of an earlier test: per_frame.png, and those of its batches.

    Other files stay.
    """
    try:
        _remove_files(directory, re.compile(re.escape(PER_FRAME_FILE)))
        for batch in os.listdir(directory) if os.path.isdir(directory) else []:
            folder = os.path.join(directory, batch)
            if batch.isdecimal() and os.path.isdir(folder):
                _remove_files(folder, PICTURE_NAME)
                if not os.listdir(folder):
                    os.rmdir(folder)
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
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if names.fullmatch(name):
            os.remove(os.path.join(folder, name))


def write_pictures(directory: str, given: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> None:
    """Write gt01.png ... and pd<input_length+1>.png ... of one clip, and all of it as sheet.png and forecast.gif.

    Args:
        directory: made if missing.
        given: frames ``[M, H, W, C]`` in [0, 1].
        truth: the frames after them, of one clip ``[at most N, H, W, C]``; of a film that ends, fewer or none.
        pred: the predicted ones, ``[N, H, W, C]``, clipped to [0, 1].
    """
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
    """
    remove_forecast(directory)
    write_pictures(directory, given, truth, pred)
    write_mp4(os.path.join(directory, VIDEO_FILE), animation(given, truth, pred), FRAMES_PER_SECOND)


def _unwritable(path: str, error: OSError) -> WriteError:
    return WriteError(f"{path}: cannot be written ({error.strerror}); make room, or give another --gen_frm_dir")
