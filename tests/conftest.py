"""Fixtures and settings that the tests share."""

import os
import signal
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import settings

from scripts.make_sample_data import make_tree
from src.config import Config
from src.errors import UserError
from src.runtime.device import set_device
from src.runtime.process_env import usable_cores

pytest.register_assert_rewrite("tests.helpers")

GOLDEN = Path(__file__).parent / "golden"
DEVICE = os.environ.get("E3D_TEST_DEVICE", "cpu")  # of the tests with the marker device

# A machine that is busy may take its time: no example has a deadline. "ci" draws the same examples every time.
settings.register_profile("search", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "search"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What ``-n auto`` is: the cores of this process, not those of the machine."""
    return usable_cores()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "device: computes on the device of E3D_TEST_DEVICE (run_tests.sh --device)")
    try:
        set_device(DEVICE)
    except UserError as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture(autouse=True)
def on_test_device(request):
    """Marked tests compute on the device; on a GPU with algorithms that give the same bits each time."""
    if request.node.get_closest_marker("device"):
        set_device(DEVICE, deterministic=True)


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


@pytest.fixture(params=["scores kept", "chunks", "minimal filtering"])
def form(request, monkeypatch):
    """Each form of the recall and of the convolutions in turn, whatever the size."""
    monkeypatch.setattr("src.layers.recall.memory_limit", lambda: 0 if request.param == "chunks" else 80e9)
    if request.param == "chunks":
        monkeypatch.setattr("src.layers.recall.SCORES_AT_A_TIME", 500)
    if request.param == "minimal filtering":
        monkeypatch.setattr("src.layers.window_conv.FILTERING_FROM", 0)
    return request.param


@pytest.fixture(scope="session")
def kth_sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    make_tree(root, ["01", "02", "17"], ["boxing", "running"], frames=22, size=(48, 36), seed=3, scenarios=1)
    return root


EMPTY_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><metadata/><defs/></svg>'


@pytest.fixture
def undrawn(monkeypatch):
    """Save empty pictures for figures: matplotlib takes longer for them than the rest of a small run."""

    def save(figure, target, **settings):
        if isinstance(target, (str, os.PathLike)):
            Path(target).touch()
        else:
            target.write(EMPTY_SVG)

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)


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
        "device": DEVICE,
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
