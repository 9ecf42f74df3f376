"""Pictures of forecasts: sheets, animations, videos and curves."""

import contextlib
import json
import os
import resource
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from src import evaluator, trainer
from src.data_provider.datasets_factory import build_dataset
from src.errors import WriteError
from src.models.model_factory import build_model
from src.reports import pictures
from src.reports.charts import draw_per_frame
from src.reports.own_folder import TEST, take_folder
from src.reports.pictures import ERROR_COLOURS, MARK, animation, contact_sheet, write_gif, write_mp4
from src.reports.training_report import TrainingReport
from src.utils.metrics import BASELINES, UNITS
from tests.conftest import settings_for


def grey(values, side=32):
    """Frames [T, side, side, 1], each of one grey level."""
    return np.broadcast_to(np.array(values, np.float32)[:, None, None, None], [len(values), side, side, 1])


def cells(sheet, colour, rows=slice(None)):
    """Columns of a sheet in which a colour fills at least 20 pixels one above the other."""
    return np.flatnonzero((sheet[rows] == np.array(colour)).all(axis=2).sum(axis=0) >= 20)


GIVEN, TRUTH, FORECAST = grey([0.1, 0.2]), grey([0.3, 0.4, 0.45]), grey([0.3, 0.65, 7.0])


# ---- sheets


def test_a_sheet_shows_every_frame_enlarged_with_the_truth_above_the_forecast_and_a_line_between():
    sheet = contact_sheet(GIVEN, TRUTH, FORECAST)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    places = [cells(sheet, [int(value * 255)] * 3) for value in (0.1, 0.2, 0.4, 0.45)]
    assert [len(columns) for columns in places] == [96] * 4  # 32 pixels, three times as large
    line = cells(sheet, MARK)
    assert places[0][-1] < places[1][0] <= places[1][-1] < line[0] and line[-1] < places[2][0] < places[3][0]
    assert len(line) == 4 and line[0] - places[1][-1] == cells(sheet, [76] * 3)[0] - line[-1]  # in the middle

    second = int(places[2][50])  # a column of frame 4: 0.4 in the truth, 0.65 in the forecast, so half of the scale
    column = sheet[:, second].tolist()
    truth, forecast = column.index([102] * 3), column.index([165] * 3)
    error = column.index(ERROR_COLOURS[127].tolist())
    assert forecast - truth == error - forecast == 96 + 4


def test_an_error_has_the_colour_of_its_size_whatever_the_other_errors_are():
    # More than 0.5 has the last colour; forecasts above 1 are clipped first, as the figures do.
    for value, level in ((0.0, 0), (0.25, 127), (0.5, 255), (0.9, 255), (5.0, 255)):
        sheet = contact_sheet(grey([0.0]), grey([0.0]), grey([value]))
        found = cells(sheet[-150:-40], ERROR_COLOURS[level])
        assert len(found) >= 96, value
    sheet = contact_sheet(grey([0.0]), grey([1.0]), grey([5.0]))
    assert len(cells(sheet[-150:-40], ERROR_COLOURS[0])) >= 96


@pytest.mark.parametrize("truth", [None, TRUTH[:0], TRUTH[:1]])
def test_frames_without_a_truth_stay_empty_and_a_label_says_so(truth):
    known = 0 if truth is None else len(truth)
    sheet = contact_sheet(GIVEN, truth, FORECAST)
    assert len(cells(sheet, [76] * 3)) == 96  # of the forecast, or of both
    empty = cells(sheet, pictures.EMPTY)
    assert len(empty) > (3 - known) * 96 - 80
    for picture, count in ((sheet, 2), *((film, 2) for film in animation(GIVEN, truth, FORECAST)[2 + known :])):
        # Dark letters in the empty panels of the truth and of the error.
        blurred = (picture == np.array(pictures.EMPTY)).all(axis=2).astype(np.uint8)
        areas = cv2.connectedComponentsWithStats(cv2.morphologyEx(blurred, cv2.MORPH_CLOSE, np.ones([9, 9])))[2][1:]
        panels = [area for area in areas if area[cv2.CC_STAT_HEIGHT] >= 96]
        assert len(panels) == count
        for left, top, width, height, _ in panels:
            assert (picture[top : top + height, left : left + width] < 100).all(axis=2).sum() > 20


@pytest.mark.parametrize(("height", "width", "zoom"), [(16, 16, 6), (7, 30, 4), (96, 20, 1), (40, 2100, 1)])
def test_small_frames_are_enlarged_by_a_whole_factor_and_large_ones_are_not(height, width, zoom):
    frames = np.random.default_rng(0).random([3, height, width, 3]).astype(np.float32)
    sheet = contact_sheet(frames[:1], frames[1:2], frames[2:])
    assert sheet.shape[1] <= max(pictures.SHEET_WIDTH, width + 100)
    expected = (frames[0] * 255).astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
    top, size = 44, expected.shape
    assert any(
        np.array_equal(sheet[top : top + size[0], left : left + size[1]], expected) for left in range(sheet.shape[1])
    )


def test_text_is_never_cut_off():
    narrow = np.full([30, 96, 20, 1], 0.5, np.float32)
    clips = [(grey([0.5], side), None, grey([0.5] * 12, side)) for side in (4, 20, 128)]
    clips += [(narrow[:29], narrow[:1], narrow[:1]), (narrow[:28], narrow[:1], narrow[:2]), (narrow[:1], None, narrow)]
    for clip in clips:
        for sheet in [contact_sheet(*clip), *animation(*clip)]:
            for edge in (sheet[:4], sheet[-4:], sheet[:, :4], sheet[:, -4:]):
                assert (edge == 255).all()


@pytest.mark.parametrize("known", [20, 4])
def test_a_sheet_of_many_frames_is_cut_into_bands_given_frames_first(known):
    frames = grey(np.linspace(0.1, 0.9, 30), 128)
    sheet = contact_sheet(frames[:10], frames[10 : 10 + known], frames[10:])
    assert sheet.shape[1] <= pictures.SHEET_WIDTH and sheet.shape[0] < 1200
    # Ten columns in three bands, the given ones above; without a truth a frame stands in the second row.
    band_tops, lefts = [set(), set(), set()], {}
    for number, frame in enumerate(frames):
        colour = [int(frame[0, 0, 0] * 255)] * 3
        top, left = cells(sheet.transpose(1, 0, 2), colour)[0], cells(sheet, colour)[0]
        band_tops[number // 10].add(int(top) - (0 if number < 10 + known else 128 + 4))
        assert left == lefts.setdefault(number % 10, left)
    assert [len(tops) for tops in band_tops] == [1, 1, 1] and band_tops == sorted(band_tops, key=min)
    assert list(lefts.values()) == sorted(lefts.values())
    for edge in (sheet[:4], sheet[-4:], sheet[:, :4], sheet[:, -4:]):
        assert (edge == 255).all()


# ---- films


def test_an_animation_shows_each_frame_and_fills_the_bar_of_time_up_to_it():
    films = animation(GIVEN, TRUTH, FORECAST)
    assert len(films) == 5 and len({film.shape for film in films}) == 1
    assert len(cells(films[1], [51] * 3)) == 2 * 128  # given: in the place of the truth and of the forecast
    assert len(cells(films[3], [102] * 3)) == 128 and len(cells(films[3], [165] * 3)) == 128
    bar = [film[44 + 128 + 8 + 5] for film in films]  # the middle of the bar
    length = films[0].shape[1] - 16
    for shown, row in enumerate(bar, start=1):
        given = (row == pictures.GREY).all(axis=1).sum()
        forecast = (row == MARK).all(axis=1).sum()
        assert given == pytest.approx(min(shown, 2) / 5 * length, abs=2)
        assert forecast == pytest.approx(max(shown - 2, 0) / 5 * length, abs=2)
        line = np.flatnonzero((row == 0).all(axis=1))
        assert line[0] == pytest.approx(8 + 2 / 5 * length, abs=2)


@pytest.mark.parametrize(("rate", "milliseconds"), [(5, 200), (8, 120), (1000, 20)])
def test_a_gif_holds_every_frame_in_its_colours_and_runs_for_ever(tmp_path, rate, milliseconds):
    films = animation(GIVEN, TRUTH, FORECAST)
    write_gif(str(tmp_path / "a.gif"), films, rate)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0
        for place, film in enumerate(films):
            gif.seek(place)
            assert gif.info["duration"] == milliseconds
            shown = np.array(gif.convert("RGB")).astype(int)
            assert np.abs(shown - film).mean() < 2 and (shown[:4] == 255).all()
    assert os.listdir(tmp_path) == ["a.gif"]


def test_a_video_holds_every_frame_also_of_an_odd_size(tmp_path):
    films = [np.full([41, 63, 3], [40 * place, 100, 200], np.uint8) for place in range(5)]
    write_mp4(str(tmp_path / "a.mp4"), films, 10)
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    for film in films:
        found, frame = video.read()
        assert found and frame.shape == (42, 64, 3)
        np.testing.assert_allclose(frame[8:32, 8:48].mean(axis=(0, 1))[::-1], film[0, 0], atol=6)
    assert not video.read()[0] and os.listdir(tmp_path) == ["a.mp4"]


# ---- files


@contextlib.contextmanager
def no_file_above(size):
    """Writing past this size fails as a full disk does, at a byte in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "png": lambda path: pictures.write_png(path, np.random.default_rng(0).integers(0, 255, [64, 64, 3], np.uint8)),
    "gif": lambda path: write_gif(path, noise_film(), 5),
    "mp4": lambda path: write_mp4(path, noise_film(), 5),
}


def noise_film():
    return list(np.random.default_rng(0).integers(0, 255, [4, 64, 64, 3], np.uint8))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("fault", ["no folder", "full disk"])
def test_a_picture_that_cannot_be_written_is_one_line_and_leaves_the_one_before(tmp_path, kind, fault):
    path = tmp_path / ("nowhere" if fault == "no folder" else "") / f"a.{kind}"
    if fault == "full disk":
        path.write_bytes(b"before")
    with no_file_above(2000), pytest.raises(WriteError) as caught:
        WRITERS[kind](str(path))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert "make room" in str(caught.value)
    if fault == "full disk":
        assert path.read_bytes() == b"before" and os.listdir(tmp_path) == [path.name]


def test_a_video_that_opencv_cannot_encode_is_told(tmp_path, monkeypatch):
    class Silent:
        def __init__(self, *arguments):
            pass

        write = release = __init__

    monkeypatch.setattr(cv2, "VideoWriter", Silent)
    with pytest.raises(WriteError, match=r"a\.mp4: OpenCV wrote 0 of 4 frames"):
        write_mp4(str(tmp_path / "a.mp4"), noise_film(), 5)
    assert not os.listdir(tmp_path)


# ---- curves


@pytest.mark.parametrize("psnr", [[20.0, None, 18.0], [None] * 3])
def test_figures_are_drawn_over_the_predicted_frames_with_gaps_where_there_is_no_value(tmp_path, psnr, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, *xy, **style: drawn.append(xy) or plot(axes, *xy, **style))
    others = {f"{name}_per_frame": [0.9, 0.8, 0.7] for name in ("ssim", "mse", "mae")}
    metrics = {who: {"psnr_per_frame": psnr, **others} for who in ("model", "repeat_last_frame", "mean_frame")}
    for _ in range(2):  # the second time into the same figure
        draw_per_frame(str(tmp_path / "per_frame.png"), {"input_length": 10, **metrics})
    assert len(drawn) == 2 * 12 and all(list(frames) == [11, 12, 13] for frames, _ in drawn)
    np.testing.assert_array_equal(drawn[0][1], [np.nan if value is None else value for value in psnr])
    assert list(drawn[3][1]) == [0.9, 0.8, 0.7]
    picture = cv2.imread(str(tmp_path / "per_frame.png"))
    assert picture.shape[1] == 1600 and (picture != 255).any(axis=2).mean() > 0.01


# ---- in a test


def test_a_test_leaves_a_sheet_and_an_animation_of_each_saved_sequence_and_curves(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, batch_size=2, num_save_samples=2)
    folder = tmp_path / "results" / "7"
    take_folder(str(folder), TEST)
    (folder / "9").mkdir()
    for name in ("sheet.png", "forecast.gif", "other.gif"):
        (folder / "9" / name).write_bytes(b"old")
    evaluator.evaluate(config, build_model(config), build_dataset(config, "test"), "7", 7)
    for number in ("1", "2"):
        gt01 = cv2.imread(str(folder / number / "gt01.png"))
        sheet = cv2.imread(str(folder / number / "sheet.png"))
        zoomed = gt01.repeat(6, axis=0).repeat(6, axis=1)
        assert any(np.array_equal(sheet[44:140, left : left + 96], zoomed) for left in range(100))
        with Image.open(folder / number / "forecast.gif") as gif:
            assert gif.n_frames == 6
    assert cv2.imread(str(folder / "per_frame.png")) is not None
    assert os.listdir(folder / "9") == ["other.gif"]


def test_without_matplotlib_a_test_gives_its_figures_and_says_what_is_missing(
    kth_sample, tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "matplotlib.ticker", None)
    monkeypatch.setattr(trainer.logger, "propagate", True)
    config = settings_for(kth_sample, tmp_path, is_training=False, pretrained_model="any")
    folder = tmp_path / "results" / "7"
    take_folder(str(folder), TEST)
    (folder / "per_frame.png").write_bytes(b"of an earlier test")
    metrics = evaluator.evaluate(config, build_model(config), build_dataset(config, "test"), "7", 7)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert not (folder / "per_frame.png").exists()
    assert "per_frame.png is not drawn" in caplog.text and "pip install" in caplog.text


@pytest.mark.parametrize("is_training", [True, False])
def test_a_full_disk_under_the_pictures_ends_a_test_and_is_a_warning_in_a_training(
    kth_sample, tmp_path, monkeypatch, caplog, is_training
):
    monkeypatch.setattr(trainer.logger, "propagate", True)
    config = settings_for(kth_sample, tmp_path, is_training=is_training, pretrained_model="any")
    ends = contextlib.nullcontext() if is_training else pytest.raises(WriteError, match=r"sheet\.png")
    with no_file_above(5000), ends:
        evaluator.evaluate(config, build_model(config), build_dataset(config, "test"), "7", 7)
    if is_training:
        assert all(name in caplog.text for name in ("sheet.png", "per_frame.png", "File too large"))
        assert (tmp_path / "results" / "7" / "metrics.json").is_file()


# ---- kept in a training


def pictures_in(results):
    """The tests of a training whose pictures are there."""
    return sorted(int(test.name) for test in results.iterdir() if list(test.glob("*/sheet.png")))


@pytest.mark.usefixtures("undrawn")
def test_a_training_keeps_the_pictures_of_its_newest_tests_and_of_the_best(kth_sample, tmp_path, monkeypatch):
    # The second test is made the best, which the newest ones are not.
    evaluate = trainer.evaluate

    def with_psnr(*arguments):
        metrics = evaluate(*arguments)
        metrics["model"]["psnr"] = 99.0 if metrics["iteration"] == 2 else 10.0 - metrics["iteration"]
        return metrics

    monkeypatch.setattr(trainer, "evaluate", with_psnr)
    intervals = {"max_iterations": 7, "test_interval": 1, "snapshot_interval": 1, "resume": "newest"}
    clips = {"keep_pictures": 2, "test_max_clips": 2, "batch_size": 1, "num_save_samples": 2}
    config = settings_for(kth_sample, tmp_path, **intervals, **clips)
    results = tmp_path / "results"
    # Killed while the pictures of the fifth test are written, and resumed: it goes on with removing.
    write = evaluator.write_pictures

    def write_until_killed(folder, *frames):
        if folder.endswith("5/2"):
            raise KeyboardInterrupt
        write(folder, *frames)

    monkeypatch.setattr(evaluator, "write_pictures", write_until_killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config)
    assert pictures_in(results) == [2, 3, 4, 5]  # the best, two, and the one that was begun
    monkeypatch.setattr(evaluator, "write_pictures", write)
    trainer.train(config)
    assert pictures_in(results) == [2, 6, 7]
    for number in range(1, 8):
        assert (results / str(number) / "metrics.json").is_file() and (results / str(number) / "report.html").is_file()
        assert (results / str(number) / "2").is_dir() == (number in (2, 6, 7))


@pytest.mark.usefixtures("undrawn")
def test_all_pictures_are_kept_if_that_is_asked_for(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=3, test_interval=1, keep_pictures=0, test_max_clips=2)
    trainer.train(config)
    assert pictures_in(tmp_path / "results") == [1, 2, 3]


@pytest.mark.usefixtures("undrawn")
def test_pictures_that_cannot_be_removed_are_a_warning(kth_sample, tmp_path, monkeypatch, caplog):
    def refuse(directory):
        raise WriteError(f"{directory}: cannot be written (Read-only file system)")

    monkeypatch.setattr("src.reports.training_report.remove_clips", refuse)
    report = TrainingReport(settings_for(kth_sample, tmp_path, keep_pictures=1), 0, 0, "cpu")
    monkeypatch.setattr(trainer.logger, "propagate", True)
    for iteration in (1, 2):
        report.test(iteration, {"sequences": 1, **{who: dict.fromkeys(UNITS, 1.0) for who in ("model", *BASELINES)}})
    report.remove_old_pictures({"iteration": 2})
    report.close()
    assert "pictures of older tests cannot be removed" in caplog.text and "Read-only" in caplog.text
