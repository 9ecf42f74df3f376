"""The program removes and replaces what it has made itself; a folder of another's that is in the way is refused."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from src import trainer
from src.checkpoints.checkpoint import checkpoints, remove_old, save_best, save_checkpoint
from src.checkpoints.run import open_folder
from src.errors import UserError, WriteError
from src.models.model_factory import build_model
from tests.conftest import settings_for, sgd


@pytest.fixture(scope="module")
def three_checkpoints(kth_sample, tmp_path_factory):
    """Settings of a run whose save_dir holds 1, 2, 3 and best, and its gen_frm_dir a test with pictures."""
    config = settings_for(
        kth_sample, tmp_path_factory.mktemp("run"), snapshot_interval=1, test_interval=3, test_max_clips=2
    )
    trainer.train(config)
    return config


@pytest.fixture
def run(three_checkpoints, tmp_path):
    """A copy of it."""
    for name in ("save_dir", "gen_frm_dir"):
        shutil.copytree(getattr(three_checkpoints, name), tmp_path / name)
    return dataclasses.replace(
        three_checkpoints, save_dir=str(tmp_path / "save_dir"), gen_frm_dir=str(tmp_path / "gen_frm_dir"),
        resume="newest",
    )  # fmt: skip


def put(folder, *names):
    """Files of a user."""
    for name in names:
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_text("mine")
    return Path(folder)


def content_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in Path(folder).rglob("*")
    }


# ---- checkpoints


@pytest.mark.parametrize("name", ["7.partial", "best.partial", "best.previous", "best"])
def test_a_folder_of_a_user_where_checkpoints_go_is_refused_by_its_name(run, name):
    shutil.rmtree(Path(run.save_dir) / "best")
    put(run.save_dir, f"{name}/notes.txt", f"{name}/model.safetensors")
    before = content_of(run.save_dir)
    with pytest.raises(UserError, match=rf"--save_dir .*save_dir/{name} holds notes.txt.*; move it away") as error:
        open_folder(run)
    assert "\n" not in str(error.value) and content_of(run.save_dir) == before


def test_what_a_kill_leaves_of_a_checkpoint_is_cleared_at_the_next_start(run):
    folder = Path(run.save_dir)
    (folder / "4.partial").mkdir()  # killed before its first file, ...
    (folder / "5.partial").mkdir()  # ... before its last, and while it was removed
    (folder / "5.partial" / "model.safetensors").write_bytes(b"half")
    (folder / "5.partial" / "state.json.partial").write_bytes(b"{")
    shutil.copytree(folder / "3", folder / "best.partial")
    checkpoint, is_own = open_folder(run)
    assert is_own and checkpoint.state["iteration"] == 3
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"1", "2", "3", "best"}


def test_a_copy_of_the_best_checkpoint_is_kept_and_untouched_where_the_run_is_refused(run):
    folder = Path(run.save_dir)
    shutil.copytree(folder / "best", folder / "best.previous")
    before = content_of(folder / "best")
    for refused in (dataclasses.replace(run, resume=""), dataclasses.replace(run, batch_size=1)):
        with pytest.raises(UserError):
            open_folder(refused)
        assert content_of(folder / "best.previous") == content_of(folder / "best") == before
    open_folder(run)
    assert content_of(folder / "best.earlier-1") == content_of(folder / "best") == before


def test_checkpoints_of_others_are_not_pruned_nor_those_with_a_file_of_the_user(run):
    folder = Path(run.save_dir)
    put(folder / "1", "notes.txt")
    put(folder / "4", "model.safetensors", "config.json")  # of another program
    put(folder / "5", "model.safetensors", "state.json")
    shutil.copytree(folder / "3", folder / "6")
    others = {name: content_of(folder / name) for name in ("1", "4", "5")}
    remove_old(dataclasses.replace(run, keep_checkpoints=1))
    assert checkpoints(folder) == [1, 4, 5, 6]
    assert {name: content_of(folder / name) for name in others} == others


def test_files_that_a_user_puts_in_the_way_of_a_checkpoint_during_a_run_stay(run):
    folder, model = Path(run.save_dir), build_model(run)
    put(folder, "4.partial/notes.txt", "best/notes.txt")
    with pytest.raises(WriteError, match="checkpoint 4 cannot be written .*4.partial holds notes.txt"):
        save_checkpoint(run, 4, model, sgd(model))
    assert (folder / "4.partial" / "notes.txt").read_text() == "mine"
    save_best(run, 4, model, sgd(model), {"best": {"iteration": 4, "clips": 2, "psnr": 1000.0}})
    assert (folder / "best.earlier-1" / "notes.txt").read_text() == "mine"
    assert sorted(os.listdir(folder / "best")) == ["model.safetensors", "state.json"]
