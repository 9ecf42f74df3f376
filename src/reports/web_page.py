"""The parts of a web page that shows tests: tables, curves, players of clips. One file, nothing from the network.

Every text that is handed in is escaped here; what the functions return is HTML.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.reports.figures import MODEL, best_of, figures_of, is_higher_better, label_of, shown, unit_of
from src.reports.pictures import ERROR_AT_TOP, ERROR_COLOURS, FRAMES_PER_SECOND
from src.reports.saved_clips import SavedClip, columns_of, strip

FOLDER = Path(__file__).parent
LINE_COLOURS, BASELINE_COLOURS = 8, 2  # --c0 ..., --b0 ... of page.css
CHART_WIDTH, CHART_HEIGHT = 460, 230  # units of the SVG
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 40  # room around a chart's lines
MOST_DOTS = 40  # of a line; a longer one has none


class Line(NamedTuple):
    """A curve of a chart."""

    label: str
    style: str  # of line_style or baseline_style
    x: Sequence[float]
    y: Sequence[float]  # nan and infinity leave gaps


def line_style(number: int) -> str:
    """CSS of the curve of the run with this number, from 0; from the ninth on colours come again, dashed."""
    dashes = "" if number < LINE_COLOURS else ";stroke-dasharray:7 3"
    return f"stroke:var(--c{number % LINE_COLOURS}){dashes}"


def baseline_style(number: int) -> str:
    """CSS of a baseline's curve."""
    return f"stroke:var(--b{number % BASELINE_COLOURS});stroke-dasharray:{(5, 2)[number % BASELINE_COLOURS]} 4"


def escape(text: object) -> str:
    """Any text as HTML that shows it, in an element or in an attribute."""
    return html.escape(str(text), quote=True)


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """The whole file. ``sections`` are HTML, the other two are texts."""
    colours = ERROR_COLOURS.tobytes().hex()
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>",
            f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>',
            *sections,
            f'<div id="player-settings" hidden data-rate="{FRAMES_PER_SECOND:g}" data-error-at-top="{ERROR_AT_TOP:g}" '
            f'data-colours="{colours}"></div>',
            f"<script>\n{_file('page.js')}</script>\n</body>\n</html>\n",
        ]
    )


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def section(heading: str, *parts: str) -> str:
    """A heading with HTML below it."""
    return "\n".join([f"<h2>{escape(heading)}</h2>", *parts])


def note(text: str, kind: str = "note") -> str:
    """A paragraph of text; kind "warning" stands out."""
    return f'<p class="{kind}">{escape(text)}</p>'


def figure_heading(name: str) -> str:
    """A figure's name, and which way is better."""
    return f"{escape(unit_of(name))} <small>{'higher' if is_higher_better(name) else 'lower'} is better</small>"


def means_table(rows: Sequence[tuple[str, str, Mapping[str, float]]], first: str = "forecast") -> str:
    """A row for each forecast, a column for each figure, the best of each column marked.

    Args:
        rows: label, class ("model" or "baseline") and figures by name.
        first: heading of the labels.
    """
    names = figures_of([entry for _, _, entry in rows])
    columns = {name: [entry.get(name, math.nan) for _, _, entry in rows] for name in names}
    marks = {name: best_of(name, values) for name, values in columns.items()}
    head = "".join(f'<th scope="col">{figure_heading(name)}</th>' for name in names)
    lines = [f'<thead><tr><th scope="col">{escape(first)}</th>{head}</tr></thead>', "<tbody>"]
    for number, (label, kind, _) in enumerate(rows):
        cells = "".join(_cell(name, columns[name][number], marks[name][number]) for name in names)
        lines.append(f'<tr class="{kind}"><th scope="row">{escape(label)}</th>{cells}</tr>')
    return _scrolling("means", [*lines, "</tbody>"])


def grouped_table(
    kind: str, first: Sequence[str], rows: Sequence[tuple[Sequence[object], Mapping[str, Mapping[str, float]]]]
) -> str:
    """A group of columns for each figure, in it a column for each forecast, the best of each group of a row marked.

    Args:
        kind: class of the table.
        first: headings of the columns before the groups.
        rows: what stands in these columns, and figures by forecast and name. A first cell "mean" marks a row of means.
    """
    forecasts = list(dict.fromkeys(forecast for _, entries in rows for forecast in entries))
    names = figures_of([entry for _, entries in rows for entry in entries.values()])
    above = "".join(f'<th scope="col" rowspan="2">{escape(text)}</th>' for text in first)
    above += "".join(
        f'<th scope="colgroup" class="group" colspan="{len(forecasts)}">{figure_heading(name)}</th>' for name in names
    )
    below = "".join(
        f'<th scope="col"{_group(number)}>{escape(label_of(forecast))}</th>'
        for _ in names
        for number, forecast in enumerate(forecasts)
    )
    lines = [f"<thead><tr>{above}</tr><tr>{below}</tr></thead>", "<tbody>"]
    for labels, entries in rows:
        cells = f'<th scope="row">{escape(labels[0])}</th>' + "".join(f"<td>{escape(text)}</td>" for text in labels[1:])
        for name in names:
            values = [entries.get(forecast, {}).get(name, math.nan) for forecast in forecasts]
            marks = best_of(name, values)
            cells += "".join(
                _cell(name, value, marks[number], _group(number, marks[number])) for number, value in enumerate(values)
            )
        lines.append(f'<tr class="mean">{cells}</tr>' if labels[0] == "mean" else f"<tr>{cells}</tr>")
    return _scrolling(kind, [*lines, "</tbody>"])


def _group(number: int, is_best: bool = False) -> str:
    classes = ["group"] * (number == 0) + ["best"] * is_best
    return f' class="{" ".join(classes)}"' if classes else ""


def _cell(name: str, value: float, is_best: bool, attributes: str | None = None) -> str:
    attributes = (' class="best"' if is_best else "") if attributes is None else attributes
    return f"<td{attributes}>{shown(name, value)}</td>"


def _scrolling(kind: str, lines: Sequence[str]) -> str:
    return "\n".join([f'<div class="scroll"><table class="{kind}">', *lines, "</table></div>"])


def charts(pictures: Sequence[str], lines: Sequence[Line]) -> str:
    """Charts beside one another, and one legend of their lines."""
    styles = {line.label: line.style for line in lines}
    legend = "".join(
        f'<span><span class="swatch" style="{_border(style)}"></span>{escape(label)}</span>'
        for label, style in styles.items()
    )
    return f'<div class="charts">\n{"".join(pictures)}</div>\n<div class="legend">{legend}</div>'


def _border(style: str) -> str:
    """CSS of a border that looks like the curve."""
    kind = "dotted" if "dasharray:2" in style else "dashed" if "dasharray" in style else "solid"
    return f"{style.split(';')[0].replace('stroke:', 'border-color:')};border-top-style:{kind}"


def chart(heading: str, x_label: str, lines: Sequence[Line], logarithmic: bool = False) -> str:
    """Curves as an SVG. ``heading`` is HTML, as of :func:`figure_heading`; a logarithmic one leaves out what is not
    above 0."""

    def height(value: float) -> float:
        if not math.isfinite(value) or (logarithmic and value <= 0):
            return math.nan
        return math.log10(value) if logarithmic else value

    points = [[(x, height(y), y) for x, y in zip(line.x, line.y)] for line in lines]
    known = [(x, y) for values in points for x, y, _ in values if not math.isnan(y)]
    if not known:
        return f"<figure><figcaption>{heading}</figcaption>{note('no finite values')}</figure>\n"
    xs, ys = _Axis([x for x, _ in known], whole=True), _Axis([y for _, y in known], whole=False)
    parts = [f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img">']
    bottom, right = CHART_HEIGHT - BOTTOM, CHART_WIDTH - RIGHT
    for tick in ys.ticks:
        y = ys.place(tick, bottom, TOP)
        text = f"{10**tick:.2g}" if logarithmic else _number(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in xs.ticks:
        x = xs.place(tick, LEFT + 6, right - 6)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{CHART_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for line, values in zip(lines, points):
        dots = len(line.x) <= MOST_DOTS
        for run in _runs(values):
            places = [(xs.place(x, LEFT + 6, right - 6), ys.place(y, bottom, TOP), x, raw) for x, y, raw in run]
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
            parts.append(f'<polyline style="{line.style}" points="{joined}"/>')
            if dots or len(places) == 1:
                fill = line.style.split(";")[0].replace("stroke:", "fill:")
                parts += [
                    f'<circle style="{fill}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(line.label)}, '
                    f"{escape(x_label)} {_number(at)}: {raw:.6g}</title></circle>"
                    for x, y, at, raw in places
                ]
    return f"<figure><figcaption>{heading}</figcaption>{''.join(parts)}</svg></figure>\n"


class _Axis:
    """A range of values with round numbers as its ticks."""

    def __init__(self, values: Sequence[float], whole: bool) -> None:
        low, high = min(values), max(values)
        if high - low < 1e-9 * max(1.0, abs(high)):
            low, high = low - (1 if whole else 0.05 * abs(low) or 1), high + (1 if whole else 0.05 * abs(high) or 1)
        step = 10 ** math.floor(math.log10((high - low) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
        step = max(1, round(step)) if whole else step
        self.low, self.high = (low, high) if whole else (low - 0.04 * (high - low), high + 0.04 * (high - low))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        self.ticks = [number * step for number in range(first, last + 1)]

    def place(self, value: float, start: float, end: float) -> float:
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def _number(value: float) -> str:
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3g}"


def _runs(points: Sequence[tuple[float, float, float]]) -> list[list[tuple[float, float, float]]]:
    """The points between the gaps."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for point in points:
        if math.isnan(point[1]):
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def player(heading: str, clips: Mapping[str, SavedClip]) -> str:
    """A clip that plays: truth, forecast and error; of several forecasts the truth once, and a row for each.

    Args:
        heading: text above it.
        clips: the same clip (its ``key`` is the same) with the forecast of each run, by the run's name; "" with one.
    """
    clip = next(iter(clips.values()))
    columns, total = columns_of(clip), clip.given + len(clip.forecast)
    height, width = clip.truth[0].shape[:2]
    strips = [f'<img alt="" data-strip="truth" src="{strip(clip.truth, columns)}">']
    panels = [_panel("truth", "truth", width, height)]
    for number, (name, own) in enumerate(clips.items()):
        strips.append(f'<img alt="" data-strip="{number}" src="{strip(own.forecast, columns)}">')
        row = [_panel(kind, str(number), width, height) for kind in ("forecast", "error")]
        panels += row if not name else [f'<div class="name">{escape(name)}</div>', *row]
    if any(clips):
        panels = ["<div></div>", panels[0], "<div></div>", *panels[1:]]
    sizes = {
        "width": width,
        "height": height,
        "columns": columns,
        "given": clip.given,
        "known": len(clip.truth),
        "total": total,
    }
    data = " ".join(f'data-{name}="{value}"' for name, value in sizes.items())
    return "\n".join(
        [
            f'<section class="clip" {data}>\n<h3>{escape(heading)}</h3>',
            f'<div class="panels{" stack" * any(clips)}">',
            *panels,
            "</div>",
            '<div class="controls"><button type="button">Play</button><div class="time">'
            f'<input type="range" min="1" max="{total}" value="{clip.given + 1}" aria-label="frame">'
            f'<div class="bar"><span style="width:{100 * clip.given / total:.2f}%"></span></div></div>'
            "<output></output></div>",
            "<div hidden>",
            *strips,
            "</div>\n</section>\n",
        ]
    )


def _panel(kind: str, strip_name: str, width: int, height: int) -> str:
    canvas = f'<canvas data-kind="{kind}" data-strip="{strip_name}" width="{width}" height="{height}"></canvas>'
    return f"<figure>{canvas}<figcaption>{kind}</figcaption></figure>"


def players(clips: Sequence[str], left_out: int) -> str:
    """Players beside one another, what their colours mean, and how many clips are not among them."""
    scale = ",".join(f"rgb{tuple(int(level) for level in ERROR_COLOURS[place])}" for place in range(0, 256, 15))
    explained = (
        f'<p class="note">error = | forecast - truth |: 0<span class="scale" style="background:linear-gradient(90deg,'
        f'{scale})"></span>{ERROR_AT_TOP:g} or more. In the bar, grey stands for given frames, '
        "colour for the forecast.</p>"
    )
    button = '<p><button type="button" id="play-all">Pause all</button></p>' if len(clips) > 1 else ""
    missing = f"<noscript>{note('The forecasts play with JavaScript, which is off; see sheet.png.')}</noscript>"
    rest = [note(f"{left_out} more saved clips are not shown, to keep this file small.")] if left_out else []
    return "\n".join([explained, missing, button, '<div class="clips">', *clips, "</div>", *rest])


def facts(values: Mapping[str, Any]) -> str:
    """Names and values, as of settings."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{rows}</dl>'


def kind_of(forecast: str) -> str:
    """The class of a table's row."""
    return "model" if forecast == MODEL else "baseline"
