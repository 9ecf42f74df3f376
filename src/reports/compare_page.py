"""Any number of tests and trainings side by side on one page, made of the parts of report.html."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from src.errors import UserError
from src.reports.charts import Line, baseline_style, run_style
from src.reports.figures import (
    METRICS_FILE,
    MODEL,
    forecasts_of,
    heading_of,
    label_of,
    means_of,
    read_metrics,
    text_of,
    value_of,
)
from src.reports.report_page import CLIPS_SIZE
from src.reports.saved_clips import SavedClip, clip_numbers, read_clip
from src.reports.training_files import CONFIG_FILE, LATER_COLUMNS, LOSSES_FILE, METRICS_CSV, rows_of_csv
from src.reports.web_page import Forecast, Part, charts, facts, frame_curves, means, note, page, players
from src.utils.metrics import BASELINES, UNITS

WHICH = ("best", "last")  # test of a training
EXPECTED = f"expected {METRICS_FILE} of a test, or lines in {METRICS_CSV} or {LOSSES_FILE} of a training"
# What two tests have in common if their figures can be compared, as metrics.json calls it.
CONDITIONS = {
    "dataset": "data set",
    "sequences": "number of clips",
    "input_length": "number of given frames",
    "total_length": "number of frames",
    "img_width": "width of the frames",
}
LOSS_POINTS = 400  # of a curve; each is the mean of its neighbours
LOSS = ("Training loss", "")  # heading of its chart
NAMES_SHOWN = 6


@dataclass
class TestedRun:
    """A test, or a training with one of its tests."""

    path: str
    name: str = ""
    metrics: dict[str, Any] | None = None  # None: a training without a test so far
    clips: str | None = None  # folder of the test's pictures, if known
    tests: list[dict[str, str]] = field(default_factory=list)  # rows of metrics.csv
    losses: list[dict[str, str]] = field(default_factory=list)  # rows of losses.csv

    __test__ = False  # its name is no test's


def read_run(path: str, which: str = "best") -> TestedRun:
    """Read a folder of a test or of a training.

    Args:
        path: of the folder.
        which: test of a training, "best" or "last".

    Raises:
        UserError: it is neither; the line names the folder and what is in it.
    """
    path = os.path.normpath(path)
    if os.path.isfile(os.path.join(path, METRICS_FILE)):
        return TestedRun(path, metrics=read_metrics(os.path.join(path, METRICS_FILE)), clips=path)
    try:
        tests, losses = (rows_of_csv(os.path.join(path, name), ("iteration",)) for name in (METRICS_CSV, LOSSES_FILE))
    except csv.Error as error:
        raise UserError(f"{path}: {METRICS_CSV} or {LOSSES_FILE} is damaged ({error}); {EXPECTED}") from None
    if not tests and not losses:
        raise UserError(f"{path}: {EXPECTED}; found {_found(path)}")
    run = TestedRun(path, tests=tests, losses=losses)
    if tests:
        row = tests[-1]
        if which == "best":
            row = max(tests, key=_rank)
        run.metrics, run.clips = _test_of(path, row)
    return run


def _rank(test: Mapping[str, str]) -> tuple[float, int]:
    """The greater, the better is a test, a row of metrics.csv; of equal ones the later is the better."""
    psnr = value_of("psnr", _number(test.get("psnr")))
    return -math.inf if math.isnan(psnr) else psnr, int(test["iteration"])


def _found(path: str) -> str:
    if not os.path.isdir(path):
        return "a file" if os.path.exists(path) else "no such folder"
    names = sorted(os.listdir(path))
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "nothing in it") + more


def _number(text: str | None) -> float | None:
    """A cell of a csv file; an empty one stands for an infinite PSNR."""
    try:
        return float(text) if text else None
    except ValueError:
        return math.nan


def _test_of(save_dir: str, row: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    """What is known of a test of a training: its metrics.json if that can be found, else its row of metrics.csv."""
    flags = _flags_of(save_dir)
    iteration = int(row["iteration"])
    results = str(flags.get("gen_frm_dir", ""))
    # A path that is not absolute began where the training was started: here, or beside its folder if that was moved.
    for base in ("", os.path.dirname(save_dir), save_dir):
        folder = os.path.join(base, results, str(iteration))
        if results and os.path.isfile(os.path.join(folder, METRICS_FILE)):
            metrics = read_metrics(os.path.join(folder, METRICS_FILE))
            if metrics.get("iteration") == iteration and _is_of(metrics, row):
                return metrics, folder
    known = {
        "dataset": flags.get("valid_data_paths"),
        "sequences": _number(row.get("clips")),
        **{name: flags.get(name) for name in ("input_length", "total_length", "img_width")},
    }
    entries: dict[str, dict[str, float | None]] = {MODEL: {}}
    names = {"": MODEL, **{short: name for name, short in BASELINES.items()}}
    for column, text in row.items():
        forecast, _, name = column.rpartition("_")
        forecast = names.get(forecast, forecast)
        if name in UNITS and not (column in LATER_COLUMNS and not text):  # empty: an older version wrote the row
            entries.setdefault(forecast, {})[name] = _number(text)
    known = {name: value for name, value in known.items() if value is not None}
    return {"iteration": iteration, **known, **entries}, None


def _is_of(metrics: Mapping[str, Any], row: Mapping[str, str]) -> bool:
    """Whether a test's figures are those of a training's row, and not those of another training in the same folder."""
    there, here = value_of("mse", metrics[MODEL].get("mse")), value_of("mse", _number(row.get("mse")))
    return math.isclose(there, here, rel_tol=1e-9)


def _flags_of(save_dir: str) -> dict[str, Any]:
    try:
        with open(os.path.join(save_dir, CONFIG_FILE), encoding="utf-8") as file:
            flags = json.load(file)["flags"]
        return flags if isinstance(flags, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def short_names(paths: Sequence[str]) -> list[str]:
    """The paths without what they have in common at their beginnings and ends; each is another one."""
    parts = [os.path.abspath(path).strip(os.sep).split(os.sep) for path in paths]
    begin = len(os.path.commonprefix(parts))  # of lists too: how many names they share
    rests = [part[begin:] for part in parts]
    end = len(os.path.commonprefix([rest[::-1] for rest in rests]))
    names = [os.sep.join(rest[: len(rest) - end]) or part[-1] for rest, part in zip(rests, parts)]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def comparison(runs: Sequence[TestedRun]) -> str:
    """The page, HTML. The runs have names, no two the same.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    tested = [run for run in runs if run.metrics]
    forecasts = _forecasts(tested)
    sections = [
        ("", [note(text, "warning") for text in warnings(tested)]),
        ("Means over clips and frames", means(forecasts, "test") if tested else []),
        ("Curves over the predicted frames", frame_curves(forecasts)),
        ("Curves over the iterations", _training(runs)),
        ("Forecasts", [_clips(tested)]),
        ("Folders", [_folders(runs)]),
    ]
    lead = "Figures of the tests, curves, and forecasts of the same clips below one another."
    title = "Comparison of " + ", ".join(run.name for run in runs)
    return page(title, lead, [section for section in sections if section[1]])


def warnings(runs: Sequence[TestedRun]) -> list[str]:
    """A line for each condition in which the tests differ, so that their figures cannot be compared."""
    found = []
    for key, label in CONDITIONS.items():
        names: dict[str, list[str]] = {}
        for run in [run for run in runs if key in run.metrics]:
            value = text_of(run.metrics[key])
            if key == "dataset":
                value = ", ".join(map(os.path.normpath, value.split(",")))
            names.setdefault(value, []).append(run.name)
        if len(names) > 1:
            listed = "; ".join(f"{value} in {', '.join(having)}" for value, having in names.items())
            found.append(f"These figures cannot be compared. The {label} differs: {listed}.")
    return found


def _forecasts(runs: Sequence[TestedRun]) -> list[Forecast]:
    """Those of the runs, and the baselines: each once if all the tests that have it agree, else once for those that
    do."""
    found = [Forecast(run.name, run_style(number), MODEL, run.metrics) for number, run in enumerate(runs)]
    for name in dict.fromkeys(name for run in runs for name in forecasts_of(run.metrics) if name != MODEL):
        groups: dict[str, list[TestedRun]] = {}  # by their PSNR to six digits
        for run in [run for run in runs if name in forecasts_of(run.metrics)]:
            groups.setdefault(f"{means_of(run.metrics[name]).get('psnr', math.nan):.6g}", []).append(run)
        for group in groups.values():
            of_these = f" of {', '.join(run.name for run in group)}" if len(groups) > 1 else ""
            fullest = max(group, key=lambda run: len(run.metrics[name]))  # one of metrics.csv has no frames
            style = baseline_style(len(found) - len(runs))
            found.append(Forecast(label_of(name) + of_these, style, name, fullest.metrics))
    return found


def _training(runs: Sequence[TestedRun]) -> list[Part]:
    """Curves over the iterations: the figures of the tests, and the loss."""
    curves = []
    for name in UNITS:
        lines = [
            Line(run.name, *run_style(number), *_columns(run.tests, name))
            for number, run in enumerate(runs)
            if any(name in test for test in run.tests)
        ]
        curves += [(heading_of(name), lines)] if lines else []
    losses = [
        Line(run.name, *run_style(number), *_thinned(*_columns(run.losses, "loss")))
        for number, run in enumerate(runs)
        if run.losses
    ]
    curves += [(LOSS, losses)] if losses else []
    return [charts(curves, "iteration", logarithmic=[LOSS])] if curves else []


def _columns(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[float], list[float]]:
    values = [value_of(name, _number(row.get(name))) for row in rows]
    return [float(row["iteration"]) for row in rows], values


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most LOSS_POINTS points, each the mean of its neighbours."""
    size = -(-len(x) // LOSS_POINTS) or 1
    parts = [slice(first, first + size) for first in range(0, len(x), size)]
    finite = [[value for value in y[part] if math.isfinite(value)] for part in parts]
    return [x[part][-1] for part in parts], [sum(part) / len(part) if part else math.nan for part in finite]


def _clips(runs: Sequence[TestedRun]) -> Part:
    """The clips that several runs have saved, found by their truth: numbers differ if batches have other sizes."""
    saved: dict[str, dict[str, SavedClip]] = {}
    for run, clip in _saved_clips(runs):
        saved.setdefault(clip.key, {}).setdefault(run.name, clip)
    shared = [clips for clips in saved.values() if len(clips) >= min(2, len(runs))]
    if not shared:
        return note("No clip is saved in more than one of these tests." if len(runs) > 1 else "No clip is saved.")
    return players(shared, CLIPS_SIZE) or note("No saved clip is small enough to be shown.")


def _saved_clips(runs: Sequence[TestedRun]) -> Iterator[tuple[TestedRun, SavedClip]]:
    for run in runs:
        for number in clip_numbers(run.clips) if run.clips else []:
            clip = read_clip(run.clips, number)
            if clip is not None:
                yield run, clip


def _folders(runs: Sequence[TestedRun]) -> Part:
    """The folder of each run, and which test of a training stands for it."""
    folders = {}
    for run in runs:
        if run.tests:
            folders[run.name] = f"{run.path}, its test after {text_of(run.metrics['iteration'])} iterations"
        else:
            folders[run.name] = run.path if run.metrics else f"{run.path}, no test yet"
    return facts(folders)
