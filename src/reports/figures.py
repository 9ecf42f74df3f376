"""What metrics.json holds, read by its form: any forecasts, any figures, so a new one of either shows up by itself.

The file may have been edited: whatever stands in the place of a number, :func:`number_of` and :func:`text_of` read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src.errors import UserError
from src.utils.metrics import UNITS

METRICS_FILE = "metrics.json"
MODEL, PER_FRAME = "model", "_per_frame"
REPEAT = "repeat_last_frame"
LABELS = {MODEL: "model", REPEAT: "repeat", "mean_frame": "mean frame"}
MEANINGS = {REPEAT: "the last given frame, repeated", "mean_frame": "the mean of the given frames, repeated"}
HIGHER_IS_BETTER = ("psnr", "ssim")
DECIMALS = {"ssim": 4}  # else 2
LARGE = 1e9  # from here on a figure is written with an exponent
MOST_FRAMES = 10**6  # of a clip
INFINITE, MISSING = "∞", "–"


def read_metrics(path: str) -> dict[str, Any]:
    """Read a metrics.json.

    Raises:
        UserError: it cannot be read, or is not one of a test.
    """
    try:
        with open(path, encoding="utf-8") as file:
            metrics = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected the figures of a test") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())}); expected the figures of a test") from None
    if not isinstance(metrics, dict) or MODEL not in forecasts_of(metrics):
        raise UserError(f'{path}: not of a test; expected the figures of a forecast under "{MODEL}"')
    return metrics


def number_of(value: Any) -> float:
    """A value of JSON as a number; nan if it is none, or one that no float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # JSON may hold a whole number of hundreds of digits
        return math.nan
    return math.nan if number == -math.inf else number


def text_of(value: Any) -> str:
    """A text or a number of JSON as a page shows it; a dash for anything else."""
    if isinstance(value, str):
        return value
    number = number_of(value)
    return MISSING if math.isnan(number) else f"{number:.12g}"


def value_of(name: str, value: Any) -> float:
    """A figure as a number: None is an infinite PSNR; nan if there is no such figure."""
    return math.inf if value is None and name == "psnr" else number_of(value)


def forecasts_of(metrics: Mapping[str, Any]) -> list[str]:
    """The forecasts that metrics.json has figures of: the model first, then the baselines."""
    entries = {name: entry for name, entry in metrics.items() if isinstance(entry, Mapping)}
    found = [name for name, entry in entries.items() if any(figure in entry for figure in UNITS)]
    return sorted(found, key=lambda name: (name != MODEL, found.index(name)))


def figures_of(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The figures that any of the entries has, PSNR first: names as of :data:`src.utils.metrics.UNITS`."""
    present = {name for entry in entries for name, value in entry.items() if _is_figure(name, value)}
    known = [name for name in UNITS if name in present]
    return known + sorted(present - set(known))


def _is_figure(name: str, value: Any) -> bool:
    is_mean = isinstance(value, (int, float)) or value is None
    return is_mean and not isinstance(value, bool) and not name.endswith(("_frames", PER_FRAME)) and name != "sequences"


def means_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each figure of a forecast over clips and frames."""
    return {name: value_of(name, entry[name]) for name in figures_of([entry])}


def per_frame_of(entry: Mapping[str, Any], name: str) -> list[float]:
    """A figure for each predicted frame; empty if the entry has none."""
    values = entry.get(name + PER_FRAME)
    return [value_of(name, value) for value in values] if isinstance(values, list) else []


def first_frame_of(metrics: Mapping[str, Any]) -> int:
    """The number of the first predicted frame."""
    given = number_of(metrics.get("input_length"))
    return int(given) + 1 if 0 <= given < MOST_FRAMES else 1


def label_of(forecast: str) -> str:
    """What a forecast is called in tables."""
    return LABELS.get(forecast, forecast.replace("_", " "))


def heading_of(name: str) -> tuple[str, str]:
    """What a figure is called in tables, and which way is better."""
    return UNITS.get(name, name.upper()), f"{'higher' if is_higher_better(name) else 'lower'} is better"


def is_higher_better(name: str) -> bool:
    """Whether more of a figure is better; the others are errors."""
    return name in HIGHER_IS_BETTER


def shown(name: str, value: float) -> str:
    """A figure as text."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return INFINITE
    return f"{value:.3g}" if abs(value) >= LARGE else f"{value:.{DECIMALS.get(name, 2)}f}"


def best_of(name: str, values: Sequence[float]) -> list[bool]:
    """Which of the values are the best, as far as their digits show; none if there is nothing to compare."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return [False] * len(values)
    best = shown(name, (max if is_higher_better(name) else min)(known))
    return [shown(name, value) == best for value in values]
