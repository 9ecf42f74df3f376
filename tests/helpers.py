"""What several test files need beside the fixtures and settings of conftest.py."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle

from src import trainer
from src.checkpoints.checkpoint import read_checkpoint
from src.config import Config
from src.models.model_factory import build_model
from src.utils.preprocess import reshape_patch
from src.utils.tf_weights import load_tf_variables

ROOT = Path(__file__).parent.parent
OFFICIAL_EPSILON = 1e-12  # of the norms in the official code
OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4  # relative L2
LONGEST_WAIT = 300  # seconds, for what takes some on a quiet machine: others may be at work on this one


def as_window(x):
    """``[B, C, 2, H, W]`` -> ``[B, 2C, H, W]``, as the layers hold it."""
    return x.reshape([x.shape[0], -1, *x.shape[3:]])


def from_window(x):
    """The inverse of it."""
    return x.reshape([x.shape[0], -1, 2, *x.shape[2:]])


def script(name, *arguments):
    """Run a script of the project; its output is captured."""
    command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def rows_of(config, name):
    """The lines of a csv file in the run's save_dir."""
    with open(os.path.join(config.save_dir, name), newline="") as file:
        return list(csv.DictReader(file))


def losses_of(config):
    """losses.csv of a run, but for the seconds, which differ from run to run."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows_of(config, "losses.csv")]


def assert_same_checkpoint(first, second):
    """Weights, their average, optimizer state and state.json, the paths of the two runs apart."""
    one, two = read_checkpoint("first", first), read_checkpoint("second", second)
    for arrays, others in (
        (one.weights, two.weights),
        (one.optimizer, two.optimizer),
        (one.average, two.average),
    ):
        assert arrays.keys() == others.keys()
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)
    for state in (one.state, two.state):
        for flag in ("save_dir", "gen_frm_dir", "resume"):
            del state["config"][flag]
    assert one.state == two.state


def log_of(config):
    return Path(config.save_dir, "train.log").read_text()


def at_iteration(monkeypatch, actions):
    """Run ``actions[n]()`` just before iteration n."""
    original = trainer.train_on_batch

    def step(config, iteration, *arguments):
        actions.get(iteration, lambda: None)()
        return original(config, iteration, *arguments)

    monkeypatch.setattr(trainer, "train_on_batch", step)


def stop_after(monkeypatch, iteration, number=signal.SIGTERM):
    """Send this process a signal while it is in the given iteration."""
    at_iteration(monkeypatch, {iteration: lambda: os.kill(os.getpid(), number)})


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_video(path, frames=30, size=(48, 36), value=lambda number: 5 * number):
    """A film of grey frames, their levels by number from 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    for number in range(frames):
        writer.write(np.full([size[1], size[0], 3], value(number), np.uint8))
    writer.release()


def kernel_to_tf(array: np.ndarray) -> np.ndarray:
    """OIDHW -> DHWIO."""
    return array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array


def variables_of(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The official variables of a golden, by name."""
    return {key[len("var.") :]: array for key, array in golden.items() if key.startswith("var.")}


def network_of(golden: dict[str, np.ndarray], model_name: str = "e3d_lstm") -> tuple[paddle.nn.Layer, dict, np.ndarray]:
    """The network with the golden's weights, its settings, and the clip as patches."""
    settings = json.loads(str(golden["config"]))
    config = Config(
        model_name=model_name,
        img_width=settings["img_width"],
        patch_size=settings["patch"],
        img_channel=settings["channel"],
        input_length=settings["input"],
        total_length=settings["total"],
        filter_size=settings["filter"],
        num_hidden=settings["hidden"],
        batch_size=settings["batch"],
    )
    model = build_model(config, norm_epsilon=OFFICIAL_EPSILON)
    load_tf_variables(model, variables_of(golden))
    return model, settings, reshape_patch(golden["images_raw"], settings["patch"])


def gradients_of(model, predictions, frames):
    """The gradient of each parameter, of a sum of squares; the model's own are cleared afterwards."""
    loss = (predictions - frames[:, 1:]).square().sum()
    loss.backward()
    found = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    model.clear_gradients()
    return found


def plain_prediction(model, decoded, frame, mean):
    """A prediction of an UnrolledNetwork, in numpy: of the decoder's channels, the frame fed last and the mean of the
    given ones, all ``[B, channels, ...]``."""
    if model.residual is True:
        return frame + decoded
    f, *scores = np.split(decoded, decoded.shape[1] // frame.shape[1], axis=1)
    if model.center:
        f = mean + f / model.center
    if not model.residual:
        return f
    a, b, c = map(np.exp, scores)
    return (a * frame + b * mean + c * f) / (a + b + c)
