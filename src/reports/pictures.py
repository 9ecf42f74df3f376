"""Pictures of forecasts: sheets, animations and videos. Needs no paddle."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Optional

import cv2
import numpy as np
from PIL import Image

from src.data_provider.videos import frames_of, opencv_path
from src.errors import WriteError
from src.runtime.files import replacing, write_whole
from src.utils.metrics import PEAK, to_uint8

SHEET_FILE, ANIMATION_FILE, VIDEO_FILE, PER_FRAME_FILE = "sheet.png", "forecast.gif", "forecast.mp4", "per_frame.png"
FRAMES_PER_SECOND = 5.0  # of an animation that is looked at: slow enough to follow the error
ERROR_AT_TOP = 0.5  # the error that has the colour map's last colour; the same in every picture, so they compare
SHEET_WIDTH = 2000  # pixels at most, for a sheet that is read on a screen; one column is always there
SHEET_CELL, PANEL = 96, 128  # pixels: smaller frames are enlarged until their longer side has them
GAP, MARGIN, LINE = 4, 8, 4  # pixels; LINE is the width of the one where the forecast begins
TEXT_ROW, TEXT_SIZE = 18, 0.45  # pixels; scale of OpenCV's font
SCALE_BAR = (96, 10)  # pixels
WHITE, BLACK, EMPTY, GREY = (255, 255, 255), (0, 0, 0), (228, 228, 228), (120, 120, 120)
MARK = (214, 39, 40)  # the line where the forecast begins, and what comes after it
ERROR_COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
FONT = cv2.FONT_HERSHEY_SIMPLEX
ROWS = ("truth", "forecast", "error")  # of a sheet
LEFT = 2 * MARGIN + max(cv2.getTextSize(label, FONT, TEXT_SIZE, 1)[0][0] for label in ROWS)  # of a sheet's frames
LEGEND = ("error = | forecast - truth | :  0", f"{ERROR_AT_TOP:g} or more")

Column = tuple[Optional[np.ndarray], Optional[np.ndarray], Optional[np.ndarray]]  # truth, forecast, error of a frame


def contact_sheet(given: np.ndarray, truth: np.ndarray | None, forecast: np.ndarray) -> np.ndarray:
    """All frames at once: a column for each, rows for the truth, the forecast and the error.

    A line stands where the forecast begins. Small frames are enlarged by a whole factor. A sheet that would be wider
    than SHEET_WIDTH is cut into bands below one another: the given frames first, then the forecast.

    Args:
        given: frames ``[M, H, W, C]`` in [0, 1], C 1 or 3; numbered 1 to M, the others from M + 1.
        truth: of the first predicted frames, ``[at most N, H, W, C]``; None if there is none.
        forecast: predicted frames ``[N, H, W, C]``, clipped to [0, 1].

    Returns:
        uint8 RGB ``[rows, columns, 3]``.
    """
    columns = _columns(given, truth, forecast, SHEET_CELL)
    count, width = len(given), columns[-1][1].shape[1]
    most = max(1, (SHEET_WIDTH - LEFT - LINE - MARGIN) // (width + GAP))  # columns of a band
    if LEFT + len(columns) * (width + GAP) - GAP + LINE + MARGIN <= SHEET_WIDTH:
        bands = [_band(columns, count, 0, len(columns))]
    else:
        bands = []
        for first, end in ((0, count), (count, len(columns))):
            size = -(-(end - first) // -(-(end - first) // most))  # as many in each band, but for the last
            bands += [_band(columns, count, at, min(at + size, end), LINE) for at in range(first, end, size)]
    parts = [_canvas(MARGIN, 0), *bands, _legend()]
    right = max(part.shape[1] for part in parts) + MARGIN
    return np.concatenate([_filled_up(part, len(part), right) for part in parts])


def _band(columns: Sequence[Column], given: int, first: int, end: int, indent: int = 0) -> np.ndarray:
    """Frames ``first`` to ``end`` of a sheet beside one another; ``indent``: pixels, the same in all bands of a
    sheet, so that their columns stand below one another."""
    height, width = columns[-1][1].shape[:2]
    rows = ROWS if end > given else ROWS[:1]  # given frames are the truth alone
    # The column where the forecast begins stands off, to make place for the line.
    lefts = {
        place: LEFT + indent + number * (width + GAP) + (LINE if first < given <= place else 0)
        for number, place in enumerate(range(first, end))
    }
    tops = [2 * TEXT_ROW + row * (height + GAP) for row in range(len(rows))]
    right = lefts[end - 1] + width
    band = _canvas(tops[-1] + height + MARGIN, right + LEFT)  # with room for titles that are wider than their frames
    text_down, split = height // 2 + TEXT_ROW // 4, None
    for label, top in zip(rows, tops):
        _write_text(band, label, MARGIN, top + text_down)
    if first <= given < end:
        split = lefts[given] - (GAP + LINE) // 2
        band[: tops[-1] + height, split - LINE // 2 : split + LINE // 2] = MARK
    # In a band of both, "given" is left out if it does not fit.
    if first < given and (split is None or _text_width("given") < split - lefts[first]):
        right = max(right, _write_text(band, "given", lefts[first], TEXT_ROW - 6, GREY))
    if given < end:
        right = max(right, _write_text(band, "forecast", lefts[max(first, given)], TEXT_ROW - 6, MARK))
    for place, left in lefts.items():
        number = str(place + 1)
        _write_text(band, number, left + (width - _text_width(number)) // 2, tops[0] - 5)
        for frame, top in zip(columns[place], tops):
            if frame is not None:
                band[top : top + height, left : left + width] = frame
    unknown = [place for place in lefts if columns[place][0] is None]
    for top in (tops[0], tops[2]) if unknown else ():
        left = lefts[unknown[0]]
        band[top : top + height, left : lefts[end - 1] + width] = EMPTY
        right = max(right, _write_text(band, "no truth", left + GAP, top + text_down))
    return band[:, :right]


def animation(given: np.ndarray, truth: np.ndarray | None, forecast: np.ndarray) -> list[np.ndarray]:
    """The clip as a film: truth, forecast and error side by side, below them a bar of time.

    While frames are given the middle shows them too, under the title "given". A line in the bar stands where the
    forecast begins.

    Args:
        given, truth, forecast: as :func:`contact_sheet` takes them.

    Returns:
        uint8 RGB ``[rows, columns, 3]``, one for each frame of the clip, all of one shape.
    """
    columns = _columns(given, truth, forecast, PANEL)
    height, width = columns[-1][1].shape[:2]
    spacing = max(width, GAP + _text_width("no truth")) + MARGIN  # narrow frames leave their titles room
    lefts = [MARGIN + panel * spacing for panel in range(3)]
    top = MARGIN + 2 * TEXT_ROW
    bar_top = top + height + MARGIN
    legend, legend_top = _legend(), bar_top + SCALE_BAR[1] + MARGIN
    titles = _text_width(f"frame {len(columns)} of {len(columns)}") + 2 * MARGIN + _text_width("forecast")
    right = max(lefts[-1] + spacing - MARGIN, legend.shape[1], MARGIN + titles) + MARGIN
    background = _canvas(legend_top + len(legend), right)
    background[legend_top:, : legend.shape[1]] = legend

    film = []
    for number, (true, predicted, error) in enumerate(columns, start=1):
        picture = background.copy()
        is_given = number <= len(given)
        part, colour = ("given", GREY) if is_given else ("forecast", MARK)
        _write_text(picture, f"frame {number} of {len(columns)}", MARGIN, MARGIN + TEXT_ROW - 6)
        _write_text(picture, part, right - MARGIN - _text_width(part), MARGIN + TEXT_ROW - 6, colour)
        panels = (("truth", true), (part, true if is_given else predicted), ("error", error))
        for (title, frame), left in zip(panels, lefts):
            _write_text(picture, title, left, top - 5, colour if title == part else BLACK)
            picture[top : top + height, left : left + width] = EMPTY if frame is None else frame
            if true is None and title != part:
                _write_text(picture, "no truth", left + GAP, top + height // 2 + TEXT_ROW // 4)
        _draw_time(picture, bar_top, len(given), number, len(columns))
        film.append(picture)
    return film


def _columns(given: np.ndarray, truth: np.ndarray | None, forecast: np.ndarray, least: int) -> list[Column]:
    """Truth, forecast and error of each frame of a clip, None if there is none.

    Frames are enlarged by a whole factor until their longer side has ``least`` pixels.
    """
    truth = forecast[:0] if truth is None else truth
    zoom = -(-least // max(forecast.shape[1:3]))
    error = np.abs(np.clip(forecast[: len(truth)], 0.0, 1.0) - truth).mean(axis=3) / ERROR_AT_TOP
    before: list[None] = [None] * len(given)
    true = [_enlarged(frame, zoom) for frames in (given, truth) for frame in to_uint8(frames)]
    predicted = [_enlarged(frame, zoom) for frame in to_uint8(forecast)]
    errors = [_enlarged(ERROR_COLOURS[frame], zoom) for frame in to_uint8(error)]
    return list(itertools.zip_longest(true, before + predicted, before + errors))


def _enlarged(frame: np.ndarray, zoom: int) -> np.ndarray:
    """uint8 ``[H, W, 1 or 3]`` -> ``[zoom * H, zoom * W, 3]``."""
    return np.broadcast_to(frame, [*frame.shape[:2], 3]).repeat(zoom, axis=0).repeat(zoom, axis=1)


def _filled_up(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture with white below it and on its right."""
    missing = [(0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)]
    return np.pad(picture, missing, constant_values=PEAK)


def _canvas(height: int, width: int) -> np.ndarray:
    return np.full([height, width, 3], WHITE, np.uint8)


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, FONT, TEXT_SIZE, 1)[0][0]


def _write_text(canvas: np.ndarray, text: str, left: int, baseline: int, colour: Sequence[int] = BLACK) -> int:
    """Returns the right end of the text."""
    cv2.putText(canvas, text, (left, baseline), FONT, TEXT_SIZE, colour, 1, cv2.LINE_AA)
    return left + _text_width(text)


def _legend() -> np.ndarray:
    """What the colours of the error mean: a scale between its ends, margins on its left and below."""
    baseline = TEXT_ROW - 6
    legend = _canvas(TEXT_ROW + MARGIN, 3 * MARGIN + sum(map(_text_width, LEGEND)) + SCALE_BAR[0])
    left = MARGIN + _write_text(legend, LEGEND[0], MARGIN, baseline)
    right = left + SCALE_BAR[0]
    colours = ERROR_COLOURS[np.linspace(0, PEAK, SCALE_BAR[0]).astype(int)]
    legend[baseline - SCALE_BAR[1] + 1 : baseline + 1, left:right] = colours
    _write_text(legend, LEGEND[1], right + MARGIN, baseline)
    return legend


def _draw_time(canvas: np.ndarray, top: int, given: int, shown: int, total: int) -> None:
    """A bar, filled up to the frame that is shown, with a line where the forecast begins."""
    bottom = top + SCALE_BAR[1]
    length = canvas.shape[1] - 2 * MARGIN
    begin, now, end = (MARGIN + length * count // total for count in (given, shown, total))
    canvas[top:bottom, MARGIN:end] = EMPTY
    canvas[top:bottom, MARGIN : min(now, begin)] = GREY
    canvas[top:bottom, begin : max(now, begin)] = MARK
    canvas[top - 3 : bottom + 3, max(begin - 1, 0) : begin + 1] = BLACK


def write_png(path: str, frame: np.ndarray) -> None:
    """Write a picture, uint8 ``[H, W, 3]`` RGB or ``[H, W, 1]`` grey, whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    if frame.shape[2] == 3:
        frame = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", frame)[1]
    with reporting_errors(path):
        write_whole(path, encoded.tobytes())


def write_gif(path: str, frames: Sequence[np.ndarray], frames_per_second: float) -> None:
    """Write an animation that runs for ever, whole or not at all.

    Args:
        path: file.
        frames: uint8 RGB ``[H, W, 3]``, all of one shape.
        frames_per_second: GIF counts in hundredths of a second, so the nearest that it has, at most 50.

    Raises:
        WriteError: it cannot be written.
    """
    # One palette of 256 colours for all frames: with one for each, colours flicker.
    film = Image.fromarray(np.concatenate(frames)).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    height = len(frames[0])
    pictures = [film.crop((0, top, film.width, top + height)) for top in range(0, film.height, height)]
    content = io.BytesIO()
    pictures[0].save(
        content,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        loop=0,
        duration=10 * max(2, round(100 / frames_per_second)),
    )
    with reporting_errors(path):
        write_whole(path, content.getvalue())


def write_mp4(path: str, frames: Sequence[np.ndarray], frames_per_second: float) -> None:
    """Write a video (MPEG-4), whole or not at all; an odd width or height gets a white column or row more.

    Args:
        path: file, its name ends in .mp4.
        frames: uint8 RGB ``[H, W, 3]``, all of one shape.
        frames_per_second: of the video.

    Raises:
        WriteError: it cannot be written.
    """
    height, width = (side + side % 2 for side in frames[0].shape[:2])
    with reporting_errors(path), replacing(path) as partial:
        with open(partial, "wb"):  # OpenCV does not say why it cannot write; this does
            pass
        with opencv_path(partial) as plain:
            writer = cv2.VideoWriter(plain, cv2.VideoWriter_fourcc(*"mp4v"), frames_per_second, (width, height))
        try:
            for frame in frames:
                even = _filled_up(frame, height, width)
                writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        finally:
            writer.release()
        # A writer of OpenCV that fails says nothing; its file is then cut or empty.
        found = sum(1 for _ in frames_of(partial))
        if found != len(frames):
            raise WriteError(
                f"{path}: OpenCV wrote {found} of {len(frames)} frames; make room, or write a .gif in place of it"
            )


@contextlib.contextmanager
def reporting_errors(path: str) -> Iterator[None]:
    """Have an OSError end as a WriteError that names the file."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror}); make room, or give another folder") from None
