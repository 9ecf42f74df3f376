"""The builder of pages that show tests: figures become tables, curves and players of clips, page.html draws them.

A section is a heading with parts below it. Texts are not escaped here: page.html does that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.reports.charts import Line, chart_svg
from src.reports.figures import (
    MEANINGS,
    MODEL,
    best_of,
    figures_of,
    first_frame_of,
    heading_of,
    label_of,
    means_of,
    per_frame_of,
    shown,
)
from src.reports.pictures import ERROR_AT_TOP, ERROR_COLOURS, FRAMES_PER_SECOND
from src.reports.saved_clips import SavedClip, columns_of, strip

Part = dict[str, Any]  # "macro": the one of page.html that draws it; the others are what that takes
Section = tuple[str, list[Part]]


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """The whole file, HTML. What UTF-8 cannot write, as of a path that is not UTF-8, is there with a backslash.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    text = _template().render(title=title, lead=lead, sections=sections)
    return text.encode(errors="backslashreplace").decode()


def note(text: str, kind: str = "note") -> Part:
    """A paragraph; kind "warning" stands out."""
    return {"macro": "note", "text": text, "kind": kind}


def facts(values: Mapping[str, Any]) -> Part:
    """Names and values, as of settings."""
    return {"macro": "facts", "facts": list(values.items())}


class Forecast(NamedTuple):
    """A row of the table of means, and a curve over the predicted frames."""

    label: str
    style: tuple[str, str]  # colour and dash of the curve
    name: str  # in metrics.json
    metrics: Mapping[str, Any]  # what that holds

    @property
    def entry(self) -> Mapping[str, Any]:
        """Its figures."""
        return self.metrics[self.name]


def means(forecasts: Sequence[Forecast], label: str) -> list[Part]:
    """A row for each forecast, a column for each figure, the best of each column marked; and what the baselines are.

    Args:
        forecasts: as they come below one another.
        label: heading of their labels.
    """
    rows = [means_of(forecast.entry) for forecast in forecasts]
    names = figures_of(rows)
    columns = [_cells(name, [row.get(name, math.nan) for row in rows]) for name in names]
    lines = [
        {"kind": "model" if forecast.name == MODEL else "baseline", "labels": [forecast.label], "cells": cells}
        for forecast, *cells in zip(forecasts, *columns)
    ]
    present = dict.fromkeys(forecast.name for forecast in forecasts)
    said = [f"{label_of(name)}: {MEANINGS[name]}" for name in present if name in MEANINGS]
    return [_table("means", [label], names, [], lines)] + ([note("; ".join(said) + ".")] if said else [])


def frame_curves(forecasts: Sequence[Forecast]) -> list[Part]:
    """A chart for each figure over the predicted frames; none if there are no figures of frames."""
    curves = []
    for name in figures_of([forecast.entry for forecast in forecasts]):
        values = [(forecast, per_frame_of(forecast.entry, name)) for forecast in forecasts]
        lines = [
            Line(
                forecast.label, *forecast.style, [first_frame_of(forecast.metrics) + step for step in range(len(y))], y
            )
            for forecast, y in values
            if y
        ]
        curves += [(heading_of(name), lines)] if lines else []
    return [charts(curves, "frame")] if curves else []


def grouped_table(
    kind: str, labels: Sequence[str], rows: Sequence[tuple[Sequence[object], Mapping[str, Mapping[str, float]]]]
) -> Part:
    """A group of columns for each figure, in it a column for each forecast, the best of each group of a row marked.

    Args:
        kind: class of the table.
        labels: headings of the columns before the groups.
        rows: what stands in these columns, and figures by forecast and name. A first label "mean" marks a row of means.
    """
    forecasts = list(dict.fromkeys(forecast for _, entries in rows for forecast in entries))
    names = figures_of([entry for _, entries in rows for entry in entries.values()])
    lines = []
    for texts, entries in rows:
        groups = [_cells(name, [entries.get(who, {}).get(name, math.nan) for who in forecasts]) for name in names]
        cells = [cell for group in groups for cell in group]
        lines.append({"kind": "mean" if texts[0] == "mean" else "", "labels": texts, "cells": cells})
    return _table(kind, labels, names, [label_of(forecast) for forecast in forecasts], lines)


def _cells(name: str, values: Sequence[float]) -> list[tuple[str, bool]]:
    """Values of a figure that are compared with one another: the text of each, and whether it is the best."""
    return list(zip((shown(name, value) for value in values), best_of(name, values)))


def _table(
    kind: str, labels: Sequence[str], names: Sequence[str], columns: Sequence[str], rows: Sequence[dict[str, Any]]
) -> Part:
    figures = [heading_of(name) for name in names]
    return {"macro": "table", "kind": kind, "labels": labels, "figures": figures, "columns": columns, "rows": rows}


def charts(curves: Sequence[tuple[tuple[str, str], Sequence[Line]]], x_label: str, logarithmic: Sequence = ()) -> Part:
    """Charts beside one another, and one legend of their lines; a note in their place if matplotlib cannot draw.

    Args:
        curves: heading (a figure and which way is better) and lines of each; the first line is above the others.
        x_label: below each.
        logarithmic: headings of the charts that have such an axis.
    """
    try:
        drawn = [(heading, chart_svg(x_label, lines[::-1], heading in logarithmic)) for heading, lines in curves]
    except (ImportError, ValueError, RuntimeError) as error:  # not installed, or a font or a setting of it is broken
        return note(f"The curves are not drawn (matplotlib: {error}).")
    legend = {line.label: line for _, lines in curves for line in lines}
    return {"macro": "charts", "charts": drawn, "legend": list(legend.values())}


def players(clips: Iterable[Mapping[str, SavedClip]], room: int) -> Part | None:
    """Clips that play: truth, forecast and error; of several forecasts the truth once, and a row for each.

    Args:
        clips: for each clip its forecasts by the name of the run, "" if there is one; empty if it cannot be shown.
        room: bytes that the clips may take; those after the first that has no room are counted.

    Returns:
        None if no clip is shown.
    """
    shown_clips, left_out = [], 0
    for forecasts in clips:
        player = _player(forecasts) if forecasts and room else None
        size = sum(map(len, (player["truth"], *player["forecasts"]))) if player else 0
        if player and size <= room:
            shown_clips.append(player)
            room -= size
        else:
            left_out += 1
            room = 0 if forecasts else room
    if not shown_clips:
        return None
    return {
        "macro": "players",
        "clips": shown_clips,
        "left_out": left_out,
        "rate": f"{FRAMES_PER_SECOND:g}",
        "error_at_top": f"{ERROR_AT_TOP:g}",
        "colours": ERROR_COLOURS.tobytes().hex(),
        "scale": [f"#{colour.tobytes().hex()}" for colour in ERROR_COLOURS[::15]],
    }


def _player(forecasts: Mapping[str, SavedClip]) -> dict[str, Any]:
    clip = next(iter(forecasts.values()))
    columns = columns_of(clip)
    height, width = clip.truth[0].shape[:2]
    return {
        "number": clip.number,
        "width": width,
        "height": height,
        "columns": columns,
        "given": clip.given,
        "known": len(clip.truth),
        "total": clip.given + len(clip.forecast),
        "names": list(forecasts),
        "truth": strip(clip.truth, columns),
        "forecasts": [strip(own.forecast, columns) for own in forecasts.values()],
    }
