"""The files that a training writes into save_dir, and how its lines are read."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

from src.utils.metrics import BASELINES, UNITS

CONFIG_FILE, LOSSES_FILE, METRICS_CSV, CURVES_FILE = "config.json", "losses.csv", "metrics.csv", "curves.png"
ITERATION_DIGITS = 15  # at most: a longer number is damage, and float would round it
COLUMNS_OF = {"model": "", **{name: f"{short}_" for name, short in BASELINES.items()}}  # psnr, repeat_psnr, mean_psnr
METRICS = ("iteration", "clips", *(f"{column}{name}" for column in COLUMNS_OF.values() for name in UNITS))
# A run that an older version began has no such columns: it goes on, and its cells before stay empty.
LATER_COLUMNS = {name for name in METRICS if name.startswith("mean_") or name.endswith("mae")}


def rows_of_csv(path: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a csv file, if it has the columns; a line that a kill has cut is left out.

    Raises:
        OSError, csv.Error: it cannot be read.
    """
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            return []
        rows = [row for row in reader if None not in row.values()]
    return [row for row in rows if row["iteration"].isdecimal() and len(row["iteration"]) <= ITERATION_DIGITS]
