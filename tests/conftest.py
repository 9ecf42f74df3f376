"""Fixtures and settings that the tests share."""

import os
import signal
from pathlib import Path

import numpy as np
import paddle
import pytest

from scripts.make_sample_data import make_tree
from src.config import Config

pytest.register_assert_rewrite("tests.helpers")

GOLDEN = Path(__file__).parent / "golden"


def default_signals() -> None:
    """Have Ctrl-C and SIGTERM end this process and the programs it starts. What a script runs in the background
    (``nohup bash scripts/run_tests.sh &``) begins with Ctrl-C ignored, and would hand that down. The SIGHUP that nohup
    ignores stays so."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


default_signals()


@pytest.fixture(scope="session")
def extra_data() -> Path:
    """Folder with data that is not part of the project; tests that need it skip without it."""
    folder = os.environ.get("E3D_EXTRA_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("E3D_EXTRA_DATA names no folder")
    return Path(folder)


def load_golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def relative_l2(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.astype("float64") - expected) / np.linalg.norm(expected.astype("float64")))


@pytest.fixture(params=["few operators", "large on a CPU", "on a GPU", "on a GPU with room", "large on a GPU"])
def form(request, monkeypatch):
    """Each form of the convolutions and of the recall in turn, whatever the size; those of a GPU run on the CPU."""
    if request.param == "large on a CPU":
        monkeypatch.setattr("src.layers.window_conv.FILTERING_FROM", 0)
        monkeypatch.setattr("src.layers.window_conv.FILTERING_COLUMNS", 0)
        monkeypatch.setattr("src.layers.recall.CPU_KEPT_SCORES", 0)
    elif request.param != "few operators":
        monkeypatch.setattr("src.layers.window_conv.on_cpu", lambda x: False)
        monkeypatch.setattr("src.layers.recall.on_cpu", lambda x: False)
        if request.param == "on a GPU with room":
            monkeypatch.setattr("src.layers.recall.card_memory", lambda: 80e9)
        if request.param == "large on a GPU":
            monkeypatch.setattr("src.layers.recall.GPU_SCORES", 1)
    return request.param


@pytest.fixture(scope="session")
def kth_sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    make_tree(root, ["01", "02", "17"], ["boxing", "running"], frames=22, size=(48, 36), seed=3, scenarios=1)
    return root


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the curves of tests in this process: matplotlib takes longer for them than the rest of a small run."""
    monkeypatch.setattr("src.reports.forecast_report.draw_per_frame", lambda *arguments: None)
    monkeypatch.setattr("src.reports.training_report.draw_curves", lambda *arguments: None)
    monkeypatch.setattr("src.reports.web_page.chart_svg", lambda *arguments: None)


def settings_for(root, folder, **settings):
    small = {
        "train_data_paths": root,
        "valid_data_paths": root,
        "save_dir": folder / "ck",
        "gen_frm_dir": folder / "results",
        "img_width": 16,
        "patch_size": 4,
        "input_length": 3,
        "total_length": 6,
        "num_hidden": "4,4",
        "filter_size": 3,
        "batch_size": 2,
        "num_workers": 0,
        "max_iterations": 3,
        "device": "cpu",
        "num_save_samples": 1,
    }
    (folder / "ck").mkdir(exist_ok=True)
    return Config(**{**small, **settings})


def sgd(model, lr=1e-3):
    return paddle.optimizer.SGD(lr, parameters=model.parameters())


def trained(model):
    """Give a residual network's decoder, which begins at zero, weights as after some training."""
    model.decoder.weight.set_value(paddle.randn(model.decoder.weight.shape) * 0.1)


def weights_of(model):
    return {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
