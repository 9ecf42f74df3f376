"""Pictures of forecasts: sheets, animations and videos. Needs no paddle."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence

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
PLAIN_COLOURS = (WHITE, BLACK, EMPTY, GREY, MARK)  # of what is drawn around the frames
ERROR_COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
FONT = cv2.FONT_HERSHEY_SIMPLEX
ROWS = ("truth", "forecast", "error")  # of a sheet
LEGEND = ("error = | forecast - truth | :  0", f"{ERROR_AT_TOP:g} or more")


def contact_sheet(given: np.ndarray, truth: np.ndarray | None, forecast: np.ndarray) -> np.ndarray:
    """All frames at once: a column for each, rows for the truth, the forecast and the error.

    A line stands where the forecast begins. Small frames are enlarged by a whole factor. A sheet that would be wider
    than SHEET_WIDTH is cut into bands below one another: the given frames first, then the forecast.

    Args:
        given: frames ``[M, H, W, C]`` in [0, 1], C 1 or 3; numbered 1 to M, the others from M + 1.
        truth: of the first predicted frames, ``[at most N, H, W, C]``; None where there is none.
        forecast: predicted frames ``[N, H, W, C]``, clipped to [0, 1].

    Returns:
        uint8 RGB ``[rows, columns, 3]``.

    Raises:
        ValueError: shapes that do not fit together.
    """
    clip = _Clip(given, truth, forecast, SHEET_CELL)
    bands = _bands(clip)
    bottoms = [MARGIN]
    for band in bands:
        bottoms.append(bottoms[-1] + 2 * TEXT_ROW + len(band.rows) * (clip.height + GAP) - GAP + MARGIN)
    width = max(MARGIN + _legend_width(), *(band.right for band in bands)) + MARGIN
    sheet = _canvas(bottoms[-1] + TEXT_ROW + MARGIN, width)
    for band, top in zip(bands, bottoms):
        _draw_band(sheet, clip, band, top)
    _draw_legend(sheet, MARGIN, bottoms[-1])
    return sheet


class _Band:
    """Frames of a sheet beside one another.

    Args:
        clip: the whole clip.
        first, end: places of the frames, counted from 0.
        indent: pixels; the same in all bands of a sheet, so that their columns stand below one another.
    """

    def __init__(self, clip: _Clip, first: int, end: int, indent: int = 0) -> None:
        self.places = range(first, end)
        self.rows = ROWS if end > clip.given else ROWS[:1]  # given frames are the truth alone
        self.begin = clip.given if first <= clip.given < end else None  # where the forecast begins, if here
        self.lefts = {
            # The column where the forecast begins stands off, to make place for the line.
            place: _first_left() + indent + number * (clip.width + GAP) + (LINE if first < clip.given <= place else 0)
            for number, place in enumerate(self.places)
        }
        self.unknown = max(clip.known, first) if clip.known < end else None  # the first one without a truth
        self.right = self.lefts[end - 1] + clip.width
        # In a band of both, "given" is left out where it does not fit.
        title = ("given", first) if end <= clip.given else ("forecast", max(clip.given, first))
        titles = [(self.lefts[title[1]], title[0])]
        if self.unknown is not None:
            titles.append((self.lefts[self.unknown] + GAP, "no truth"))
        self.right = max(self.right, *(left + _text_width(text) for left, text in titles))


def _first_left() -> int:
    return MARGIN + max(_text_width(label) for label in ROWS) + MARGIN


def _bands(clip: _Clip) -> list[_Band]:
    """One band of all frames, or where that is too wide, bands of given frames, then of predicted ones."""
    whole = _Band(clip, 0, clip.total)
    if whole.right + MARGIN <= SHEET_WIDTH:
        return [whole]
    most = max(1, (SHEET_WIDTH - _first_left() - LINE - MARGIN) // (clip.width + GAP))
    bands = []
    for first, end in ((0, clip.given), (clip.given, clip.total)):
        count = end - first
        columns = -(-count // -(-count // most))  # as many in each band, but for the last
        bands += [_Band(clip, place, min(place + columns, end), LINE) for place in range(first, end, columns)]
    return bands


def _draw_band(sheet: np.ndarray, clip: _Clip, band: _Band, band_top: int) -> None:
    tops = [band_top + 2 * TEXT_ROW + row * (clip.height + GAP) for row in range(len(band.rows))]
    bottom, text_down = tops[-1] + clip.height, clip.height // 2 + TEXT_ROW // 4
    for label, top in zip(band.rows, tops):
        _write_text(sheet, label, MARGIN, top + text_down)
    first, title = band.places[0], band_top + TEXT_ROW - 6
    room = sheet.shape[1] if band.begin is None else band.lefts[band.begin] - (GAP + LINE) // 2 - band.lefts[first]
    if first < clip.given and _text_width("given") < room:
        _write_text(sheet, "given", band.lefts[first], title, GREY)
    if clip.given < band.places.stop:
        _write_text(sheet, "forecast", band.lefts[max(first, clip.given)], title, MARK)
    for place, left in band.lefts.items():
        number = str(place + 1)
        _write_text(sheet, number, left + (clip.width - _text_width(number)) // 2, tops[0] - 5)
        for frame, top in zip(clip.column(place), tops):
            if frame is not None:
                sheet[top : top + clip.height, left : left + clip.width] = frame
    if band.unknown is not None:
        for top in (tops[0], tops[2]):
            left, right = band.lefts[band.unknown], band.lefts[band.places[-1]] + clip.width
            sheet[top : top + clip.height, left:right] = EMPTY
            _write_text(sheet, "no truth", left + GAP, top + text_down)
    if band.begin is not None:
        split = band.lefts[band.begin] - (GAP + LINE) // 2
        sheet[band_top:bottom, split - LINE // 2 : split + LINE // 2] = MARK


def animation(given: np.ndarray, truth: np.ndarray | None, forecast: np.ndarray) -> list[np.ndarray]:
    """The clip as a film: truth, forecast and error side by side, below them a bar of time.

    While frames are given the middle shows them too, under the title "given". A line in the bar stands where the
    forecast begins.

    Args:
        given, truth, forecast: as :func:`contact_sheet` takes them.

    Returns:
        uint8 RGB ``[rows, columns, 3]``, one for each frame of the clip, all of one shape.

    Raises:
        ValueError: shapes that do not fit together.
    """
    clip = _Clip(given, truth, forecast, PANEL)
    spacing = max(clip.width, GAP + _text_width("no truth")) + MARGIN  # narrow frames leave their titles room
    lefts = [MARGIN + panel * spacing for panel in range(3)]
    top = MARGIN + 2 * TEXT_ROW
    bottom = top + clip.height
    bar_top = bottom + MARGIN
    legend_top = bar_top + SCALE_BAR[1] + MARGIN
    counter = f"frame {clip.total} of {clip.total}"
    title_width = _text_width(counter) + 2 * MARGIN + _text_width("forecast")
    width = max(lefts[-1] + spacing - MARGIN, MARGIN + _legend_width(), MARGIN + title_width) + MARGIN
    background = _canvas(legend_top + TEXT_ROW + MARGIN, width)
    _draw_legend(background, MARGIN, legend_top)

    film = []
    for place in range(clip.total):
        picture = background.copy()
        is_given = place < clip.given
        part, colour = ("given", GREY) if is_given else ("forecast", MARK)
        _write_text(picture, f"frame {place + 1} of {clip.total}", MARGIN, MARGIN + TEXT_ROW - 6)
        _write_text(picture, part, width - MARGIN - _text_width(part), MARGIN + TEXT_ROW - 6, colour)
        truth_frame, forecast_frame, error = clip.column(place)
        panels = (
            ("truth", truth_frame),
            (part, truth_frame if is_given else forecast_frame),
            ("error", error),
        )
        for (title, frame), left in zip(panels, lefts):
            _write_text(picture, title, left, top - 5, colour if title == part else BLACK)
            picture[top:bottom, left : left + clip.width] = EMPTY if frame is None else frame
        if place >= clip.known:
            for left in (lefts[0], lefts[2]):
                _write_text(picture, "no truth", left + GAP, top + clip.height // 2 + TEXT_ROW // 4)
        _draw_time(picture, bar_top, clip.given, place + 1, clip.total)
        film.append(picture)
    return film


class _Clip:
    """The pictures of a clip, each frame enlarged to ``[height, width, 3]`` uint8 RGB.

    Args:
        given, truth, forecast: as :func:`contact_sheet` takes them.
        least: pixels that the longer side has at least.
    """

    def __init__(self, given: np.ndarray, truth: np.ndarray | None, forecast: np.ndarray, least: int) -> None:
        if truth is None:
            truth = forecast[:0]
        for name, frames in (("given", given), ("truth", truth), ("forecast", forecast)):
            if frames.ndim != 4 or frames.shape[3] not in (1, 3) or frames.shape[1:] != forecast.shape[1:]:
                raise ValueError(
                    f"{name}: expected frames [T, H, W, C] of one size with C 1 or 3, got {frames.shape} "
                    f"beside a forecast {forecast.shape}"
                )
        if not len(forecast) or len(truth) > len(forecast):
            raise ValueError(f"expected a forecast, and no more frames of truth: got {len(forecast)} and {len(truth)}")
        height, width = forecast.shape[1:3]
        zoom = -(-least // max(height, width))
        self.height, self.width = height * zoom, width * zoom
        self.given, self.known, self.total = len(given), len(given) + len(truth), len(given) + len(forecast)
        forecast = np.clip(forecast, 0.0, 1.0)
        error = np.abs(forecast[: len(truth)] - truth).mean(axis=3) / ERROR_AT_TOP
        self.truth = [_enlarged(_rgb(frame), zoom) for frames in (given, truth) for frame in to_uint8(frames)]
        self.forecast = [_enlarged(_rgb(frame), zoom) for frame in to_uint8(forecast)]
        self.error = [_enlarged(ERROR_COLOURS[frame], zoom) for frame in to_uint8(error)]

    def column(self, place: int) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Truth, forecast and error of the frame at a place, counted from 0; None where there is none."""
        step = place - self.given
        return (
            self.truth[place] if place < self.known else None,
            self.forecast[step] if step >= 0 else None,
            self.error[step] if 0 <= step < len(self.error) else None,
        )


def _rgb(frame: np.ndarray) -> np.ndarray:
    return np.broadcast_to(frame, [*frame.shape[:2], 3])


def _enlarged(frame: np.ndarray, zoom: int) -> np.ndarray:
    return frame.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _canvas(height: int, width: int) -> np.ndarray:
    return np.full([height, width, 3], WHITE, np.uint8)


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, FONT, TEXT_SIZE, 1)[0][0]


def _write_text(canvas: np.ndarray, text: str, left: int, baseline: int, colour: Sequence[int] = BLACK) -> None:
    cv2.putText(canvas, text, (left, baseline), FONT, TEXT_SIZE, colour, 1, cv2.LINE_AA)


def _legend_width() -> int:
    return _text_width(LEGEND[0]) + SCALE_BAR[0] + 2 * MARGIN + _text_width(LEGEND[1])


def _draw_legend(canvas: np.ndarray, left: int, top: int) -> None:
    """What the colours of the error mean: a scale between its ends."""
    baseline = top + TEXT_ROW - 6
    _write_text(canvas, LEGEND[0], left, baseline)
    left += _text_width(LEGEND[0]) + MARGIN
    width, height = SCALE_BAR
    colours = ERROR_COLOURS[np.linspace(0, PEAK, width).astype(int)]
    canvas[baseline - height + 1 : baseline + 1, left : left + width] = colours
    _write_text(canvas, LEGEND[1], left + width + MARGIN, baseline)


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
        ValueError: no frames, frames of different shapes, or a rate that is not above 0.
        WriteError: it cannot be written.
    """
    _check_film(frames, frames_per_second)
    palette = _palette(frames)
    pictures = [_in_palette(frame, palette) for frame in frames]
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


def _palette(frames: Sequence[np.ndarray]) -> Image.Image:
    """One palette of 256 colours for a film (with one a frame, colours flicker), our own colours among them."""
    ours = np.array([*PLAIN_COLOURS, *ERROR_COLOURS[::4]], np.uint8)
    sample = np.concatenate([frame[::2, ::2] for frame in frames])
    medians = Image.fromarray(sample).quantize(256 - len(ours), Image.Quantize.MEDIANCUT).getpalette("RGB")
    palette = Image.new("P", (1, 1))
    palette.putpalette((ours.ravel().tolist() + medians)[: 3 * 256])
    return palette


def _in_palette(frame: np.ndarray, palette: Image.Image) -> Image.Image:
    """A frame in the colours of :func:`_palette`."""
    indexed = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
    indices = np.array(indexed)
    # Pillow looks colours up in steps and takes a neighbour of white for white.
    for index, colour in enumerate(PLAIN_COLOURS):
        np.putmask(indices, cv2.inRange(frame, colour, colour), index)
    exact = Image.fromarray(indices)  # grey levels so far
    exact.putpalette(palette.getpalette("RGB"))
    return exact


def write_mp4(path: str, frames: Sequence[np.ndarray], frames_per_second: float) -> None:
    """Write a video (MPEG-4), whole or not at all; an odd width or height gets a white column or row more.

    Args:
        path: file, its name ends in .mp4.
        frames: uint8 RGB ``[H, W, 3]``, all of one shape.
        frames_per_second: of the video.

    Raises:
        ValueError: no frames, frames of different shapes, a rate that is not above 0, or another suffix.
        WriteError: it cannot be written.
    """
    _check_film(frames, frames_per_second)
    if not path.endswith(".mp4"):
        raise ValueError(f"{path}: expected a name that ends in .mp4")
    height, width = (side + side % 2 for side in frames[0].shape[:2])
    with reporting_errors(path), replacing(path) as partial:
        with open(partial, "wb"):  # OpenCV does not say why it cannot write; this does
            pass
        with opencv_path(partial) as plain:
            writer = cv2.VideoWriter(plain, cv2.VideoWriter_fourcc(*"mp4v"), frames_per_second, (width, height))
        try:
            for frame in frames:
                even = np.pad(
                    frame, [(0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)], constant_values=PEAK
                )
                writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        finally:
            writer.release()
        # A writer of OpenCV that fails says nothing; its file is then cut or empty.
        found = sum(1 for _ in frames_of(partial))
        if found != len(frames):
            raise WriteError(
                f"{path}: OpenCV wrote {found} of {len(frames)} frames; make room, or write a .gif in place of it"
            )


def _check_film(frames: Sequence[np.ndarray], frames_per_second: float) -> None:
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1 or any(frame.dtype != np.uint8 for frame in frames) or len(frames[0].shape) != 3:
        raise ValueError(f"expected uint8 frames [H, W, 3] of one shape, got {len(frames)} of {sorted(shapes)}")
    if not frames_per_second > 0:
        raise ValueError(f"expected frames per second above 0, got {frames_per_second}")


@contextlib.contextmanager
def reporting_errors(path: str) -> Iterator[None]:
    """Have an OSError end as a WriteError that names the file."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror}); make room, or give another folder") from None
