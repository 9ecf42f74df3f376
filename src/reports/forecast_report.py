"""What a test leaves behind: figures (a table, metrics.json) and pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.errors import WriteError
from src.reports.pictures import (
    ANIMATION_FILE,
    FRAMES_PER_SECOND,
    PER_FRAME_FILE,
    SHEET_FILE,
    VIDEO_FILE,
    animation,
    contact_sheet,
    write_gif,
    write_png,
)
from src.runtime.files import write_whole
from src.utils.metrics import BASELINE, UNITS, frame_mse, frame_psnr, frame_ssim, to_uint8

PICTURE_NAME = re.compile(rf"(gt|pd)\d+\.png|{re.escape(SHEET_FILE)}|{re.escape(ANIMATION_FILE)}")
METRICS_FILE = "metrics.json"


class Figures:
    """PSNR, SSIM and MSE of each predicted frame of each clip, gathered batch by batch."""

    def __init__(self) -> None:
        self.per_clip: dict[str, list[np.ndarray]] = {name: [] for name in UNITS}

    @classmethod
    def of(cls, parts: Sequence[Figures]) -> Figures:
        """The figures of all the parts."""
        whole = cls()
        for name, values in whole.per_clip.items():
            values.extend(value for part in parts for value in part.per_clip[name])
        return whole

    def add(self, pred: np.ndarray, true: np.ndarray) -> None:
        """Take in a batch: frames ``[B, steps, H, W, C]``, true in [0, 1], pred is clipped to it."""
        batch, steps = true.shape[:2]
        pred, true = pred.reshape([-1, *pred.shape[2:]]), true.reshape([-1, *true.shape[2:]])
        pred_uint8, true_uint8 = to_uint8(pred), to_uint8(true)
        figures = {
            "psnr": frame_psnr(pred_uint8, true_uint8),
            "ssim": frame_ssim(pred_uint8, true_uint8),
            "mse": frame_mse(pred, true),
        }
        for name, values in figures.items():
            self.per_clip[name].append(values.reshape([batch, steps]))

    def summary(self) -> dict[str, Any]:
        """Mean of each figure over clips and frames, and over the clips for each predicted frame.

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


def _unwritable(path: str, error: OSError) -> WriteError:
    return WriteError(f"{path}: cannot be written ({error.strerror}); make room, or give another --gen_frm_dir")
