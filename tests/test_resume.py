"""--resume: a continued run is the uninterrupted one; schedules, best and kept checkpoints, records."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from src import evaluator, trainer
from src.checkpoints.checkpoint import checkpoints, read_checkpoint
from src.config import Config
from src.data_provider.datasets_factory import build_dataset
from src.data_provider.loader import spread
from src.errors import UserError
from src.flag_values import LR_SCHEDULES
from src.runtime.signals import Stopped
from src.utils.optimizer import build_optimizer, build_schedule, gradient_norm
from tests.conftest import settings_for
from tests.helpers import LONGEST_WAIT, ROOT, assert_same_checkpoint, losses_of, rows_of, stop_after

TABLE = [
    (1e-3, 20000),
    (5e-4, 20000),
    (2.5e-4, 20000),
    (1e-4, 25000),
    (5e-5, 30000),
    (2e-5, 30000),
    (1e-5, 30000),
    (5e-6, 40000),
    (2e-6, 40000),
    (1e-6, 40000),
    (5e-7, 40000),
    (2e-7, 40000),
    (1e-7, 40000),
]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_in_three_pieces_is_the_run_in_one_go_bit_for_bit(
    kth_sample, tmp_path, monkeypatch, optimizer, num_workers
):
    """12 iterations of 3 clips from 7: the stops at 4 and 9 lie in the middle of epochs and of a stage."""
    common = {
        "optimizer": optimizer,
        "num_workers": num_workers,
        "max_iterations": 12,
        "batch_size": 3,
        "test_interval": 3,
        "snapshot_interval": 5,
        "lr_schedule": "1e-3:5,5e-4:5,1e-4:5",
        "reverse_input": True,
        "grad_clip": 5.0,
        "sampling_start_value": 0.6,
        "sampling_changing_rate": 0.01,
    }
    runs = []
    for name in ("one", "pieces"):
        (tmp_path / name).mkdir()
        runs.append(settings_for(kth_sample, tmp_path / name, **common))
    one, pieces = runs
    trainer.train(one)
    for iteration in (4, 9):
        with monkeypatch.context() as context:
            stop_after(context, iteration)
            with pytest.raises(Stopped):
                trainer.train(dataclasses.replace(pieces, resume="newest"))
        assert checkpoints(pieces.save_dir)[-1] == iteration
    trainer.train(dataclasses.replace(pieces, resume="newest"))

    assert checkpoints(one.save_dir) == [5, 10, 12] and checkpoints(pieces.save_dir) == [4, 5, 9, 10, 12]
    for iteration in (5, 10, 12):
        assert_same_checkpoint(f"{one.save_dir}/{iteration}", f"{pieces.save_dir}/{iteration}")
    assert_same_checkpoint(f"{one.save_dir}/best", f"{pieces.save_dir}/best")
    assert losses_of(one) == losses_of(pieces) and [row["iteration"] for row in losses_of(one)] == [
        str(iteration) for iteration in range(1, 13)
    ]
    assert rows_of(one, "metrics.csv") == rows_of(pieces, "metrics.csv") and len(rows_of(one, "metrics.csv")) == 4
    log = (Path(pieces.save_dir) / "train.log").read_text()
    assert log.count("iteration 5/12, ") == 1 and "going on from " in log


def test_a_run_is_continued_from_the_command_line_after_sigterm(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=100000, display_interval=1, snapshot_interval=100000)
    arguments = [sys.executable, str(ROOT / "runp.py"), "--resume"]
    for flag in dataclasses.fields(Config):
        if flag.name != "resume":
            arguments += [f"--{flag.name}", str(getattr(config, flag.name))]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "no checkpoint in" in "".join(next(process.stdout) for _ in range(3))
    for line in process.stdout:
        if "iteration 3/100000" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 143
    (stopped,) = checkpoints(config.save_dir)
    result = subprocess.run([*arguments, "--max_iterations", str(stopped + 2)], capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert f"going on from {config.save_dir}/{stopped}" in result.stdout
    assert f"iteration {stopped + 1}/{stopped + 2}, loss " in result.stdout and "iteration 3/" not in result.stdout
    assert checkpoints(config.save_dir) == [stopped, stopped + 2]
    again = subprocess.run([*arguments, "--max_iterations", str(stopped + 2)], capture_output=True, text=True)
    assert again.returncode == 0 and f"done: {stopped + 2} iterations" in again.stdout


def test_a_directory_given_to_resume_is_the_start_and_newer_ones_are_in_its_way(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=4, snapshot_interval=2)
    trainer.train(config)
    first = f"{config.save_dir}/2"
    with pytest.raises(UserError, match=r"holds checkpoints that the run would come upon \(4\)"):
        trainer.train(dataclasses.replace(config, resume=first))
    other = tmp_path / "other"
    other.mkdir()
    trainer.train(dataclasses.replace(config, resume=first, save_dir=str(other)))
    assert checkpoints(str(other)) == [4]
    one, two = (read_checkpoint("", f"{folder}/4") for folder in (config.save_dir, other))
    for name, array in one.weights.items():
        np.testing.assert_array_equal(array, two.weights[name])


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"num_hidden": "4,4,4"}, ["--num_hidden 4,4", "--num_hidden 4,4,4"]),
        ({"batch_size": 1, "seed": 5}, ["--batch_size 2, --seed 0", "--batch_size 1, --seed 5"]),
        ({"img_width": 32}, ["--img_width 16", "--img_width 32"]),
        ({"total_length": 7}, ["--total_length 6", "--total_length 7"]),
        ({"optimizer": "adam"}, ["--optimizer sgd", "--optimizer adam"]),
        ({"dataset_name": "mnist"}, ["--dataset_name action", "--dataset_name mnist"]),
    ],
)
def test_flags_of_network_and_data_that_differ_are_listed(kth_sample, tmp_path, settings, parts):
    config = settings_for(kth_sample, tmp_path, max_iterations=1)
    trainer.train(config)
    with pytest.raises(UserError) as error:
        trainer.train(dataclasses.replace(config, resume="newest", max_iterations=2, **settings))
    assert str(error.value).startswith("--resume") and all(part in str(error.value) for part in parts)
    assert checkpoints(config.save_dir) == [1]


def test_other_flags_may_change_and_the_log_says_so(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=1)
    trainer.train(config)
    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=2, lr=1e-4))
    log = (tmp_path / "ck" / "train.log").read_text()
    assert "changed since the checkpoint: --lr 0.0001 (was 0.001)" in log and "iteration 2/2, loss " in log
    assert [float(row["lr"]) for row in losses_of(config)] == [1e-3, 1e-4]


def test_another_data_set_is_refused_and_a_lost_clip_is_told(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=1)
    trainer.train(config)
    path = tmp_path / "ck" / "1" / "state.json"
    state = json.loads(path.read_text())
    clips = state["train_clips"]
    assert clips == len(build_dataset(config, "train"))
    again = dataclasses.replace(config, resume="newest", max_iterations=2)
    path.write_text(json.dumps({**state, "train_clips": clips * 2}))
    with pytest.raises(UserError, match=f"had {clips * 2} clips, --train_data_paths has {clips}"):
        trainer.train(again)
    monkeypatch.setattr("src.checkpoints.run.CLIPS_MAY_DIFFER", 0.5)
    trainer.train(again)
    assert f"had {clips * 2} clips when" in (tmp_path / "ck" / "train.log").read_text()


def test_two_runs_in_one_folder_are_refused(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=1)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom src.runtime.log import log_to\n"
        "log_to(sys.argv[2]); print('locked', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(ROOT), config.save_dir]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="--save_dir .*another process is training there"):
            trainer.train(config)
        other.communicate("\n")
    trainer.train(config)


# ---- learning rate and optimizer


def test_the_kth_schedule_is_the_table_at_every_boundary_and_from_any_start():
    schedule = build_schedule(Config(lr_schedule="kth"))
    end = 0
    for rate, iterations in TABLE:
        for iteration in (end + 1, end + 2, end + iterations // 2, end + iterations):
            schedule.step(iteration - 1)
            assert schedule.get_lr() == rate, iteration
            resumed = build_schedule(Config(lr_schedule="kth"))
            resumed.step(iteration - 1)
            assert resumed.get_lr() == rate
        end += iterations
    assert end == 415000
    for iteration in (end + 1, 10**7):
        schedule.step(iteration - 1)
        assert schedule.get_lr() == 1e-7
    assert len(LR_SCHEDULES["kth"].split(",")) == len(TABLE)


def test_the_rate_of_the_schedule_is_the_one_that_trains_also_after_a_resume(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, lr_schedule="1e-3:2,5e-4:3", max_iterations=3)
    trainer.train(config)
    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=7))
    assert [float(row["lr"]) for row in losses_of(config)] == [1e-3, 1e-3, 5e-4, 5e-4, 5e-4, 5e-4, 5e-4]
    assert "ends before the 5 iterations" in (tmp_path / "ck" / "train.log").read_text()


def test_gradients_are_clipped_by_their_global_norm_and_adam_has_the_papers_betas():
    config = Config(grad_clip=0.5, weight_decay=0, lr=1.0)
    weights = [paddle.create_parameter([3], "float32"), paddle.create_parameter([2, 2], "float32")]
    before = [weight.numpy().copy() for weight in weights]
    loss = sum((weight * 3.0).sum() for weight in weights)
    loss.backward()
    assert gradient_norm(weights) == pytest.approx(3 * np.sqrt(7), rel=1e-6)
    build_optimizer(config, build_schedule(config), weights).step()
    step = np.concatenate([(b - w.numpy()).ravel() for b, w in zip(before, weights)])
    assert np.linalg.norm(step) == pytest.approx(0.5, rel=1e-5)
    adam = build_optimizer(Config(optimizer="adam"), build_schedule(config), weights)
    assert (adam._beta1, adam._beta2) == (0.95, 0.9995)


# ---- best and kept checkpoints, tests on a part of the set


@pytest.mark.usefixtures("undrawn")
def test_the_newest_checkpoints_are_kept_beside_the_best(kth_sample, tmp_path):
    config = settings_for(
        kth_sample, tmp_path, max_iterations=9, snapshot_interval=2, test_interval=1, keep_checkpoints=2
    )
    trainer.train(config)
    assert checkpoints(config.save_dir) == [8, 9]
    tests = {int(row["iteration"]): float(row["psnr"]) for row in rows_of(config, "metrics.csv")}
    best = read_checkpoint("", f"{config.save_dir}/best")
    assert len(tests) == 9 and best.state["iteration"] == max(tests, key=tests.get) == best.state["best"]["iteration"]
    assert not [name for name in os.listdir(config.save_dir) if "partial" in name or "previous" in name]
    # The best can be tested like any other.
    evaluator.test(dataclasses.replace(config, is_training=False, pretrained_model=f"{config.save_dir}/best"))
    alone = json.loads((tmp_path / "results" / "test_result" / "metrics.json").read_text())
    assert alone["model"]["psnr"] == max(tests.values())


def test_a_flag_left_out_does_not_delete_what_was_to_be_kept(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=4, snapshot_interval=1, keep_checkpoints=0)
    trainer.train(config)
    for resume in ("newest", f"{config.save_dir}/4"):
        again = dataclasses.replace(config, resume=resume, max_iterations=8)
        with pytest.raises(UserError, match="--keep_checkpoints 5: would delete checkpoints of .*keep_checkpoints 0"):
            trainer.train(dataclasses.replace(again, keep_checkpoints=5))
        assert checkpoints(config.save_dir) == [1, 2, 3, 4]
    trainer.train(again)
    assert len(checkpoints(config.save_dir)) == 8


def test_files_of_others_are_renamed_or_refused_but_never_overwritten(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=1, test_interval=1)
    folder = Path(config.save_dir)
    (folder / "best").mkdir()
    (folder / "best" / "notes.txt").write_text("mine")
    (folder / "2024").mkdir()
    for resume in ("", "newest"):
        with pytest.raises(UserError, match="--save_dir .*already holds checkpoints"):
            trainer.train(dataclasses.replace(config, resume=resume))
    assert (folder / "best" / "notes.txt").read_text() == "mine"
    (folder / "best").rename(tmp_path / "best")
    (folder / "2024").rmdir()
    (folder / "config.json").write_text("mine")
    (folder / "metrics.csv").write_text("name,score\n")
    trainer.train(config)
    assert (folder / "config.earlier-1.json").read_text() == "mine"
    assert (folder / "metrics.earlier-1.csv").read_text() == "name,score\n"
    (folder / "2024").mkdir()  # later on it is in nobody's way
    (folder / "losses.csv").write_text("iteration,loss\n1,2.0\n")
    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=2))
    assert (folder / "2024").is_dir() and [row["iteration"] for row in losses_of(config)] == ["2"]


def test_a_partial_folder_that_the_user_names_is_read_and_stays(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=2)
    trainer.train(config)
    kept = Path(config.save_dir) / "2.partial"
    (Path(config.save_dir) / "2").rename(kept)
    trainer.train(dataclasses.replace(config, resume=str(kept), max_iterations=3))
    assert kept.is_dir() and checkpoints(config.save_dir) == [3]


def test_a_finished_run_of_another_folder_has_its_checkpoint_in_the_new_one_too(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=2, test_interval=3)
    trainer.train(config)
    (tmp_path / "new").mkdir()
    again = dataclasses.replace(config, save_dir=str(tmp_path / "new"), resume=f"{config.save_dir}/2", test_interval=2)
    trainer.train(again)
    assert checkpoints(again.save_dir) == [2] and [row["iteration"] for row in rows_of(again, "metrics.csv")] == ["2"]


@pytest.mark.usefixtures("undrawn")
def test_a_kill_between_the_line_of_a_test_and_its_checkpoint_has_the_test_done_again(
    kth_sample, tmp_path, monkeypatch
):
    config = settings_for(kth_sample, tmp_path, max_iterations=2, test_interval=2)

    def killed(*arguments):
        raise SystemExit

    with monkeypatch.context() as context:
        context.setattr("src.checkpoints.run.Run.record_test", killed)
        with pytest.raises(SystemExit):
            trainer.train(config)
    first = rows_of(config, "metrics.csv")
    trainer.train(dataclasses.replace(config, resume="newest"))
    assert rows_of(config, "metrics.csv") == first and len(first) == 1
    assert read_checkpoint("", f"{config.save_dir}/best").state["tested"] == 2


@pytest.mark.usefixtures("undrawn")
def test_a_better_checkpoint_of_an_abandoned_branch_is_not_overwritten(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=1, test_interval=1)
    trainer.train(config)
    path = tmp_path / "ck" / "best" / "state.json"
    state = json.loads(path.read_text())
    state["best"].update(psnr=99.0, iteration=7)
    path.write_text(json.dumps(state))
    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=4))
    assert json.loads(path.read_text())["best"]["psnr"] == 99.0


@pytest.mark.usefixtures("undrawn")
def test_figures_of_different_test_sets_are_not_compared(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=1, test_interval=1)
    trainer.train(config)
    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=2, test_max_clips=2, lr=1e-30))
    best = read_checkpoint("", f"{config.save_dir}/best").state["best"]
    assert (best["iteration"], best["clips"]) == (2, 2)
    assert read_checkpoint("", f"{config.save_dir}/best.earlier-1").state["best"]["iteration"] == 1
    assert "the best starts anew" in (tmp_path / "ck" / "train.log").read_text()


def test_a_test_inside_training_can_take_a_part_of_the_set_spread_evenly(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=1, test_interval=1, test_max_clips=2)
    dataset = build_dataset(config, "test")
    trainer.train(config)
    metrics = json.loads((tmp_path / "results" / "1" / "metrics.json").read_text())
    assert len(dataset) > 2 and metrics["sequences"] == 2
    picture = cv2.imread(str(tmp_path / "results" / "1" / "1" / "gt01.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(picture, (dataset[0][0, :, :, 0] * 255).astype(np.uint8))
    assert spread(dataset, 2)[1].tobytes() == dataset[len(dataset) // 2].tobytes()
    evaluator.test(dataclasses.replace(config, is_training=False, pretrained_model=f"{config.save_dir}/1"))
    alone = json.loads((tmp_path / "results" / "test_result" / "metrics.json").read_text())
    assert alone["sequences"] == len(dataset)


# ---- records


def test_a_run_leaves_its_flags_figures_and_curves(kth_sample, tmp_path):
    config = settings_for(
        kth_sample, tmp_path, max_iterations=4, test_interval=2, log_dir=str(tmp_path / "vdl"), num_save_samples=2
    )
    trainer.train(config)
    run = json.loads((tmp_path / "ck" / "config.json").read_text())
    assert Config(**run["flags"]) == config and run["versions"]["paddle"] == paddle.__version__
    tests = rows_of(config, "metrics.csv")
    for row in tests:
        metrics = json.loads((tmp_path / "results" / row["iteration"] / "metrics.json").read_text())
        assert int(row["clips"]) == metrics["sequences"]
        for name in ("psnr", "ssim", "mse", "mae"):
            assert float(row[name]) == metrics["model"][name]
            assert float(row[f"repeat_{name}"]) == metrics["repeat_last_frame"][name]
            assert float(row[f"mean_{name}"]) == metrics["mean_frame"][name]
    curves = cv2.imread(str(tmp_path / "ck" / "curves.png"))
    assert curves.shape == (400, 1000, 3) and curves.std() > 10

    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=6))
    from visualdl import LogReader

    (name,) = (name for name in os.listdir(tmp_path / "vdl") if not name.startswith("."))
    reader = LogReader(file_path=str(tmp_path / "vdl" / name))
    tags = reader.get_tags()
    assert set(tags["scalar"]) == {
        "train/loss",
        "train/lr",
        "train/eta",
        "train/gradient_norm",
        "train/ips",
        "test/psnr",
        "test/ssim",
        "test/mse",
        "test/mae",
    }
    assert set(tags["image"]) == {"test/forecast_1", "test/forecast_2"}
    logged = {point.id: point.value for point in reader.get_data("scalar", "train/loss")}
    assert logged == pytest.approx({int(row["iteration"]): float(row["loss"]) for row in losses_of(config)}, rel=1e-6)


def test_metrics_of_a_run_that_an_older_version_began_stay_and_go_on(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=2, test_interval=1)
    trainer.train(config)
    path = tmp_path / "ck" / "metrics.csv"
    older = ["iteration", "clips", "psnr", "ssim", "mse", "repeat_psnr", "repeat_ssim", "repeat_mse"]
    before = [[row[name] for name in older] for row in rows_of(config, "metrics.csv")]
    path.write_text("".join(",".join(row) + "\n" for row in [older, *before, ["3", "7", "1.0"]]))  # the last line cut
    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=3))
    rows = rows_of(config, "metrics.csv")
    assert [[row[name] for name in older] for row in rows[:2]] == before
    assert [row["iteration"] for row in rows] == ["1", "2", "3"]
    assert all(row["mae"] == "" and row["mean_psnr"] == "" for row in rows[:2])
    assert float(rows[2]["mae"]) > 0 and float(rows[2]["mean_psnr"]) > 0
    assert cv2.imread(str(tmp_path / "ck" / "curves.png")).std() > 10


def test_lines_of_iterations_that_are_done_again_are_taken_out(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=2)
    trainer.train(config)
    whole = losses_of(config)
    with open(tmp_path / "ck" / "losses.csv", "a") as file:
        file.write("3,1.0,0.1,0.5,1.0,0.1\n4,1.0,0")  # of a run that was killed, the last line cut
    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=3))
    rows = losses_of(config)
    assert rows[:2] == whole and [row["iteration"] for row in rows] == ["1", "2", "3"] and rows[2]["loss"] != "1.0"
