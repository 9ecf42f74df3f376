"""The exported program, and the script that runs it without the project."""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import zlib
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
    "settings", [{"layer_norm": False}, {"residual": True}, {"filter_size": 5, "img_channel": 3, "num_hidden": "6"}]
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
    sizes = {"input_length": 11, "img_width": 4, "img_channel": 3}
    found = predict_exported.read_frames(tmp_path, sizes)
    expected = np.broadcast_to(colours[:11] / 255, [11, 4, 4, 3])[None]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    predict_exported.write_pictures(found[0], tmp_path / "out", 12)
    again = predict_exported.read_frames(tmp_path / "out", sizes)
    np.testing.assert_allclose(again, found, atol=1.01 / 255)


def refusal(main, capsys, monkeypatch, *arguments):
    """Run a script's main(), expect status 2 and return its line."""
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no checkpoint", "there is no such directory"),
        ("save_dir", "holds the checkpoints 5"),
        ("weights cut", "model.safetensors is damaged"),
        ("state cut", "state.json is damaged"),
        ("no state", "state.json is missing"),
        ("out full", "--out .* not empty"),
        ("out a file", "--out .* is a file"),
        ("flag", "--batch is not a flag; see python scripts/export_model.py --help"),
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
    line = refusal(export_model.main, capsys, monkeypatch, "--pretrained_model", directory, "--out", out, *extra)
    assert re.search(message, line), line
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_that_fails_half_way_leaves_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    def save_on_a_full_disk(layer, path, input_spec):
        Path(f"{path}.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paddle.jit, "save", save_on_a_full_disk)
    arguments = ["--pretrained_model", checkpoint, "--out", tmp_path / "out"]
    assert "No space left" in refusal(export_model.main, capsys, monkeypatch, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no program", "no forecast.json"),
        ("sizes", "forecast.json is damaged"),
        ("other sizes", "cannot be run"),
        ("program cut", "cannot be run"),
        ("weights cut", "cannot be run"),
        ("no frames", "there is no such folder or file"),
        ("few frames", "holds 2 frames, the program takes 3"),
        ("no array", "is not an .npy"),
        ("range", "neither uint8 nor floats in"),
        ("shape", "expected [T, H, W]"),
        ("colours", "have 3 channels, the program takes 1"),
        ("picture", "image_0002.png is not a picture"),
        ("out", "not an empty folder"),
    ],
)
def test_a_forecast_that_cannot_be_made_is_refused_in_one_line(exported, tmp_path, capsys, monkeypatch, fault, message):
    model, frames, out = tmp_path / "program", tmp_path / "clip.npy", tmp_path / "out"
    shutil.copytree(exported, model)
    clip = frames_given(1)[0]
    clip = {"few frames": clip[:2], "range": 255 * clip, "shape": clip[0, 0], "colours": clip.repeat(3, 3)}.get(
        fault, clip
    )
    np.save(frames, clip)
    if fault == "no program":
        model = tmp_path
    elif fault == "sizes":
        (model / "forecast.json").write_text(json.dumps({"input_length": 3}))
    elif fault == "other sizes":
        sizes = json.loads((model / "forecast.json").read_text())
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
    arguments = ["--model", model, "--frames", frames, "--out", out]
    assert message in refusal(predict_exported.main, capsys, monkeypatch, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


def npy(shape, descr="|u1", content=768, fortran=False):
    """An .npy with this header, true or not, and as many bytes of content."""
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(1000000, 1000, 1000)"), "is not an .npy of numbers"),
        (npy(f"({10**30}, 16, 16)"), "is not an .npy of numbers"),
        (npy("(-3, 16, 16)"), "is not an .npy of numbers"),
        (npy("(3, 16, 16)", "|O"), "is not an .npy of numbers"),
        (npy("(3, 16, 16)", content=10), "is not an .npy of numbers"),
        (b"PK\x03\x04" + bytes(50), "is not an .npy of numbers"),
        (npy("(0, 16, 16)"), "has the shape [0, 16, 16]; expected [T, H, W]"),
        (npy("(3, 16, 16, 600)", content=768 * 600), "frames have 600 channels, the program takes 1"),
        (npy("(3, 16, 16)", "|b1"), "is neither uint8 nor floats"),
    ],
)
def test_an_npy_whose_header_lies_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "clip.npy").write_bytes(content)
    with pytest.raises(predict_exported.UsageError) as caught:
        predict_exported.read_frames(tmp_path / "clip.npy", {**SIZES, "img_channel": 1})
    assert f"--frames {tmp_path}/clip.npy: {message}" in str(caught.value) and "\n" not in str(caught.value)


def test_of_a_large_npy_the_frames_given_alone_take_memory(tmp_path):
    sizes = {**SIZES, "img_channel": 1}
    long, large, sideways = tmp_path / "long.npy", tmp_path / "large.npy", tmp_path / "sideways.npy"
    for path, shape in (long, (10**6, 100, 100)), (large, (3, 10**5, 10**5)):  # files with holes: they take no disk
        path.write_bytes(npy(shape, content=0))
        os.truncate(path, path.stat().st_size + int(np.prod(shape, dtype=object)))
    tracemalloc.start()
    assert predict_exported.read_frames(long, sizes).shape == (1, 3, 16, 16, 1)
    with pytest.raises(predict_exported.UsageError, match="a frame of 10000000000 numbers is too large"):
        predict_exported.read_frames(large, sizes)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
    clip = frames_given(1)[0, ..., 0]
    np.save(sideways, np.asfortranarray(clip))
    np.testing.assert_array_equal(predict_exported.read_frames(sideways, sizes)[0, ..., 0], clip)


def test_a_pipe_and_a_picture_that_claims_to_be_huge_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "clip.npy")
    sizes = {**SIZES, "img_channel": 1}
    with pytest.raises(predict_exported.UsageError, match="is not an .npy of numbers"):
        predict_exported.read_frames(tmp_path / "clip.npy", sizes)
    picture = bytearray(cv2.imencode(".png", np.zeros([8, 8], np.uint8))[1].tobytes())
    picture[16:24] = (100000).to_bytes(4, "big") * 2  # width and height
    picture[29:33] = zlib.crc32(picture[12:29]).to_bytes(4, "big")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "image_0001.png").write_bytes(picture)
    with pytest.raises(predict_exported.UsageError, match="image_0001.png is not a picture that can be read"):
        predict_exported.read_frames(tmp_path / "frames", sizes)


GOOD_SIZES = {"input_length": 3, "total_length": 7, "img_width": 16, "img_channel": 1}


@pytest.mark.parametrize("name", GOOD_SIZES)
def test_odd_sizes_beside_a_program_are_refused_in_one_line(tmp_path, name):
    for file in ("model.json", "model.pdiparams"):
        (tmp_path / file).write_text("")

    def read(text):
        (tmp_path / "forecast.json").write_text(text)
        return predict_exported.read_sizes(tmp_path)

    assert read(json.dumps(GOOD_SIZES)) == GOOD_SIZES
    for odd in ("-1", "0", "1" + "0" * 30, "1e999", "NaN", "2.5", '"5"', '"a\\nb"', "null", "true", "[3]", '{"a": 1}'):
        with pytest.raises(predict_exported.UsageError, match=rf"forecast.json is damaged \({name} is") as caught:
            read(json.dumps({**GOOD_SIZES, name: "<odd>"}).replace('"<odd>"', odd))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200 + len(str(tmp_path))
    for text in ("{", "[]", "[" * 10**5, json.dumps({key: 3 for key in GOOD_SIZES if key != name})):
        with pytest.raises(predict_exported.UsageError, match="forecast.json is damaged; export the checkpoint again"):
            read(text)
    with pytest.raises(predict_exported.UsageError, match="its frames would fill the memory"):
        read(json.dumps({**GOOD_SIZES, "img_width": 10**5}))
