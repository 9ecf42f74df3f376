"""Curves, drawn by matplotlib: SVGs of a page, per_frame.png of a test, curves.png of a training.

Making axes takes matplotlib longer than drawing them, and every test of a training draws: figures are kept and used
again. No pyplot, so that a program around this one keeps its own state.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from src.reports.figures import first_frame_of, heading_of, per_frame_of
from src.reports.pictures import reporting_errors
from src.reports.training_files import CURVES_FILE, LOSSES_FILE, METRICS_CSV, rows_of_csv
from src.runtime.files import write_whole
from src.utils.metrics import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of page.css, which differ between light and dark. In matplotlib each is a colour that nothing else has.
COLOURS = {f"--{name}": f"#fe01{n:02x}" for n, name in enumerate("c0 c1 c2 c3 c4 c5 c6 c7 b0 b1 faint rule".split())}
LINE_COLOURS = 8
LARGEST = 1e100  # of a value that is drawn: matplotlib fails near the largest float
MOST_DOTS = 40  # of a line; a longer one has none
POINTS = 2000  # of a curve of curves.png; more cannot be told apart
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
SETTINGS = {  # of matplotlib
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "e3d_lstm",  # the same file for the same figures
    "font.sans-serif": ["DejaVu Sans"],  # that widths are measured with; matplotlib brings it along
    "axes.formatter.min_exponent": 4,  # of a logarithmic axis: 0.5 and not 5 x 10^-1
}
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


class Line(NamedTuple):
    """A curve of a chart of a page."""

    label: str
    colour: str  # of COLOURS
    dash: str  # solid, dashed or dotted, for matplotlib and for CSS
    x: Sequence[float]
    y: Sequence[float]  # nan and infinity leave gaps


def run_style(number: int) -> tuple[str, str]:
    """Colour and dash of the run with this number, from 0; from the ninth on colours come again, dashed."""
    return f"--c{number % LINE_COLOURS}", "solid" if number < LINE_COLOURS else "dashed"


def baseline_style(number: int) -> tuple[str, str]:
    """Colour and dash of a baseline."""
    return f"--b{number % 2}", ("dashed", "dotted")[number % 2]


@functools.cache
def _figure(columns: int, width: float, height: float, left: float, bottom: float, top: float) -> Figure:
    """A figure of ``columns`` axes beside one another, in inches and in shares of it."""
    from matplotlib.figure import Figure  # takes a second to load, and is not needed before the first test

    figure = Figure(figsize=(width, height))
    figure.subplots(1, columns)
    # A layout engine would take twice the time.
    figure.subplots_adjust(left=left, right=0.99, bottom=bottom, top=top, wspace=0.2)
    return figure


def _emptied(axes: Axes, whole: bool = True) -> Axes:
    """The axes without the lines of the drawing before; ``whole``: ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    for line in list(axes.lines):
        line.remove()
    axes.relim()
    axes.autoscale()
    axes.set_prop_cycle(None)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=whole))
    axes.set_yscale("linear")
    return axes


def _saved(figure: Figure, **options: Any) -> bytes:
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(content, dpi=100, **options)
    return content.getvalue()


def chart_svg(x_label: str, lines: Sequence[Line], logarithmic: bool = False) -> str | None:
    """Curves as an SVG, an element of a page; None if no value can be drawn.

    Args:
        x_label: below the chart.
        lines: the later ones above the others.
        logarithmic: leaves out what is not above 0.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError, RuntimeError: a font or a setting of it is broken.
    """

    def is_drawn(value: float) -> bool:
        return abs(value) < LARGEST and not (logarithmic and value <= 0)

    drawn = [[(x, y) for x, y in zip(line.x, line.y) if is_drawn(y)] for line in lines]
    if not any(drawn):
        return None
    figure = _figure(1, 4.6, 2.3, left=0.12, bottom=0.18, top=0.96)
    axes = _emptied(figure.axes[0])
    for number, line in enumerate(lines):
        y = [y if is_drawn(y) else math.nan for y in line.y]
        marker = "o" if len(y) <= MOST_DOTS else "None"
        style = {"linestyle": line.dash, "color": COLOURS[line.colour], "marker": marker, "markersize": 4}
        axes.plot(line.x, y, linewidth=1.5, clip_on=False, gid=f"curve-{number}", **style)
    if logarithmic:
        axes.set_yscale("log")
    axes.set_xlabel(x_label, color=COLOURS["--faint"])
    axes.tick_params(which="both", length=0, labelcolor=COLOURS["--faint"])
    axes.grid(axis="y", which="both", color=COLOURS["--rule"])
    axes.set_frame_on(False)
    content = _saved(figure, format="svg", transparent=True, metadata={"Date": None})
    return _element(content, x_label, [line.label for line in lines], drawn)


def _element(
    content: bytes, x_label: str, labels: Sequence[str], drawn: Sequence[Sequence[tuple[float, float]]]
) -> str:
    """What matplotlib has written as an element of a page, with the values of the dots for the mouse."""
    svg = ElementTree.fromstring(content)
    for name in ("metadata", "defs"):  # the latter is a style, which in a page is not the drawing's alone
        svg.remove(svg.find(f"{{{SVG}}}{name}"))
    curves = [group for group in svg.iter(f"{{{SVG}}}g") if group.get("id", "").startswith("curve-")]
    for group, label, points in zip(curves, labels, drawn):
        for dot, (x, y) in zip(group.iter(f"{{{SVG}}}use"), points):
            ElementTree.SubElement(dot, f"{{{SVG}}}title").text = f"{label}, {x_label} {x:.10g}: {y:.6g}"
    for group in svg.iter(f"{{{SVG}}}g"):
        group.attrib.pop("id", None)  # the same in every chart of a page
    text = ElementTree.tostring(svg, encoding="unicode")
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var({name})")
    return text


def draw_per_frame(path: str, metrics: Mapping[str, Any]) -> None:
    """Draw PSNR, SSIM, MSE and MAE over the predicted frames, beside those of the trivial forecasts, as a PNG.

    Args:
        path: file.
        metrics: what metrics.json holds. A value that is None (an infinite PSNR) leaves a gap.

    Raises:
        ImportError: matplotlib is not installed.
        WriteError: it cannot be written.
    """
    figure = _figure(len(UNITS), 16, 3.6, left=0.04, bottom=0.14, top=0.9)
    baseline = {"marker": ".", "markersize": 3}
    forecasts = {
        "model": {"label": "model", "color": "tab:orange", "marker": "o", "markersize": 3},
        "repeat_last_frame": {**baseline, "label": "repeat the last frame", "color": "grey", "linestyle": "--"},
        "mean_frame": {**baseline, "label": "mean of the given frames", "color": "tab:blue", "linestyle": ":"},
    }
    for axes, name in zip(map(_emptied, figure.axes), UNITS):
        for forecast, style in forecasts.items():
            values = np.array(per_frame_of(metrics[forecast], name))
            values[np.isinf(values)] = np.nan
            axes.plot(first_frame_of(metrics) + np.arange(len(values)), values, **style)
        axes.set(title="{} ({})".format(*heading_of(name)), xlabel="frame")
        axes.grid(alpha=0.3)
    axes.legend()
    with reporting_errors(path):
        write_whole(path, _saved(figure, format="png"))


def draw_curves(save_dir: str) -> None:
    """Draw losses.csv and metrics.csv of save_dir: the loss, and PSNR beside that of repeating the last frame.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a line that is no longer of numbers.
        OSError: it cannot be written.
    """
    figure = _figure(2, 10, 4, left=0.08, bottom=0.13, top=0.92)
    left, right = (_emptied(axes, whole=False) for axes in figure.axes)
    iterations, loss = _columns(save_dir, LOSSES_FILE, ("iteration", "loss"))
    stride, window = max(1, len(loss) // POINTS), max(1, len(loss) // 50)
    faint = 0.3 if window > 1 else 1.0  # behind its own mean
    left.plot(iterations[::stride], loss[::stride], color="tab:blue", alpha=faint, linewidth=0.8, label="loss")
    if window > 1:
        mean = np.convolve(loss, np.ones(window) / window, mode="valid")[::stride]
        left.plot(iterations[window - 1 :: stride], mean, color="tab:blue", label=f"mean of {window} values")
    left.set(xlabel="iteration", ylabel="loss", title="Training loss")
    if len(loss) and loss.min() > 0:
        left.set_yscale("log")
    tests, psnr, repeat_psnr = _columns(save_dir, METRICS_CSV, ("iteration", "psnr", "repeat_psnr"))
    right.plot(tests, psnr, marker="o", markersize=3, color="tab:orange", label="model")
    right.plot(tests, repeat_psnr, linestyle="--", color="grey", label="repeat the last frame")
    right.set(xlabel="iteration", ylabel="PSNR, dB", title="Test")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    write_whole(os.path.join(save_dir, CURVES_FILE), _saved(figure, format="png"))


def _columns(save_dir: str, file: str, names: Sequence[str]) -> np.ndarray:
    """Columns of a csv file, float64 ``[columns, lines]``."""
    rows = rows_of_csv(os.path.join(save_dir, file), names)
    return np.array([[float(row[name] or "nan") for row in rows] for name in names], dtype=np.float64)
