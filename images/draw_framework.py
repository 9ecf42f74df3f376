"""python images/draw_framework.py [--out images/e3d_lstm_framework.png]

Draws the picture at the top of the README from the equations of the model: on the left one eidetic 3D LSTM cell,
on the right the network unrolled over three steps. Needs matplotlib. The same call always gives the same picture.
All positions are pixels of the finished picture (the origin is the lower left corner).
"""

import argparse
import io
import math
import sys
from pathlib import Path as FilePath

try:
    import matplotlib

    matplotlib.rcdefaults()  # no style of the user's
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon, Rectangle
    from matplotlib.path import Path
    from PIL import Image  # comes with matplotlib
except ImportError:
    sys.exit("draw_framework.py needs matplotlib: pip install matplotlib")

WIDTH, HEIGHT, DPI = 1660, 1370, 100

# One colour for each kind of thing; it means the same in both panels.
CELL = "#0072B2"  # c
HIDDEN = "#00815C"  # h
MEMORY = "#D55E00"  # m
HISTORY = "#8E4A9E"  # K and what is recalled from it
INPUT = "#4A4A4A"  # frames, windows
PREDICTION = "#B3246B"  # the network's own prediction
INK = "#1E1E1E"
GATE_FILL, CONV_FILL, BODY_FILL = "#FFFFFF", "#FFF3CC", "#F5F6F8"
CELL_FILL, MEMORY_FILL, HISTORY_FILL, HIDDEN_FILL = "#E1EFF8", "#FCE9DC", "#F1E5F4", "#DFF2EC"

HEAD = 15  # length of an arrow head


class Canvas:
    """Pixel coordinates, and the few shapes that the picture is made of."""

    def __init__(self):
        self.figure = plt.figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, WIDTH)
        self.axes.set_ylim(0, HEIGHT)
        self.axes.axis("off")

    def text(self, x, y, string, size=22, color=INK, ha="center", va="center", bold=False, z=8, spacing=1.2):
        self.axes.text(
            x,
            y,
            string,
            fontsize=size * 72 / DPI,
            color=color,
            ha=ha,
            va=va,
            fontweight="bold" if bold else "normal",
            zorder=z,
            linespacing=spacing,
        )

    def box(self, x0, y0, x1, y1, fill="white", edge=INK, width=2.0, radius=10, z=3, style="-"):
        shape = FancyBboxPatch(
            (x0 + radius, y0 + radius),
            x1 - x0 - 2 * radius,
            y1 - y0 - 2 * radius,
            boxstyle=f"round,pad={radius}",
            facecolor=fill,
            edgecolor=edge,
            linewidth=width * 72 / DPI,
            linestyle=style,
            zorder=z,
        )
        self.axes.add_patch(shape)

    def line(self, points, color=INK, width=4.0, head=HEAD, dashed=False, over=(), ground="white", radius=12):
        """A line through points with rounded corners; its arrow head (0: none) ends exactly on the last point.

        At each crossing named in over it passes over an earlier line, which is interrupted there.
        """
        points = [tuple(map(float, p)) for p in points]
        tip = points[-1]
        if head:
            (xa, ya), (xb, yb) = points[-2], tip
            length = math.hypot(xb - xa, yb - ya)
            ux, uy = (xb - xa) / length, (yb - ya) / length
            points[-1] = (xb - ux * (head - 2), yb - uy * (head - 2))
        vertices, codes = [points[0]], [Path.MOVETO]
        for before, here, after in zip(points, points[1:], points[2:]):
            near = [_towards(here, other, radius) for other in (before, after)]
            vertices += [near[0], here, near[1]]
            codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
        path = Path([*vertices, points[-1]], [*codes, Path.LINETO])
        z = 5
        for x, y in over:
            rim = width / 2 + 6
            self.axes.add_patch(Rectangle((x - rim, y - rim), 2 * rim, 2 * rim, facecolor=ground, zorder=z))
        self._stroke(path, color, width, dashed, z)
        if head:
            base = (tip[0] - ux * head, tip[1] - uy * head)
            half = head * 0.52
            corners = [tip, (base[0] - uy * half, base[1] + ux * half), (base[0] + uy * half, base[1] - ux * half)]
            self.axes.add_patch(Polygon(corners, closed=True, facecolor=color, edgecolor="none", zorder=z))

    def _stroke(self, path, color, width, dashed, z):
        patch = PathPatch(path, fill=False, edgecolor=color, linewidth=width * 72 / DPI, zorder=z, capstyle="butt")
        if dashed:
            patch.set_linestyle((0, (2.4, 1.5)))
        self.axes.add_patch(patch)

    def badge(self, x, y, number):
        self.axes.add_patch(Circle((x, y), 16, facecolor=INK, edgecolor="white", linewidth=1.5, zorder=9))
        self.text(x, y, str(number), 20, "white", bold=True, z=10)

    def dots(self, x, y, color, step=11):
        """Three dots, upright: there is more."""
        for dy in (-step, 0, step):
            self.axes.add_patch(Circle((x, y + dy), 2.6, facecolor=color, edgecolor="none", zorder=7))

    def dot(self, x, y, color):
        """A branching point."""
        self.axes.add_patch(Circle((x, y), 6.5, facecolor=color, edgecolor="none", zorder=7))

    def node(self, x, y, sign, color=INK, size=17):
        """A point-wise operation; the sign is drawn, not written, so that it sits in the middle."""
        self.axes.add_patch(Circle((x, y), size, facecolor="white", edgecolor=color, linewidth=1.9, zorder=7))
        arm = size * 0.5
        turn = math.pi / 4 if sign == "x" else 0
        for angle in (turn, turn + math.pi / 2):
            dx, dy = arm * math.cos(angle), arm * math.sin(angle)
            self._stroke(Path([(x - dx, y - dy), (x + dx, y + dy)]), color, 3.2, False, 8)

    def stack(self, x, y, slices, size=38, step=7, z=6):
        """A history: a pile of cells, the newest in front. (x, y) is the middle of the whole pile."""
        total = size + step * (slices - 1)
        left, bottom = x - total / 2, y - total / 2
        for index in range(slices):
            shift = step * (slices - 1 - index)
            front = index == slices - 1
            self.axes.add_patch(
                Rectangle(
                    (left + shift, bottom + shift),
                    size,
                    size,
                    facecolor=CELL_FILL if front else HISTORY_FILL,
                    edgecolor=HISTORY,
                    linewidth=1.5,
                    zorder=z,
                )
            )

    def frame(self, x, y, index, size=58, edge=INPUT, blurred=False):
        """A small picture whose blob moves with the index; a predicted one is a little blurred."""
        half = size / 2
        square = Rectangle(
            (x - half, y - half), size, size, facecolor="#23272E", edgecolor=edge, linewidth=2.2 if blurred else 1.2
        )
        square.set_zorder(6)
        self.axes.add_patch(square)
        bx, by = x + (-0.25 + 0.125 * index) * size, y + (-0.22 + 0.11 * index) * size
        rings = [(0.23, "#565B63"), (0.19, "#8D929A"), (0.14, "#E4E6EA")] if blurred else [(0.18, "white")]
        for radius, color in rings:
            self.axes.add_patch(Circle((bx, by), radius * size, facecolor=color, edgecolor="none", zorder=6.5))


def _towards(start, end, distance):
    length = math.hypot(end[0] - start[0], end[1] - start[1])
    share = min(distance, length / 2) / length
    return (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)


def draw_cell(d):
    """The left panel: what one cell computes."""
    d.text(20, 1335, "The cell", 34, ha="left", bold=True)
    d.text(190, 1332, "one layer, one time step", 23, INPUT, ha="left")
    left, right, bottom, top = 132, 818, 262, 1240
    d.box(left, bottom, right, top, BODY_FILL, "#9AA0A8", 2.5, 22, z=1)

    # What enters and leaves.
    for y, name, color in ((345, "h", HIDDEN), (812, "c", CELL)):
        d.text(62, y + 54, f"${name}$", 32, color)
        d.text(66, y + 22, "step t−1", 20, color)
    for y, name, color in ((812, "c'", CELL), (1036, "h'", HIDDEN)):
        d.text(858, y + 54, f"${name}$", 32, color)
        d.text(860, y + 22, "to t+1", 20, color)
    d.text(478, 206, "$x$", 32, INPUT, va="baseline")
    d.text(458, 206, "window of the layer below", 20, INPUT, ha="right", va="baseline")
    d.text(709, 206, "$m$", 32, MEMORY, va="baseline")
    d.text(684, 206, "from below", 20, MEMORY, ha="right", va="baseline")
    d.text(731, 1276, "$m'$", 32, MEMORY, va="baseline")
    d.text(789, 1276, "$h'$", 32, HIDDEN, va="baseline")
    d.text(698, 1276, "to the layer above", 20, INPUT, ha="right", va="baseline")

    # What happens, in order; the numbers are repeated on the parts.
    steps = [
        "convolve, norm, split",
        "form the gates",
        "recall the history,\nupdate the cell",
        "update the memory",
        "gate the output",
    ]
    y = 1205
    for number, words in enumerate(steps, 1):
        extra = 27 * words.count("\n")
        d.badge(166, y, number)
        d.text(192, y - extra / 2, words, 20, ha="left")
        y -= 44 + extra
    for number, place in enumerate([(152, 386), (152, 560), (152, 752), (490, 772), (464, 988)], 1):
        d.badge(*place, number)

    # 1. One convolution and one norm for each of h, x and m.
    for x0, x1, name in ((152, 336, "h"), (368, 588, "x"), (620, 798, "m")):
        d.box(x0, 302, x1, 386, CONV_FILL, "#A88B2A")
        d.text((x0 + x1) / 2, 360, f"$N(W_{name} * {name})$", 25)
        d.text((x0 + x1) / 2, 324, {"h": "split in 4", "x": "split in 7", "m": "split in 4"}[name], 20, INPUT)
    d.line([(16, 345), (152, 345)], HIDDEN)
    d.line([(478, 234), (478, 302)], INPUT)
    d.line([(709, 234), (709, 302)], MEMORY)

    # 2. The gates: sums of the parts.
    columns = {"r": 190, "i": 272, "g": 354, "o": 436, "g'": 526, "i'": 608, "f'": 690, "m_m": 768}
    kinds = {"r": "σ", "i": "σ", "g": "tanh", "o": "sum", "g'": "tanh", "i'": "σ", "f'": "+1, σ", "m_m": "tanh"}
    d.box(147, 440, 479, 560, "#E9EBEF", "#C3C8CF", 1.5, 12, z=2)
    d.box(485, 440, 731, 560, "#E9EBEF", "#C3C8CF", 1.5, 12, z=2)
    d.text(313, 457, "parts of h and x added", 20, INPUT)
    d.text(608, 457, "parts of x and m added", 20, INPUT)
    for name, x in columns.items():
        colour = {"r": HISTORY, "i": CELL, "g": CELL, "o": HIDDEN}.get(name, MEMORY)
        half = 29 if name == "m_m" else 36
        d.box(x - half, 474, x + half, 552, GATE_FILL, colour, 2.2, 14)
        d.text(x, 521, f"${name}$", 27, colour, va="baseline")
        d.text(x, 488, kinds[name], 20, va="baseline")
    d.line([(244, 386), (244, 440)], INK)
    d.line([(420, 386), (420, 440)], INK)
    d.line([(545, 386), (545, 440)], INK)
    d.line([(676, 386), (676, 440)], INK)
    d.line([(768, 386), (768, 474)], INK)

    # 3. Recall, then the cell.
    d.box(142, 584, 412, 868, CELL_FILL, "none", 0, 14, z=2)
    d.text(152, 849, "$c' = N(c + $recall$) + i \\cdot g$", 22, CELL, ha="left")
    d.box(152, 660, 322, 752, HISTORY_FILL, HISTORY, 2.2)
    d.text(237, 730, "recall", 24, HISTORY, bold=True)
    d.text(237, 693, r"softmax$(rK^{T})K$", 20)
    d.stack(66, 706, 4, 50, 9)
    d.text(66, 640, "$K$", 30, HISTORY)
    d.text(66, 612, "history", 20, HISTORY)
    d.text(66, 589, "of $c$", 20, HISTORY)
    d.line([(105, 706), (152, 706)], HISTORY)
    d.line([(190, 552), (190, 660)], HISTORY)
    d.line([(272, 552), (272, 606), (337, 606)], CELL)
    d.line([(354, 552), (354, 589)], CELL)
    d.line([(354, 623), (354, 795)], CELL)
    d.node(354, 606, "x", CELL)
    d.line([(237, 752), (237, 795)], HISTORY)

    # 4. The memory.
    d.box(488, 584, 804, 772, MEMORY_FILL, "none", 0, 14, z=2)
    d.text(514, 750, "$m' = f' \\cdot m_m + i' \\cdot g'$", 22, MEMORY, ha="left")
    d.line([(526, 552), (526, 618), (550, 618)], MEMORY)
    d.line([(608, 552), (608, 618), (584, 618)], MEMORY)
    d.line([(690, 552), (690, 618), (712, 618)], MEMORY)
    d.line([(768, 552), (768, 618), (746, 618)], MEMORY)
    d.line([(567, 635), (567, 692), (712, 692)], MEMORY)
    d.line([(729, 635), (729, 675)], MEMORY)
    d.node(567, 618, "x", MEMORY)
    d.node(729, 618, "x", MEMORY)
    d.node(729, 692, "+", MEMORY)

    # The track of the cell crosses the panel; o and the new memory pass over it.
    d.line([(16, 812), (220, 812)], CELL)
    d.line([(254, 812), (279, 812)], CELL)
    d.line([(313, 812), (337, 812)], CELL)
    d.line([(371, 812), (896, 812)], CELL)
    d.node(237, 812, "+", CELL)
    d.box(279, 793, 313, 831, GATE_FILL, CELL, 2.2, 6, z=7)
    d.text(296, 812, "$N$", 22, z=8)
    d.node(354, 812, "+", CELL)
    d.line([(66, 812), (66, 754)], HISTORY)
    d.dot(66, 812, CELL)

    # 5. The output gate and the new hidden state.
    d.box(464, 884, 698, 988, HIDDEN_FILL, HIDDEN, 2.2)
    d.text(581, 964, "output gate", 22, HIDDEN, bold=True)
    d.text(581, 936, r"$\sigma(\tanh(o + W_{co}*c'$", 21)
    d.text(581, 906, r"$+\,W_{mo}*m' + b))$", 21)
    d.box(464, 1090, 698, 1190, HIDDEN_FILL, HIDDEN, 2.2)
    d.text(581, 1166, "mix", 22, HIDDEN, bold=True)
    d.text(581, 1138, r"$\tanh(W_{1\times1\times1}$", 21)
    d.text(581, 1109, r"$[c', m'] + b)$", 21)
    d.line([(436, 552), (436, 908), (464, 908)], HIDDEN, over=[(436, 812)], ground=BODY_FILL)
    d.line([(404, 812), (404, 1140), (464, 1140)], CELL)
    d.line([(404, 956), (464, 956)], CELL)
    d.dot(404, 812, CELL)
    d.dot(404, 956, CELL)
    d.line([(598, 1036), (896, 1036)], HIDDEN)
    d.line([(729, 709), (729, top + 24)], MEMORY, over=[(729, 812), (729, 1036)], ground=BODY_FILL)
    d.line([(729, 936), (698, 936)], MEMORY)
    d.line([(729, 1140), (698, 1140)], MEMORY)
    d.dot(729, 936, MEMORY)
    d.dot(729, 1140, MEMORY)
    d.line([(581, 988), (581, 1019)], HIDDEN)
    d.line([(581, 1090), (581, 1053)], HIDDEN)
    d.line([(786, 1036), (786, top + 24)], HIDDEN)
    d.dot(786, 1036, HIDDEN)
    d.node(581, 1036, "x", HIDDEN)


# The right panel: three columns (steps), and in each of them from below.
FIRST, PITCH, HALF = 1086, 222, 52  # the middle of the first column, the way to the next, half a cell
STEPS = [("t−1", ("t−2", "t−1"), "t"), ("t", ("t−1", "t"), "t+1"), ("t+1", ("t", "t+1"), "t+2")]  # window, prediction
CHOICE, WINDOW = 272, (312, 412)
LAYERS = [(478, 588, "layer 1"), (648, 758, "layer 2"), (852, 962, "layer 4")]
LOW, HIGH = 444, 992  # where the memory turns
DECODER, PICTURE = (1022, 1072), 1128


def draw_between_steps(d):
    """The right panel, what goes on to the next step: prediction, memory, cell with its history, hidden state."""
    end_of_panel = WIDTH - 8
    d.text(928, 1335, "The network", 34, ha="left", bold=True)
    d.text(1186, 1332, "unrolled over time", 23, INPUT, ha="left")
    # Between the steps: c and h along each layer, the history, the memory on its way down.
    for k in range(-1, 3):
        x = FIRST + PITCH * k
        begin, end = x + HALF, x + PITCH - HALF
        first, last = k == -1, k == 2
        if first:
            begin = 922
        if last:
            end = end_of_panel
        mx, px = x + HALF + 15, x + HALF + 36
        stop = end_of_panel if last else x + PITCH - 30
        start = [] if first else [(x + 31, PICTURE)]
        way = [*start, (px, PICTURE), (px, CHOICE), (end_of_panel if last else x + PITCH + 31 - 20, CHOICE)]
        d.line(way, PREDICTION, 3.2, dashed=True)
        start = [] if first else [(x + 30, LAYERS[-1][1]), (x + 30, HIGH)]
        ahead = [(stop, LOW)] if last else [(stop, LOW), (stop, LAYERS[0][0])]
        d.line([*start, (mx, HIGH), (mx, LOW), *ahead], MEMORY, 4.8, over=[(px, LOW)])
        if first:
            d.dots(mx, HIGH + 18, MEMORY)
            d.dots(px, PICTURE + 18, PREDICTION)
        for y0, y1, _ in LAYERS:
            middle = (y0 + y1) / 2
            for y, color in ((middle + 40, CELL), (middle - 42, HIDDEN)):
                d.line([(begin, y), (end, y)], color, over=[(mx, y), (px, y)])
            if not last:
                sx = x + HALF + 78
                d.text(end - 22, middle + 55, "$c$", 22, CELL)
                d.text(end - 22, middle - 62, "$h$", 22, HIDDEN)
                d.line([(sx, middle + 40), (sx, middle + 17)], HISTORY, 3, head=11)
                d.dot(sx, middle + 40, CELL)
                d.line([(sx, middle - 6), (end, middle - 6)], HISTORY, 3, head=13)
                d.stack(sx, middle - 6, k + 3, 29, 5)


def draw_steps(d):
    """The right panel, column by column: window, cells, decoder, predicted frame."""
    window_bottom, window_top = WINDOW
    for k, (step, frames, predicted) in enumerate(STEPS):
        x = FIRST + PITCH * k
        d.text(x, 1276, f"step {step}", 24, bold=True)
        # The window of two frames.
        d.box(x - 66, window_bottom, x + 66, window_top, "#EEF0F2", "#9AA0A8", 1.8, 8, z=4)
        for side, name in zip((-1, 1), frames):
            d.frame(x + 31 * side, window_bottom + 65, k + (side + 1) // 2)
            d.text(x + 31 * side, window_bottom + 18, name, 20)
        d.line([(x + 31, 232), (x + 31, CHOICE - 20)], INPUT, 3.2)
        d.line([(x + 31, CHOICE + 20), (x + 31, window_bottom)], INPUT, 3.2)
        d.axes.add_patch(Circle((x + 31, CHOICE), 20, facecolor="white", edgecolor=INPUT, linewidth=1.8, zorder=7))
        d.text(x + 31, CHOICE, "or", 20)
        d.text(x + 31, 212, "true frame", 20, INPUT)
        # The cells, the hidden state and the memory between them.
        d.line([(x + 10, window_top), (x + 10, LAYERS[0][0])], INPUT)
        for y0, y1, name in LAYERS:
            d.box(x - HALF, y0, x + HALF, y1, BODY_FILL, "#6D737B", 2.4, 12, z=6)
            d.text(x, (y0 + y1) / 2, name, 23, bold=True)
        for lower, upper in zip(LAYERS, LAYERS[1:]):
            for dx, color in ((-20, HIDDEN), (30, MEMORY)):
                d.line([(x + dx, lower[1]), (x + dx, upper[0])], color, 4 if color == HIDDEN else 4.8)
        d.text(x - 37, 617, "$h$", 22, HIDDEN)
        d.text(x + 48, 617, "$m$", 22, MEMORY)
        gap = (LAYERS[1][1] + LAYERS[2][0]) / 2 - 4
        d.axes.add_patch(Rectangle((x - 45, gap - 19), 92, 38, facecolor="white", edgecolor="none", zorder=6))
        for dx, color in ((-20, HIDDEN), (30, MEMORY)):
            d.dots(x + dx, gap, color)
        # The way out.
        top = LAYERS[-1][1]
        d.line([(x - 20, top), (x - 20, DECODER[0])], HIDDEN)
        d.box(x - HALF, DECODER[0], x + HALF, DECODER[1], CONV_FILL, "#A88B2A", z=6)
        d.text(x, sum(DECODER) / 2, "decoder", 22)
        d.line([(x, DECODER[1]), (x, PICTURE - 31)], PREDICTION, 3.2)
        d.frame(x, PICTURE, k + 2, edge=PREDICTION, blurred=True)
        d.text(x, PICTURE + 82, f"predicted\nframe {predicted}", 21, PREDICTION)


def draw_legend(d):
    """What the colours, lines and signs stand for."""
    d.box(14, 12, WIDTH - 14, 182, "#FBFBFC", "#D5D8DC", 1.5, 12, z=1)
    rows = (158, 126, 94)
    entries = [
        (CELL, "cell state c: along time, in each layer"),
        (HIDDEN, "hidden state h: along time, up, and to the decoder"),
        (MEMORY, "memory m: up through all layers, then to step t+1"),
    ]
    for y, (color, words) in zip(rows, entries):
        d.line([(34, y), (84, y)], color)
        d.text(100, y - 7, words, 20, ha="left", va="baseline")
    d.stack(705, rows[0], 3, 16, 5)
    d.text(740, rows[0] - 7, "history K: all earlier cells c of the layer", 20, ha="left", va="baseline")
    d.line([(680, rows[1]), (728, rows[1])], PREDICTION, 3.2, dashed=True)
    d.text(740, rows[1] - 7, "prediction, fed back into the next window", 20, ha="left", va="baseline")
    d.axes.add_patch(Circle((705, rows[2]), 15, facecolor="white", edgecolor=INPUT, linewidth=1.6, zorder=7))
    d.text(705, rows[2], "or", 17)
    d.text(740, rows[2] - 7, "true frame (input, or flag 1), else prediction", 20, ha="left", va="baseline")
    d.box(1286, rows[0] - 12, 1330, rows[0] + 12, CONV_FILL, "#A88B2A", 1.8, 6)
    d.text(1344, rows[0] - 7, "3-D convolution layer", 20, ha="left", va="baseline")
    d.box(1286, rows[1] - 12, 1330, rows[1] + 12, GATE_FILL, INK, 1.8, 8)
    d.text(1344, rows[1] - 7, "gate: σ, tanh or sum", 20, ha="left", va="baseline")
    d.node(1295, rows[2], "x", size=12)
    d.node(1322, rows[2], "+", size=12)
    d.text(1344, rows[2] - 7, "product, sum", 20, ha="left", va="baseline")
    notes = [
        (
            "recall: attention over all stored positions in space, window and time.",
            "N: layer norm.",
            "Four layers by default.",
        ),
        (
            "W ∗: 3-D convolution, kernel (2, k, k).",
            "Weights are the same at every step.",
            "A zero frame stands before frame 0.",
        ),
    ]
    for y, words in zip((59, 30), notes):
        d.text(34, y - 7, "   ".join(words), 20, INPUT, ha="left", va="baseline")


def draw():
    d = Canvas()
    d.axes.add_patch(Rectangle((906, 200), 2, 1150, facecolor="#D5D8DC", edgecolor="none", zorder=1))
    draw_cell(d)
    draw_between_steps(d)
    draw_steps(d)
    draw_legend(d)
    return d.figure


def main():
    parser = argparse.ArgumentParser(description="Draw the cell and the unrolled network.")
    parser.add_argument("--out", default="images/e3d_lstm_framework.png", help="where to write the picture (PNG)")
    args = parser.parse_args()
    out = FilePath(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw()
    pixels = io.BytesIO()
    figure.savefig(pixels, dpi=DPI, facecolor="white", format="png")
    # 256 colours are plenty here, and make the file a third of the size.
    Image.open(pixels).convert("RGB").quantize(256, dither=0).save(out, format="PNG", optimize=True)
    print(f"wrote {out} ({out.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
