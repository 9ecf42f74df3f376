"""The files that a training writes into save_dir, and how its lines are read."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

CONFIG_FILE, LOSSES_FILE, METRICS_CSV = "config.json", "losses.csv", "metrics.csv"


def rows_of_csv(path: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a csv file, if it has the columns; a line that a kill has cut is left out."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            return []
        return [row for row in reader if None not in row.values() and row["iteration"].isdecimal()]
