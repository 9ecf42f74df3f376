"""The exported program, and the script that runs it without the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from scripts import export_model, predict_exported
from src.checkpoints.checkpoint import load_weights, save_checkpoint
from src.config import Config
from src.models.forecaster import Forecaster
from src.models.model_factory import build_model
from src.utils.preprocess import reshape_patch, reshape_patch_back
from tests.conftest import sgd, trained
from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(paddle.__version__.startswith("2."), reason="exporting needs Paddle 3")
SIZES = {
    "img_width": 16,
    "patch_size": 4,
    "num_hidden": "4,4",
    "filter_size": 3,
    "input_length": 3,
    "total_length": 7,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    paddle.seed(2)
    config = Config(**SIZES, save_dir=str(tmp_path_factory.mktemp("checkpoints")))
    network = build_model(config)
    return Path(save_checkpoint(config, 5, network, sgd(network)))


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("programs") / "exported"
    command = [sys.executable, ROOT / "scripts" / "export_model.py", "--pretrained_model", checkpoint, "--out", out]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return out


def frames_given(batch):
    return np.random.default_rng(3).random([batch, 3, 16, 16, 1], np.float32)


def network_of(checkpoint):
    config = Config(**SIZES)
    network = build_model(config)
    load_weights(network, str(checkpoint), config)
    return network


def forecast_of(network, given):
    """The frames after the given ones, predicted from predictions, as in a test of a checkpoint."""
    batch, steps = given.shape[0], 4
    clip = np.concatenate([given, np.full([batch, steps, *given.shape[2:]], 0.5, np.float32)], axis=1)
    network.eval()
    with paddle.no_grad():
        patches = paddle.to_tensor(reshape_patch(clip, 4))
        predictions = network(patches, paddle.zeros([batch, steps - 1, 1, 1, 1])).numpy()
    forecast = reshape_patch_back(predictions[:, -steps:], 4).clip(0, 1)
    assert forecast.std() > 0.01
    return forecast


@pytest.mark.device
@pytest.mark.parametrize("batch", [1, 3])
def test_an_exported_program_forecasts_as_the_model_for_any_batch(checkpoint, exported, batch):
    given = frames_given(batch)
    found = predict_exported.predict(exported, given)
    np.testing.assert_allclose(found, forecast_of(network_of(checkpoint), given), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_norm": False},
        {"residual": True},
        {"residual": "gate", "center": 3},
        {"filter_size": 5, "img_channel": 3, "num_hidden": "6"},
    ],
)
def test_every_kind_of_network_can_be_exported(tmp_path, settings):
    config = Config(**{**SIZES, **settings})
    paddle.seed(4)
    network = build_model(config)
    if config.residual:
        trained(network)
    export_model.save_program(network, config, str(tmp_path / "model"))
    given = np.random.default_rng(5).random([2, 3, 16, 16, config.img_channel], np.float32)
    found = predict_exported.predict(tmp_path, given)
    np.testing.assert_allclose(found, forecast_of(network, given), rtol=0, atol=1e-5)


def test_a_forecaster_that_is_not_exported_says_what_to_call(checkpoint):
    with pytest.raises(RuntimeError, match="call the network itself"):
        Forecaster(network_of(checkpoint), patch_size=4, steps=4)(paddle.to_tensor(frames_given(1)))


@pytest.mark.filterwarnings("ignore:Tensor do not have")
def test_the_network_itself_can_be_traced(checkpoint):
    network = network_of(checkpoint)
    frames, flags = paddle.rand([2, 6, 4, 4, 16]), paddle.ones([2, 2])
    network.eval()
    with paddle.no_grad():
        expected = network(frames, flags).numpy()
        found = paddle.jit.to_static(network, full_graph=True)(frames, flags).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_script_that_runs_a_program_needs_nothing_of_the_project(checkpoint, exported, tmp_path):
    script = shutil.copy(ROOT / "scripts" / "predict_exported.py", tmp_path)
    shutil.copytree(exported, tmp_path / "program")
    given = frames_given(1)
    np.save(tmp_path / "clip.npy", given[0, ..., 0])
    alone = [sys.executable, "-I", "-c", "import src"]
    assert b"No module named 'src'" in subprocess.run(alone, capture_output=True, cwd=tmp_path).stderr
    command = [sys.executable, "-I", script, "--model", "program", "--frames", "clip.npy", "--out", "forecast"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "forecast")) == [f"pd{number:02d}.png" for number in (4, 5, 6, 7)]
    for number, expected in enumerate(forecast_of(network_of(checkpoint), given)[0, ..., 0], 4):
        picture = cv2.imread(str(tmp_path / "forecast" / f"pd{number:02d}.png"), cv2.IMREAD_GRAYSCALE)
        assert np.abs(picture - 255 * expected).max() <= 1.01  # the fraction is cut off


def test_pictures_are_taken_in_the_order_of_their_numbers_and_keep_their_colours(tmp_path):
    colours = np.random.default_rng(6).integers(0, 256, [12, 1, 1, 3]).astype("uint8")
    for number, colour in enumerate(colours, 1):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.broadcast_to(colour[..., ::-1], [8, 8, 3]))
    (tmp_path / "notes.txt").write_text("no picture")
    found = predict_exported.read_frames(tmp_path, length=11, width=4, channels=3)
    expected = np.broadcast_to(colours[:11] / 255, [11, 4, 4, 3])[None]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def refusal(capsys, monkeypatch, *arguments):
    """Run export_model.py, expect status 2 and return its line."""
    monkeypatch.setattr(sys, "argv", ["export_model.py", *map(str, arguments)])
    assert export_model.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no checkpoint", "there is no such directory"),
        ("save_dir", "holds the checkpoints 5"),
        ("weights cut", "model.safetensors"),
        ("state cut", "state.json"),
        ("no state", "state.json"),
        ("out full", "--out"),
        ("out a file", "--out"),
        ("flag", "--batch"),
    ],
)
def test_an_export_that_cannot_be_made_is_refused_in_one_line(
    checkpoint, tmp_path, capsys, monkeypatch, fault, message
):
    copy, out = tmp_path / "run" / "5", tmp_path / "out"
    shutil.copytree(checkpoint, copy)
    if fault in ("weights cut", "state cut"):
        path = copy / ("model.safetensors" if fault == "weights cut" else "state.json")
        path.write_bytes(path.read_bytes()[:300])
    elif fault == "no state":
        (copy / "state.json").unlink()
    elif fault == "out full":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    elif fault == "out a file":
        out.write_text("mine")
    directory = {"no checkpoint": tmp_path / "run" / "6", "save_dir": tmp_path / "run"}.get(fault, copy)
    before = sorted(tmp_path.rglob("*"))
    extra = ["--batch", "3"] if fault == "flag" else []
    line = refusal(capsys, monkeypatch, "--pretrained_model", directory, "--out", out, *extra)
    assert re.search(message, line), line
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_that_fails_half_way_leaves_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    def save_on_a_full_disk(layer, path, input_spec):
        Path(f"{path}.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paddle.jit, "save", save_on_a_full_disk)
    arguments = ["--pretrained_model", checkpoint, "--out", tmp_path / "out"]
    assert "No space left" in refusal(capsys, monkeypatch, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("no program", "--model"),
        ("sizes", "--model"),
        ("other sizes", "--model"),
        ("program cut", "--model"),
        ("weights cut", "--model"),
        ("no frames", "--frames"),
        ("few frames", "holds 2 frames, the program takes 3"),
        ("no array", "--frames"),
        ("range", "neither uint8 nor floats in"),
        ("shape", "--frames"),
        ("colours", "--frames"),
        ("picture", "image_0002.png is not a picture"),
        ("out", "--out"),
    ],
)
def test_a_forecast_that_cannot_be_made_is_refused_in_one_line(exported, tmp_path, capsys, monkeypatch, fault, part):
    model, frames, out = tmp_path / "program", tmp_path / "clip.npy", tmp_path / "out"
    shutil.copytree(exported, model)
    clip = frames_given(1)[0]
    spoilt = {"few frames": clip[:2], "range": 255 * clip, "shape": clip[0, 0], "colours": clip.repeat(3, 3)}
    np.save(frames, spoilt.get(fault, clip))
    sizes = json.loads((model / "forecast.json").read_text())
    if fault == "no program":
        model = tmp_path
    elif fault == "sizes":
        (model / "forecast.json").write_text(json.dumps({"input_length": 3}))
    elif fault == "other sizes":
        (model / "forecast.json").write_text(json.dumps({**sizes, "img_width": 20}))
    elif fault in ("program cut", "weights cut"):
        path = model / ("model.pdiparams" if fault == "weights cut" else "model.json")
        os.truncate(path, path.stat().st_size // 2)
    elif fault == "no frames":
        frames.unlink()
    elif fault == "no array":
        frames.write_bytes(b"text")
    elif fault == "picture":
        frames = tmp_path / "frames"
        frames.mkdir()
        for number in (1, 2, 3):
            cv2.imwrite(str(frames / f"image_{number:04d}.png"), np.zeros([16, 16], np.uint8))
        (frames / "image_0002.png").write_bytes(b"text")
    elif fault == "out":
        out = tmp_path
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["x.py", "--model", str(model), "--frames", str(frames), "--out", str(out)])
    with pytest.raises(SystemExit) as stopped:
        predict_exported.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and part in line, line
    assert sorted(tmp_path.rglob("*")) == before
