"""A run goes on with another generation of Paddle than the one that began it.

tests/golden/versions/ holds weights to start from, and a checkpoint of each version after two iterations with Adam.
To make that of another version:

    python -m tests.test_checkpoint_versions
"""

import csv
import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from src import trainer
from src.checkpoints.checkpoint import read_checkpoint, save_checkpoint
from src.config import Config
from src.models.model_factory import build_model
from src.utils.optimizer import build_optimizer, build_schedule

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINTS = GOLDEN / "versions"
DONE, LAST = 2, 4  # iterations of the checkpoint, and of the run that goes on from it
VERSIONS = ["2.6.2", "3.3.1"]


def settings(save_dir, **more):
    clips = str(GOLDEN / "mnist_tiny.npz")
    small = {
        "dataset_name": "mnist",
        "train_data_paths": clips,
        "valid_data_paths": clips,
        "save_dir": str(save_dir),
        "gen_frm_dir": str(Path(save_dir) / "results"),
        "img_width": 8,
        "patch_size": 4,
        "input_length": 3,
        "total_length": 6,
        "num_hidden": "2",
        "filter_size": 3,
        "batch_size": 2,
        "num_workers": 0,
        "optimizer": "adam",
        "device": "cpu",
        "seed": 1,
        "grad_clip": 5.0,
        "snapshot_interval": DONE,
        "max_iterations": LAST,
        "pretrained_model": str(CHECKPOINTS / "start"),
    }
    return Config(**{**small, **more})


def losses_of(config):
    with open(os.path.join(config.save_dir, "losses.csv"), newline="") as file:
        return {int(row["iteration"]): float(row["loss"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run in one go, with the Paddle that runs here."""
    config = settings(tmp_path_factory.mktemp("whole"))
    trainer.train(config)
    return config


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_of_either_version_goes_on_as_the_run_in_one_go(whole, tmp_path, version):
    checkpoint = CHECKPOINTS / f"paddle-{version}" / str(DONE)
    assert read_checkpoint("", str(checkpoint)).state["versions"]["paddle"] == version
    config = dataclasses.replace(whole, save_dir=str(tmp_path), gen_frm_dir=str(tmp_path), resume=str(checkpoint))
    trainer.train(config)
    found, expected = losses_of(config), losses_of(whole)
    assert list(found) == [DONE + 1, LAST]
    assert found == pytest.approx({iteration: expected[iteration] for iteration in found}, rel=1e-5)
    one, other = (read_checkpoint("", f"{run.save_dir}/{LAST}") for run in (whole, config))
    for arrays, others in ((one.weights, other.weights), (one.optimizer, other.optimizer)):
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(others[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    steps = [np.abs(one.weights[name] - start).max() for name, start in weights_at_the_start().items()]
    assert min(steps) > 1e-4  # the two iterations, and the state they go on from, matter


def weights_at_the_start():
    return {name: array for name, array in read_weights(CHECKPOINTS / "start").items()}


def read_weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def main():
    os.chdir(GOLDEN.parent.parent)  # state.json holds paths
    if not (CHECKPOINTS / "start").exists():
        paddle.seed(0)
        config = settings(CHECKPOINTS)
        model = build_model(config)
        os.rename(
            save_checkpoint(
                config,
                1,
                model,
                build_optimizer(
                    dataclasses.replace(config, optimizer="sgd"), build_schedule(config), model.parameters()
                ),
            ),
            CHECKPOINTS / "start",
        )
        (CHECKPOINTS / "start" / "state.json").unlink()
    folder = CHECKPOINTS / f"paddle-{paddle.__version__}"
    folder.mkdir()
    relative = folder.relative_to(Path.cwd())
    paths = {name: str(Path("tests/golden/mnist_tiny.npz")) for name in ("train_data_paths", "valid_data_paths")}
    start = "tests/golden/versions/start"
    trainer.train(settings(relative, max_iterations=DONE, pretrained_model=start, **paths))
    for path in folder.iterdir():  # of the run
        if path.name != str(DONE):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
