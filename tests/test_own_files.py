"""The program removes and replaces what it has made itself; a folder of another's that is in the way is refused."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import runp
from src import trainer
from src.checkpoints.checkpoint import checkpoints, save_checkpoint
from src.checkpoints.run import open_folder, remove_old, save_best
from src.data_provider.datasets_factory import DATASETS, DataSet, build_dataset
from src.errors import UserError, WriteError
from src.evaluator import evaluate
from src.models.model_factory import build_model
from src.reports.forecast_report import open_test_folder, remove_clips, remove_pictures, write_pictures
from src.reports.own_folder import FILM, MARK, TEST, kind_of, take_folder
from src.runtime.log import log_to
from tests.conftest import settings_for, sgd
from tests.helpers import ROOT, write_video


@pytest.fixture(scope="module")
def three_checkpoints(kth_sample, tmp_path_factory):
    """Settings of a run whose save_dir holds 1, 2, 3 and best, and its gen_frm_dir a test with pictures."""
    config = settings_for(
        kth_sample, tmp_path_factory.mktemp("run"), snapshot_interval=1, test_interval=3, test_max_clips=2
    )
    with pytest.MonkeyPatch.context() as context:
        for name in ("forecast_report.draw_per_frame", "training_report.draw_curves"):  # they take matplotlib seconds
            context.setattr(f"src.reports.{name}", lambda *arguments: None)
        trainer.train(config)
    return config


@pytest.fixture
def run(three_checkpoints, tmp_path):
    """A copy of it."""
    for name in ("save_dir", "gen_frm_dir"):
        shutil.copytree(getattr(three_checkpoints, name), tmp_path / name)
    return dataclasses.replace(
        three_checkpoints,
        save_dir=str(tmp_path / "save_dir"),
        gen_frm_dir=str(tmp_path / "gen_frm_dir"),
        resume="newest",
    )


def put(folder, *names):
    """Files of a user."""
    for name in names:
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_text("mine")
    return Path(folder)


def content_of(folder):
    """What is in a folder, but for the log."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in Path(folder).rglob("*")
        if path.name != "train.log"
    }


# ---- checkpoints


@pytest.mark.parametrize("name", ["best.previous", "best"])
def test_a_folder_of_a_user_where_checkpoints_go_is_refused_by_its_name(run, name):
    shutil.rmtree(Path(run.save_dir) / "best")
    put(run.save_dir, f"{name}/notes.txt", f"{name}/model.safetensors")
    before = content_of(run.save_dir)
    with pytest.raises(UserError, match=rf"--save_dir .*save_dir/{name} holds .*notes.txt.*; move it away") as error:
        open_folder(run)
    assert "\n" not in str(error.value) and content_of(run.save_dir) == before


def test_what_a_kill_leaves_of_a_checkpoint_is_cleared_at_the_next_start_and_nothing_of_a_user(run, tmp_path):
    folder = Path(run.save_dir)
    put(folder, "7.partial/notes.txt", "7.partial/model.safetensors", ".8.0123abcd.partial/notes.txt", "mine.txt")
    put(folder, "mine.partial/model.safetensors")
    (folder / "link.partial").symlink_to(put(tmp_path / "elsewhere", "model.safetensors"))
    before = content_of(folder)
    (folder / ".4.0123abcd.partial").mkdir()  # killed before its first file, ...
    for name in ("5.partial", ".5.0123abcd.partial"):  # ... and before its last; earlier versions used the plain name
        put(folder, f"{name}/model.safetensors")
    shutil.copytree(folder / "3", folder / ".best.0123abcd.partial")
    (folder / "3" / "state.partial.json").write_bytes(b"{")  # of the record of a test
    checkpoint, is_own = open_folder(run)
    assert is_own and checkpoint.state["iteration"] == 3
    assert content_of(folder) == {**before, "3/state.partial.json": b"{"}
    assert content_of(tmp_path / "elsewhere") == {"model.safetensors": b"mine"}


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


def test_of_old_checkpoints_the_programs_own_files_go_alone(run, tmp_path):
    folder = Path(run.save_dir)
    put(folder / "1", "notes.txt", ".ipynb_checkpoints/state-checkpoint.json")
    shutil.move(folder / "2", tmp_path / "2")
    (folder / "2").symlink_to(tmp_path / "2")
    kept_elsewhere = content_of(tmp_path / "2")
    put(folder / "4", "model.safetensors", "config.json")  # of another program
    put(folder / "5", "model.safetensors", "state.json")
    shutil.copytree(folder / "3", folder / "6")
    others = {name: content_of(folder / name) for name in ("4", "5", "6")}
    remove_old(dataclasses.replace(run, keep_checkpoints=1))
    assert checkpoints(folder) == [4, 5, 6]
    assert {name: content_of(folder / name) for name in others} == others
    notes = {"notes.txt": b"mine", ".ipynb_checkpoints": None, ".ipynb_checkpoints/state-checkpoint.json": b"mine"}
    assert content_of(folder / "1") == notes and not (folder / "3").exists()
    assert content_of(tmp_path / "2") == kept_elsewhere and not (folder / "2").is_symlink()


def test_files_that_a_user_puts_in_the_way_of_a_checkpoint_during_a_run_stay(run):
    folder, model = Path(run.save_dir), build_model(run)
    put(folder, "4/notes.txt", "best/notes.txt")
    with pytest.raises(WriteError, match="--save_dir .*save_dir/4 is there already"):
        save_checkpoint(run, 4, model, sgd(model))
    assert content_of(folder / "4") == {"notes.txt": b"mine"}
    for iteration in (5, 6):  # the second finds "best" as the program left it
        save_best(run, iteration, model, sgd(model), {"best": {"iteration": iteration, "clips": 2, "psnr": 1e3}})
        assert content_of(folder / "best.earlier-1") == {"notes.txt": b"mine"}
        assert sorted(os.listdir(folder / "best")) == ["model.safetensors", "state.json"]
    shutil.rmtree(folder / "best")
    put(folder, "best/model.safetensors")
    save_best(run, 7, model, sgd(model), {"best": {"iteration": 7, "clips": 2, "psnr": 1e3}})
    assert content_of(folder / "best.earlier-2") == {"model.safetensors": b"mine"}


# ---- tests and forecasts


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of nine frames."""
    path = tmp_path_factory.mktemp("film") / "cars.avi"
    write_video(path, 9)
    return path


def forecast(film, run, out):
    weights = os.path.join(run.save_dir, "3")
    return runp.main(["--predict_video", str(film), "--pretrained_model", weights, "--gen_frm_dir", str(out)])


def refused(capfd, *parts):
    """Whether standard error is one line with all of the parts."""
    error = capfd.readouterr().err
    return error.count("\n") == 1 and all(part in error for part in parts)


def test_a_forecast_goes_to_no_folder_of_a_user_also_through_a_link(three_checkpoints, film, tmp_path, capfd):
    out = tmp_path / "out"
    put(tmp_path / "elsewhere", "gt01.png", "metrics.json")
    put(out / "a", "cars/gt01.png", "cars/metrics.json", "cars/notes.txt")
    (out / "b").mkdir()
    (out / "b" / "cars").symlink_to(tmp_path / "elsewhere")
    before = content_of(tmp_path)
    for folder in (out / "a", out / "b"):
        capfd.readouterr()
        assert forecast(film, three_checkpoints, folder) == 2
        assert refused(capfd, f"--gen_frm_dir {folder}: ", f"{folder}/cars, which holds gt01.png", "move that away")
    assert content_of(tmp_path) == before


def test_a_forecast_does_not_take_the_place_of_its_own_film(three_checkpoints, film, tmp_path, capfd):
    out = tmp_path / "out"
    (out / "forecast").mkdir(parents=True)
    own = Path(shutil.copy(film, out / "forecast" / "forecast.mp4"))
    take_folder(str(tmp_path / "marked" / "forecast"), FILM)
    marked = Path(shutil.copy(film, tmp_path / "marked" / "forecast" / "forecast.mp4"))
    for path in (own, marked):
        capfd.readouterr()
        assert forecast(path, three_checkpoints, path.parent.parent) == 2
        assert refused(capfd, "--gen_frm_dir", "among the film's own frames")
        assert path.read_bytes() == film.read_bytes() and len(list(path.parent.glob("*.*"))) == 1 + (path == marked)


@pytest.mark.parametrize("name", ["test_result", "3"])
def test_a_film_named_as_a_test_leaves_that_test_alone(run, film, tmp_path, name, capfd):
    results = Path(run.gen_frm_dir)
    if name == "test_result":
        (results / "3").rename(results / name)
    before = content_of(results)
    assert "metrics.json" in os.listdir(results / name) and "1/pd04.png" in content_of(results / name)
    capfd.readouterr()
    assert forecast(shutil.copy(film, tmp_path / f"{name}.avi"), run, results) == 2
    assert refused(capfd, f"{name}, which holds a test; move that away") and content_of(results) == before


def test_a_folder_of_results_of_an_earlier_version_is_written_again(run, film, tmp_path, capfd):
    results = Path(run.gen_frm_dir)
    assert forecast(film, run, results) == 0
    for folder, kind in (("3", TEST), ("cars", FILM)):  # those versions left no mark, ...
        (results / folder / MARK).unlink()
        assert kind_of(str(results / folder)) == kind
    assert not (results / "cars" / "metrics.json").exists()  # ... nor figures of a film whose end is given
    assert open_test_folder(run, str(results / "3")) and not (results / "3" / "1").exists()
    assert forecast(film, run, results) == 0


def test_a_test_removes_no_pictures_and_no_folder_of_a_user(run, capfd):
    testing = dataclasses.replace(run, is_training=False)
    for name in ("2", "test_result"):
        folder = put(Path(run.gen_frm_dir) / name, "1/gt01.png", "1/gt02.png")
        (folder / "77").mkdir()
        before = content_of(folder)
        with pytest.raises(WriteError, match=f"a test would go to .*/{name}, which holds 1, 77, which this program"):
            open_test_folder(testing, str(folder))
        remove_clips(str(folder))
        assert open_test_folder(run, str(folder)) is None and content_of(folder) == before
    weights = ["--pretrained_model", f"{run.save_dir}/3", "--valid_data_paths", run.valid_data_paths]
    capfd.readouterr()
    assert runp.main(["--is_training", "False", *weights, "--gen_frm_dir", run.gen_frm_dir]) == 2
    assert refused(capfd, "test_result, which holds 1, 77") and content_of(folder) == before


def test_an_empty_folder_and_a_linked_one_among_those_of_a_test_stay(run, tmp_path):
    folder = Path(run.gen_frm_dir) / "3"
    (folder / "77").mkdir()
    (folder / "2").symlink_to(put(tmp_path / "elsewhere", "gt01.png"))
    remove_pictures(str(folder))
    assert (folder / "77").is_dir() and not (folder / "1").exists()
    frames = np.zeros([3, 16, 16, 1])
    with pytest.raises(WriteError, match="3/2: is a link"):
        write_pictures(str(folder / "2"), frames, frames, frames)
    assert content_of(tmp_path / "elsewhere") == {"gt01.png": b"mine"}


def test_a_training_is_refused_where_a_test_of_it_would_go_to_a_folder_of_a_user(run):
    longer = dataclasses.replace(run, test_interval=2, max_iterations=8)
    put(run.gen_frm_dir, "2/mine.txt", "5/mine.txt", "10/mine.txt")  # of no test that is to come
    take_folder(os.path.join(run.gen_frm_dir, "8"), FILM)
    put(run.gen_frm_dir, "8/gt01.png")
    with pytest.raises(UserError, match="gen_frm_dir/8, which holds the forecast of a film; move that away"):
        open_folder(longer)
    shutil.rmtree(os.path.join(run.gen_frm_dir, "8"))
    open_folder(longer)


@pytest.mark.usefixtures("undrawn")
def test_a_folder_put_in_the_way_of_a_test_during_a_training_costs_that_test_s_files_alone(run, caplog, monkeypatch):
    put(run.gen_frm_dir, "9/mine.txt")
    monkeypatch.setattr(trainer.logger, "propagate", True)
    metrics = evaluate(run, build_model(run), build_dataset(run, "test"), "9", 9)
    assert metrics["sequences"] and content_of(Path(run.gen_frm_dir) / "9") == {"mine.txt": b"mine"}
    assert "9, which holds mine.txt" in caplog.text and "the training goes on" in caplog.text


# ---- folders that would meet


def check(root, tmp_path, **flags):
    config = settings_for(root, tmp_path, **flags)
    config.check_run()


def test_checkpoints_and_tests_in_one_folder_are_refused_also_through_a_link(kth_sample, tmp_path):
    (tmp_path / "ck").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ck")
    for same in (tmp_path / "ck", f"{tmp_path}/none/../ck/", tmp_path / "link"):
        with pytest.raises(UserError, match="--save_dir .*ck and --gen_frm_dir .* are the same folder.*; give two"):
            check(kth_sample, tmp_path, gen_frm_dir=same)
    check(kth_sample, tmp_path, gen_frm_dir=tmp_path / "ck" / "results")
    check(kth_sample, tmp_path, save_dir=tmp_path / "results" / "ck")
    weights = {"is_training": False, "pretrained_model": tmp_path}  # writes no checkpoint
    check(kth_sample, tmp_path, gen_frm_dir=tmp_path / "ck", **weights)


def test_nothing_is_written_among_the_films_that_a_data_set_reads(tmp_path, monkeypatch):
    films = tmp_path / "films"
    for mode in ("train", "test"):
        (films / mode).mkdir(parents=True)
    (tmp_path / "link").symlink_to(films / "train")
    folder = {"dataset_name": "folder"}
    for flag, place in (
        ("save_dir", films / "train"),
        ("gen_frm_dir", films / "test" / "a"),
        ("gen_frm_dir", tmp_path / "link" / "x"),
    ):
        with pytest.raises(UserError, match=rf"--{flag} .*: is in .*films/t.*_data_paths .*films reads; give a folder"):
            check(films, tmp_path, **{flag: place}, **folder)
        assert sorted(os.listdir(films / "train") + os.listdir(films / "test")) == []
    with pytest.raises(UserError, match="--gen_frm_dir"):
        check(films, tmp_path, gen_frm_dir=films / "test", is_training=False, pretrained_model=tmp_path, **folder)
    check(films, tmp_path, save_dir=films / "checkpoints", gen_frm_dir=films / "results", **folder)
    check(films, tmp_path, gen_frm_dir=films / "testing", **folder)
    monkeypatch.chdir(films)
    check(".", tmp_path, gen_frm_dir="results", **folder)
    with pytest.raises(UserError, match="--gen_frm_dir train/results: "):
        check(".", tmp_path, gen_frm_dir="train/results", **folder)


def test_results_may_lie_beside_files_of_clips_and_in_the_root_of_kth(kth_sample, tmp_path):
    for name in ("train.npz", "test.npy"):
        (tmp_path / name).touch()
    files = {"dataset_name": "mnist", "train_data_paths": tmp_path / "train.npz"}
    check(tmp_path / "test.npy", tmp_path, gen_frm_dir=tmp_path / "results", **files)
    check(tmp_path, tmp_path, gen_frm_dir=tmp_path / "results")


def test_a_data_set_of_one_s_own_is_taken_to_read_its_whole_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "own", DataSet("own:Own", "own"))
    (tmp_path / "data").mkdir()
    for place in (tmp_path / "data", tmp_path / "data" / "results"):
        with pytest.raises(UserError, match="--gen_frm_dir .*is in .*data, which --train_data_paths"):
            check(tmp_path / "data", tmp_path, dataset_name="own", gen_frm_dir=place)


def test_a_forecast_does_not_go_into_the_folder_of_its_film(three_checkpoints, tmp_path, capfd):
    put(tmp_path / "cars", "1.png", "2.png", "3.png")
    for out in (tmp_path, tmp_path / "cars", tmp_path / "cars" / "out"):
        capfd.readouterr()
        assert forecast(tmp_path / "cars", three_checkpoints, out) == 2
        assert refused(capfd, f"--gen_frm_dir {out}: the forecast would go among the film's own frames")


# ---- two runs


HOLD = """
import os, sys, time
from src.runtime.log import log_to
log_to(sys.argv[1])
print("locked", flush=True)
if os.fork() == 0:
    print("forked", flush=True)
    time.sleep(600)
sys.stdin.read()
"""


def test_a_second_run_is_refused_also_where_the_log_has_been_deleted(tmp_path):
    """Once the first has ended the next one starts, even if a process that the first has forked is still there."""
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert first.stdout.readline() == "locked\n" and first.stdout.readline() == "forked\n"
        for delete in (False, True):
            if delete:
                (tmp_path / "train.log").unlink()
            with pytest.raises(UserError, match="--save_dir .*another process is training there"):
                log_to(str(tmp_path))
        first.kill()
        first.wait()
        log_to(str(tmp_path))
        log_to(str(tmp_path))  # the same process may come again
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        log_to(None)


def test_two_runs_do_not_share_a_log_dir(run, tmp_path):
    curves = str(tmp_path / "vdl")
    first = dataclasses.replace(run, log_dir=curves)
    (tmp_path / "second").mkdir()
    second = dataclasses.replace(first, save_dir=str(tmp_path / "second"), resume="")
    open_folder(first)
    with pytest.raises(UserError, match="--log_dir .*vdl: holds the curves of the run in .*save_dir; give another"):
        open_folder(second)
    open_folder(first)
    shutil.rmtree(run.save_dir)  # that run is no more
    open_folder(second)
    open_folder(dataclasses.replace(second, log_dir=""))
