"""--predict_video: a forecast of a user's own film."""

import json
import os

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

import runp
from scripts.draw_forecast import read_sheet
from scripts.predict_exported import read_folder
from src import trainer
from src.checkpoints.checkpoint import load_weights
from src.config import Config
from src.data_provider.folder import read_film
from src.data_provider.videos import count_frames
from src.errors import UserError
from src.models.model_factory import build_model
from src.reports.saved_clips import read_clip
from src.step import predict
from tests.conftest import settings_for
from tests.helpers import write_video


@pytest.fixture(scope="module")
def checkpoint(kth_sample, tmp_path_factory):
    """Of a run on frames of 16 pixels, 3 given and 3 predicted."""
    folder = tmp_path_factory.mktemp("trained")
    trainer.train(settings_for(kth_sample, folder, max_iterations=2, snapshot_interval=2, num_save_samples=0))
    return str(folder / "ck" / "2")


def film_of(kind, folder, frames=9):
    """A film whose frame number n has the grey value 8 * n."""
    values = [np.full([20, 30], 8 * number, np.uint8) for number in range(1, frames + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "avi":
        write_video(folder / "film.avi", frames, value=lambda number: 8 * (number + 1))
    elif kind == "gif":
        pictures = [Image.fromarray(value) for value in values]
        pictures[0].save(folder / "film.gif", save_all=True, append_images=pictures[1:], duration=40)
    else:
        (folder / "film").mkdir()
        for number, value in enumerate(values, start=1):
            cv2.imwrite(str(folder / "film" / f"frame {number}.png"), value)
        return folder / "film"
    return folder / f"film.{kind}"


def forecast(film, checkpoint, out, *more):
    return runp.main(["--predict_video", str(film), "--pretrained_model", checkpoint, "--gen_frm_dir", str(out), *more])


@pytest.mark.parametrize("kind", ["avi", "gif", "png"])
def test_the_last_frames_of_a_film_are_gone_on_with(checkpoint, tmp_path, kind, capfd):
    assert forecast(film_of(kind, tmp_path), checkpoint, tmp_path / "out") == 0, capfd.readouterr().err
    out = tmp_path / "out" / "film"
    frames = ["gt01.png", "gt02.png", "gt03.png", "pd04.png", "pd05.png", "pd06.png"]
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert names == ["forecast.gif", "forecast.mp4", *frames, "sheet.png"]
    for number, grey in ((1, 56), (2, 64), (3, 72)):
        picture = cv2.imread(str(out / f"gt{number:02d}.png"), cv2.IMREAD_UNCHANGED)
        assert picture.shape == (16, 16) and abs(int(picture[8, 8]) - grey) <= 3
    assert count_frames(str(out / "forecast.gif")) == count_frames(str(out / "forecast.mp4")) == 6


@pytest.mark.parametrize(("start", "true_frames"), [(1, 3), (5, 2), (7, 0)])
def test_from_a_frame_on_the_truth_stands_beside_the_forecast_as_far_as_it_goes(
    checkpoint, tmp_path, start, true_frames
):
    assert forecast(film_of("png", tmp_path), checkpoint, tmp_path / "out", "--predict_start", str(start)) == 0
    out = tmp_path / "out" / "film"
    assert len(list(out.glob("gt*.png"))) == 3 + true_frames and len(list(out.glob("pd*.png"))) == 3
    assert cv2.imread(str(out / "gt01.png"), cv2.IMREAD_UNCHANGED)[0, 0] == 8 * start
    assert (out / "metrics.json").exists() == (true_frames > 0)
    if true_frames:
        figures = json.loads((out / "metrics.json").read_text())
        assert len(figures["model"]["psnr_per_frame"]) == true_frames and figures["first_frame"] == start
        # The last given frame has the value 8 * (start + 2), the one after it 8 more.
        assert figures["repeat_last_frame"]["psnr_per_frame"][0] == pytest.approx(20 * np.log10(255 / 8), abs=1e-3)
        # The mean of the three given frames is 8 * (start + 1).
        assert figures["mean_frame"]["psnr_per_frame"][0] == pytest.approx(20 * np.log10(255 / 16), abs=1e-3)
        assert "actions" not in figures


def test_a_forecast_is_that_of_the_network(checkpoint, tmp_path):
    film = read_film(str(film_of("png", tmp_path)), 0, 3, 3, 16, 1)
    assert forecast(tmp_path / "film", checkpoint, tmp_path / "out") == 0
    config = Config.from_command_line(["--predict_video", "x", "--pretrained_model", checkpoint])
    model = build_model(config)
    load_weights(model, checkpoint, config)
    after = np.ones([3, 16, 16, 1], np.float32)  # not looked at
    frames = paddle.to_tensor(np.concatenate([film.given, after])[None])
    expected = predict(config, model, frames)[0]
    for number, frame in enumerate(expected, start=4):
        found = cv2.imread(str(tmp_path / "out" / "film" / f"pd{number:02d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, (np.clip(frame[..., 0], 0, 1) * 255).astype(np.uint8))


def test_the_network_s_settings_come_from_the_checkpoint_and_the_horizon_may_be_longer(checkpoint, tmp_path):
    film = film_of("png", tmp_path)
    assert forecast(film, checkpoint, tmp_path / "out", "--total_length", "9") == 0
    assert len(list((tmp_path / "out" / "film").glob("pd*.png"))) == 6
    (tmp_path / "out" / "film" / "notes.txt").write_text("the user's")
    assert forecast(film, checkpoint, tmp_path / "out") == 0  # the pictures of before are gone
    assert len(list((tmp_path / "out" / "film").glob("pd*.png"))) == 3
    assert (tmp_path / "out" / "film" / "notes.txt").exists()


def test_a_film_whose_name_is_not_utf_8_is_gone_on_with(checkpoint, tmp_path, capfd):
    film = film_of("avi", tmp_path)
    renamed = film.rename(tmp_path / os.fsdecode(b"caf\xe9.avi"))
    assert forecast(renamed, checkpoint, tmp_path / "out", "--predict_start", "2") == 0, capfd.readouterr().err
    out = tmp_path / "out" / os.fsdecode(b"caf\xe9")
    assert count_frames(str(out / "forecast.mp4")) == 6 and (out / "metrics.json").exists()
    pictures = out / "1"  # the pages, montages and exported programs read pictures below such names too
    pictures.mkdir()
    for path in [*out.glob("*.png")]:
        path.rename(pictures / path.name)
    assert len(read_clip(str(out), 1).truth) == 6
    assert read_sheet(pictures).ndim == 3
    assert len(list(read_folder(pictures, 1))) == len(list(pictures.glob("*.png"))) > 6


@pytest.mark.parametrize(
    "spoil",
    [
        lambda film: film_of("avi", film.parent, frames=2),
        lambda film: film.write_bytes(b"RIFF no video"),
        lambda film: film.unlink(),
    ],
)
def test_a_film_that_cannot_be_gone_on_with_is_one_line(checkpoint, tmp_path, spoil, capfd):
    film = film_of("avi", tmp_path)
    spoil(film)
    capfd.readouterr()
    assert forecast(film, checkpoint, tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and f"--predict_video {film}" in error
    assert not (tmp_path / "out" / "film").exists()


def test_a_start_or_a_gap_without_enough_frames_is_said(tmp_path):
    folder = film_of("png", tmp_path)
    with pytest.raises(UserError, match="number 8 .* 8 to 9"):
        read_film(str(folder), 8, 3, 3, 16, 1)
    with pytest.raises(UserError, match="number 10"):
        read_film(str(folder), 10, 3, 3, 16, 1)
    (folder / "frame 8.png").unlink()
    with pytest.raises(UserError, match="6 to 7"):
        read_film(str(folder), 0, 3, 3, 16, 1)
    assert len(read_film(str(folder), 3, 3, 3, 16, 1).truth) == 2  # 6 and 7: the gap ends the truth


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--num_hidden", "8,8"], "--num_hidden 8,8"),
        (["--predict_start", "-1"], "--predict_start -1"),
        (["--pretrained_model", "/nowhere"], "--pretrained_model /nowhere"),
        (["--pretrained_model", ""], "--predict_video needs a checkpoint's directory"),
        (["--gen_frm_dir", "FILMS"], "the film's own frames"),
    ],
)
def test_a_wrong_flag_of_a_prediction_is_one_line(checkpoint, tmp_path, more, part, capfd):
    film = film_of("png", tmp_path)
    more = [str(tmp_path) if word == "FILMS" else word for word in more]
    assert forecast(film, checkpoint, tmp_path / "out", *more) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and part in error, error
    assert len(list(film.iterdir())) == 9


def test_a_colour_film_needs_a_network_for_colour(tmp_path):
    """And gets colour frames: RGB in, RGB out."""
    folder = tmp_path / "films"
    for mode in ("train", "test"):
        (folder / mode / "a").mkdir(parents=True)
        for number in range(1, 8):
            Image.fromarray(np.full([16, 16, 3], (250, 20, 90), np.uint8)).save(folder / mode / "a" / f"{number}.png")
    trainer.train(
        settings_for(folder, tmp_path, dataset_name="folder", img_channel=3, max_iterations=1, snapshot_interval=1)
    )
    assert forecast(folder / "test" / "a", str(tmp_path / "ck" / "1"), tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a" / "gt01.png") as picture:
        assert picture.mode == "RGB" and picture.getpixel((8, 8)) == (250, 20, 90)
