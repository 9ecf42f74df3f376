"""report.html: all of a test on one page, its figures, curves and forecasts that play. Needs no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from src.config import FRAME_FLAGS, NETWORK_FLAGS, Config
from src.flag_values import list_flags
from src.reports.figures import (
    MEANINGS,
    MODEL,
    figures_of,
    first_frame_of,
    forecasts_of,
    label_of,
    mean_of,
    per_frame_of,
)
from src.reports.saved_clips import clip_numbers, read_clip
from src.reports.versions import versions
from src.reports.web_page import (
    Line,
    baseline_style,
    chart,
    charts,
    facts,
    figure_heading,
    grouped_table,
    kind_of,
    line_style,
    means_table,
    note,
    page,
    player,
    players,
    section,
)

REPORT_FILE = "report.html"
# Bytes that the clips of a page may take; one of 30 frames of 128 x 128 takes about 0.7 MB. The tests of a training are
# many, and their pages stay when their pictures are removed.
CLIPS_SIZE, CLIPS_SIZE_IN_TRAINING = 4_500_000, 1_000_000


def report_page(config: Config, directory: str, metrics: Mapping[str, Any]) -> str:
    """The page of a test, HTML.

    Args:
        config: settings of the run.
        directory: the test's folder, with the pictures that it has saved.
        metrics: what metrics.json holds.
    """
    iteration, checkpoint = metrics.get("iteration"), metrics.get("checkpoint")
    after = "" if iteration is None else f" after {iteration} iterations"
    title = f"Test of {checkpoint}" if checkpoint else f"Test{after}"
    trained = f"; weights{after}" if after and checkpoint else ""
    given, total = metrics["input_length"], metrics["total_length"]
    lead = (
        f"{metrics['sequences']} clips of {metrics['dataset']}: {given} frames given, {total - given} predicted, "
        f"{metrics['img_width']} x {metrics['img_width']} pixels{trained}."
    )
    sections = [_means(metrics), _curves(metrics), _clips(config, directory)]
    if isinstance(metrics.get("actions"), Mapping):
        sections.append(_actions(metrics["actions"]))
    sections += [_frames(metrics), _settings(config, metrics), section("Versions", facts(versions()))]
    return page(title, lead, sections)


def _means(metrics: Mapping[str, Any]) -> str:
    forecasts = forecasts_of(metrics)
    rows = [(label_of(name), kind_of(name), means_of(metrics[name])) for name in forecasts]
    meanings = [f"{label_of(name)}: {MEANINGS[name]}" for name in forecasts if name in MEANINGS]
    infinite = metrics[MODEL].get("psnr_infinite_frames")
    if infinite:
        meanings.append(f"{infinite} predicted frames have no error at all; their PSNR is infinite and not in the mean")
    return section("Means over clips and frames", means_table(rows), note("; ".join(meanings) + "."))


def means_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each figure of a forecast."""
    return {name: mean_of(entry, name) for name in figures_of([entry])}


def _curves(metrics: Mapping[str, Any]) -> str:
    forecasts = forecasts_of(metrics)
    pictures, lines = [], []
    for name in figures_of([metrics[forecast] for forecast in forecasts]):
        lines = [frame_line(metrics, forecast, name, number) for number, forecast in enumerate(forecasts)]
        pictures.append(chart(figure_heading(name), "frame", lines[::-1]))  # the model's above the others
    return section("Curves over the predicted frames", charts(pictures, lines))


def frame_line(metrics: Mapping[str, Any], forecast: str, name: str, number: int) -> Line:
    """A figure of a forecast over the frames; ``number`` is its place among the forecasts, the model's is 0."""
    values = per_frame_of(metrics[forecast], name)
    frames = range(first_frame_of(metrics), first_frame_of(metrics) + len(values))
    return Line(label_of(forecast), baseline_style(number - 1) if number else line_style(0), frames, values)


def _clips(config: Config, directory: str) -> str:
    room = CLIPS_SIZE_IN_TRAINING if config.is_training else CLIPS_SIZE
    shown, left_out = [], 0
    # An earlier test that saved more clips may have left folders with files of the user's.
    for number in [number for number in clip_numbers(directory) if number <= config.num_save_samples]:
        clip = read_clip(directory, number)
        content = "" if clip is None or not room else player(f"Clip {number}", {"": clip})
        if content and len(content) <= room:
            shown.append(content)
            room -= len(content)
        else:
            room, left_out = room if clip is None else 0, left_out + 1
    if not shown:
        return section("Forecasts", note("No saved clip is shown (--num_save_samples says how many are saved)."))
    return section("Forecasts", players(shown, left_out))


def _actions(actions: Mapping[str, Any]) -> str:
    rows = [
        ((action, entry.get("sequences", "")), {name: means_of(entry[name]) for name in forecasts_of(entry)})
        for action, entry in actions.items()
        if isinstance(entry, Mapping)
    ]
    return section("Actions", grouped_table("actions", ("action", "clips"), rows))


def _frames(metrics: Mapping[str, Any]) -> str:
    forecasts = forecasts_of(metrics)
    per_frame = {
        forecast: {name: per_frame_of(metrics[forecast], name) for name in figures_of([metrics[forecast]])}
        for forecast in forecasts
    }
    steps = max((len(values) for entry in per_frame.values() for values in entry.values()), default=0)
    rows: list[tuple[tuple[object, ...], dict[str, dict[str, float]]]] = []
    for step in range(steps):
        entries = {
            forecast: {name: values[step] for name, values in entry.items() if step < len(values)}
            for forecast, entry in per_frame.items()
        }
        rows.append(((first_frame_of(metrics) + step,), entries))
    rows.append((("mean",), {forecast: means_of(metrics[forecast]) for forecast in forecasts}))
    return section("Figures of each frame", grouped_table("frames", ("frame",), rows))


def _settings(config: Config, metrics: Mapping[str, Any]) -> str:
    """The flags of the network and of the frames, and all others that are not the defaults."""
    shown = {
        flag.name: getattr(config, flag.name)
        for flag in dataclasses.fields(config)
        if flag.name in (*NETWORK_FLAGS, *FRAME_FLAGS, "dataset_name") or getattr(config, flag.name) != flag.default
    }
    parts = [facts({f"--{name}": value for name, value in shown.items()})]
    if metrics.get("trained_with"):
        trained_with = metrics["trained_with"]
        parts.append(note(f"The network was trained with {list_flags(list(trained_with), trained_with)}."))
    return section("Settings", note("Other flags have their defaults."), *parts)
