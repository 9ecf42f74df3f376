"""The weights that come with the project, and the demo."""

import json
import os
import subprocess
import sys

import pytest

from src import evaluator
from src.checkpoints.checkpoint import read_checkpoint
from src.config import Config
from tests.conftest import DEVICE
from tests.helpers import ROOT

FOLDERS = sorted(path for path in (ROOT / "pretrained").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_weights_are_a_whole_checkpoint_with_a_card_and_no_path(folder):
    checkpoint = read_checkpoint("pretrained", str(folder))
    assert checkpoint.weights and not checkpoint.optimizer
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    state = (folder / "state.json").read_text()
    assert "/" not in state.replace("safetensors", "") and json.loads(state)["config"]["save_dir"] == "checkpoints"
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("Licence", "Good for", "repeat", "mean frame"))
    for name in ("losses.csv", "metrics.csv", "curves.png"):
        assert (folder / name).stat().st_size > 0


def test_the_weights_of_kth_forecast_films_and_were_chosen_on_a_validation_set(kth_sample, tmp_path):
    folder = ROOT / "pretrained" / "kth"
    assert json.loads((folder / "state.json").read_text())["best_chosen_on"] == "validation set"
    film = next((kth_sample / "boxing").iterdir())
    flags = ["--predict_video", str(film), "--pretrained_model", str(folder), "--gen_frm_dir", str(tmp_path)]
    evaluator.predict_video(Config.from_command_line([*flags, "--predict_start", "1", "--device", "cpu"]))
    metrics = json.loads((tmp_path / film.name / "metrics.json").read_text())
    assert metrics["model"]["psnr"] > metrics["repeat_last_frame"]["psnr"]


@pytest.mark.device
def test_the_digits_move_on_as_the_card_says(tmp_path, monkeypatch, undrawn):
    """On the ten clips of the demo. The weights are a golden too: figures that change show that the network has."""
    folder = ROOT / "pretrained" / "moving_mnist"
    network = json.loads((folder / "state.json").read_text())["config"]
    shape = {
        name: network[name]
        for name in (
            "img_width",
            "patch_size",
            "num_hidden",
            "filter_size",
            "norm_epsilon",
            "input_length",
            "total_length",
        )
    }
    config = Config(
        is_training=False,
        dataset_name="mnist",
        valid_data_paths=str(folder / "clips.npy"),
        pretrained_model=str(folder),
        gen_frm_dir=str(tmp_path),
        batch_size=5,
        num_save_samples=0,
        num_workers=0,
        device=DEVICE,
        **shape,
    )
    evaluator.test(config)
    metrics = json.loads((tmp_path / "test_result" / "metrics.json").read_text())
    assert metrics["sequences"] == 10
    assert metrics["model"]["psnr"] > metrics["repeat_last_frame"]["psnr"] + 4
    assert metrics["model"]["ssim"] > metrics["repeat_last_frame"]["ssim"] + 0.15


def demo(*arguments):
    """Run scripts/demo.sh with this environment."""
    environment = {**os.environ, "E3D_VENV": sys.prefix}
    command = ["bash", "scripts/demo.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_demo_shows_forecasts_of_digits():
    result = demo()
    assert result.returncode == 0, result.stderr
    for name in ("forecast.gif", "forecast.png", "test_result/metrics.json"):
        assert (ROOT / "demo" / name).stat().st_size > 0
    assert "demo/forecast.gif" in result.stdout


def test_the_demo_forecasts_a_film(kth_sample):
    film = next((kth_sample / "boxing").iterdir())
    result = demo(str(film))
    assert result.returncode == 0, result.stderr
    assert len(list((ROOT / "demo" / "films" / film.name).glob("pd*.png"))) == 10


@pytest.mark.parametrize("arguments", [("a.avi", "b.avi"), ("nowhere.avi",)])
def test_the_demo_answers_a_mistake(arguments):
    result = demo(*arguments)
    assert result.returncode == 2 and "Traceback" not in result.stderr and result.stderr.strip()
