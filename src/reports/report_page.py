"""report.html: all of a test on one page, its figures, curves and forecasts that play. Needs no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from src.config import FRAME_FLAGS, NETWORK_FLAGS, Config
from src.data_provider.datasets_factory import TEST_SET
from src.flag_values import list_flags
from src.reports.charts import baseline_style, run_style
from src.reports.figures import MODEL, first_frame_of, forecasts_of, label_of, means_of, per_frame_of, text_of
from src.reports.saved_clips import clip_numbers, read_clip
from src.reports.versions import versions
from src.reports.web_page import Forecast, Part, facts, frame_curves, grouped_table, means, note, page, players

REPORT_FILE = "report.html"
CHOSEN_ON_TEST_SET = "the best checkpoint is chosen on the test set: these figures flatter it (docs/testing.md)"
# Bytes that the clips of a page may take; one of 30 frames of 128 x 128 takes about 0.7 MB. The tests of a training are
# many, and their pages stay when their pictures are removed.
CLIPS_SIZE, CLIPS_SIZE_IN_TRAINING = 4_500_000, 1_000_000


def report_page(config: Config, directory: str, metrics: Mapping[str, Any]) -> str:
    """The page of a test, HTML.

    Args:
        config: settings of the run.
        directory: the test's folder, with the pictures that it has saved.
        metrics: what metrics.json holds.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    iteration, checkpoint = metrics.get("iteration"), metrics.get("checkpoint")
    after = "" if iteration is None else f" after {text_of(iteration)} iterations"
    title = f"Test of {checkpoint}" if checkpoint else f"Test{after}"
    trained = f"; weights{after}" if after and checkpoint else ""
    clips, dataset, width = (text_of(metrics.get(name)) for name in ("sequences", "dataset", "img_width"))
    lead = (
        f"{clips} clips of {dataset}: {config.input_length} frames given, "
        f"{config.total_length - config.input_length} predicted, {width} x {width} pixels{trained}."
    )
    styles = [run_style(0), *map(baseline_style, range(len(metrics)))]
    forecasts = [Forecast(label_of(who), style, who, metrics) for who, style in zip(forecasts_of(metrics), styles)]
    sections = [
        ("Means over clips and frames", [*means(forecasts, "forecast"), *_remarks(metrics)]),
        ("Curves over the predicted frames", frame_curves(forecasts)),
        ("Forecasts", [_clips(config, directory)]),
        ("Actions", _actions(metrics.get("actions"))),
        ("Figures of each frame", [_frames(metrics)]),
        ("Settings", _settings(config, metrics)),
        ("Versions", [facts(versions())]),
    ]
    return page(title, lead, [section for section in sections if section[1]])


def _remarks(metrics: Mapping[str, Any]) -> list[Part]:
    count = metrics[MODEL].get("psnr_infinite_frames")
    said = "predicted frames have no error at all; their PSNR is infinite and not in the mean."
    remarks = [note(f"{text_of(count)} {said}")] if count else []
    if metrics.get("best_chosen_on") == TEST_SET:
        remarks.append(note(f"{CHOSEN_ON_TEST_SET.capitalize()}."))
    return remarks


def _clips(config: Config, directory: str) -> Part:
    # An earlier test that saved more clips may have left folders with files of the user's.
    numbers = [number for number in clip_numbers(directory) if number <= config.num_save_samples]
    clips = (read_clip(directory, number) for number in numbers)
    room = CLIPS_SIZE_IN_TRAINING if config.is_training else CLIPS_SIZE
    shown = players(({} if clip is None else {"": clip} for clip in clips), room)
    return shown or note("No saved clip is shown (--num_save_samples says how many are saved).")


def _actions(actions: Any) -> list[Part]:
    if not isinstance(actions, Mapping):
        return []
    rows = [
        ((action, text_of(entry.get("sequences"))), {name: means_of(entry[name]) for name in forecasts_of(entry)})
        for action, entry in actions.items()
        if isinstance(entry, Mapping)
    ]
    return [grouped_table("actions", ("action", "clips"), rows)]


def _frames(metrics: Mapping[str, Any]) -> Part:
    """A row for each predicted frame, and one of the means."""
    forecasts = {forecast: metrics[forecast] for forecast in forecasts_of(metrics)}
    means_row = {forecast: means_of(entry) for forecast, entry in forecasts.items()}
    columns = {
        forecast: {name: per_frame_of(forecasts[forecast], name) for name in names}
        for forecast, names in means_row.items()
    }
    steps = max((len(values) for column in columns.values() for values in column.values()), default=0)
    rows = [
        (
            [first_frame_of(metrics) + step],
            {
                forecast: {name: values[step] for name, values in column.items() if step < len(values)}
                for forecast, column in columns.items()
            },
        )
        for step in range(steps)
    ]
    return grouped_table("frames", ["frame"], [*rows, (["mean"], means_row)])


def _settings(config: Config, metrics: Mapping[str, Any]) -> list[Part]:
    """The flags of the network and of the frames, and all others that are not the defaults."""
    shown = {
        f"--{flag.name}": getattr(config, flag.name)
        for flag in dataclasses.fields(config)
        if flag.name in (*NETWORK_FLAGS, *FRAME_FLAGS, "dataset_name") or getattr(config, flag.name) != flag.default
    }
    parts = [note("Other flags have their defaults."), facts(shown)]
    if trained_with := metrics.get("trained_with"):
        parts.append(note(f"The network was trained with {list_flags(list(trained_with), trained_with)}."))
    return parts
