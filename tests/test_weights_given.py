"""--pretrained_model and --resume with a path that is no checkpoint, or a bad one: what it is, and what to give."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from src import trainer
from src.checkpoints.checkpoint import checkpoints, load_weights, read_checkpoint, save_checkpoint
from src.errors import UserError
from src.models.model_factory import build_model
from tests.conftest import settings_for, sgd

TENSORFLOW = ("model.ckpt-400.index", "model.ckpt-400.data-00000-of-00001")
NEVER_LOADED = "model.pdparams is a pickle of paddle.save, which could run code and is never loaded; .* pretrained/"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Settings, network and path of a checkpoint that is whole."""
    folder = tmp_path_factory.mktemp("weights")
    config = settings_for(folder, folder, start_at_mean=False)
    model = build_model(config)
    return config, model, save_checkpoint(config, 3, model, sgd(model))


def said_of(path, saved):
    """The line about a path, the same before Paddle is loaded, where the weights are read, and for --resume."""
    config, model, _ = saved
    lines = set()
    for read in (
        lambda: dataclasses.replace(config, pretrained_model=str(path)).check_run(),
        lambda: load_weights(model, str(path), config),
        lambda: read_checkpoint(f"--pretrained_model {path}", str(path)),
    ):
        try:
            read()
        except UserError as error:
            lines.add(re.sub(r"as \S+/\d+$", "as N", str(error)))
    (line,) = lines
    assert line.startswith(f"--pretrained_model {path}: ") and "\n" not in line
    return line


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_file_of_a_checkpoint_is_answered_with_its_folder(saved, name):
    path = saved[2]
    assert said_of(f"{path}/{name}", saved).endswith(f"is a file of a checkpoint; give its folder, {path}")


def test_any_other_file_is_said_to_be_one(saved, tmp_path):
    (tmp_path / "weights.zip").write_bytes(b"")
    assert "is a file; give a checkpoint's directory" in said_of(tmp_path / "weights.zip", saved)


def test_a_folder_of_checkpoints_is_answered_with_the_newest_and_the_best(saved, tmp_path):
    for name in ("3", "12", "best", "12.damaged-1", "best.partial"):
        shutil.copytree(saved[2], tmp_path / name)
    (tmp_path / "test").mkdir()
    for read in load_weights, lambda model, path, config: read_checkpoint("", path):
        with pytest.raises(UserError, match=f"holds the checkpoints 3, 12, best; give one of them, as {tmp_path}/12$"):
            read(saved[1], str(tmp_path), saved[0])
    for name in ("3", "12"):
        shutil.rmtree(tmp_path / name)
    assert "holds the checkpoints best; give one of them, as" in said_of(tmp_path, saved)


def test_of_many_checkpoints_a_few_are_named(saved, tmp_path):
    for number in range(100, 160):
        shutil.copytree(saved[2], tmp_path / str(number))
    assert "holds the checkpoints ..., 156, 157, 158, 159; give one of them" in said_of(tmp_path, saved)


@pytest.mark.parametrize("given", ["", "model.pdparams", "model"])
def test_weights_of_paddle_save_are_recognised_and_never_loaded(saved, tmp_path, given):
    for name in ("model.pdparams", "model.pdopt"):
        (tmp_path / name).write_bytes(b"\x80\x04")
    assert re.search(NEVER_LOADED, said_of(tmp_path / given, saved))


@pytest.mark.parametrize("given", ["", "model.ckpt-400", *TENSORFLOW, "checkpoint"])
def test_a_checkpoint_of_tensorflow_is_recognised(saved, tmp_path, given):
    for name in (*TENSORFLOW, "checkpoint"):
        (tmp_path / name).write_bytes(b"")
    line = said_of(tmp_path / given, saved)
    assert "is a file of a TensorFlow checkpoint" in line and "pretrained/" in line


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_as_a_training_that_diverged(kth_sample, tmp_path, wrong):
    config = settings_for(kth_sample, tmp_path, pretrained_model=str(tmp_path / "diverged"))
    weights = {name: array.numpy() for name, array in build_model(config).state_dict().items()}
    weights["decoder.bias"][3] = wrong
    (tmp_path / "diverged").mkdir()
    save_file(weights, tmp_path / "diverged" / "model.safetensors")
    with pytest.raises(UserError) as caught:
        trainer.train(config)
    assert str(caught.value) == (
        f"--pretrained_model {tmp_path}/diverged: decoder.bias is not finite, so its training had diverged; "
        "give an earlier checkpoint of it, or other weights"
    )
    assert checkpoints(config.save_dir) == []
