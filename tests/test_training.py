"""The training and test loops, scheduled sampling, data order and checkpoints, in process."""

import dataclasses
import fcntl
import json
import math
import os
import pty
import re
import struct
import termios
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from scripts.make_sample_data import make_tree
from src import evaluator, trainer
from src.checkpoints.checkpoint import checkpoints, load_weights, save_checkpoint
from src.config import Config
from src.data_provider.datasets_factory import build_dataset
from src.data_provider.loader import test_batches, train_batches
from src.errors import UserError
from src.models.model_factory import build_model
from src.reports.forecast_report import FrameMetrics, table, write_pictures
from src.reports.training_report import Progress, TrainingReport
from src.step import predict, prediction_loss, train_on_batch
from src.utils.metrics import BASELINES, frame_mae, frame_mse, frame_psnr, frame_ssim, to_uint8
from src.utils.optimizer import build_optimizer, build_schedule
from src.utils.scheduled_sampling import no_true_frames, sampling_eta, sampling_flags
from tests.conftest import assert_same_weights, load_golden, settings_for, sgd, weights_of
from tests.helpers import log_of, losses_of

pytestmark = pytest.mark.usefixtures("undrawn")


def metrics_of(tmp_path, name):
    return json.loads((tmp_path / "results" / name / "metrics.json").read_text())


def state_of(tmp_path, iteration):
    return json.loads((tmp_path / "ck" / str(iteration) / "state.json").read_text())


# ---- scheduled sampling


def test_eta_follows_the_closed_form():
    config = Config(sampling_start_value=0.9, sampling_changing_rate=1e-3, sampling_stop_iter=2000)
    for iteration, eta in [(0, 0.9), (1, 0.899), (100, 0.8), (899, 0.001), (901, 0.0), (2000, 0.0), (10**6, 0.0)]:
        assert sampling_eta(config, iteration) == pytest.approx(eta, abs=1e-12)
    stopped = dataclasses.replace(config, sampling_stop_iter=100)
    assert sampling_eta(stopped, 99) == pytest.approx(0.801) and sampling_eta(stopped, 100) == 0.0
    assert sampling_eta(dataclasses.replace(config, scheduled_sampling=False), 1) == 0.0


def test_flags_are_1_with_probability_eta_and_depend_on_seed_and_iteration_alone():
    config = Config(sampling_start_value=0.7, sampling_changing_rate=0.0, input_length=2, total_length=503)
    flags = sampling_flags(config, 5, batch=40)
    assert flags.shape == (40, 500, 1, 1, 1) and flags.dtype == np.float32
    assert set(np.unique(flags)) == {0.0, 1.0}
    deviation = math.sqrt(0.7 * 0.3 / flags.size)
    assert abs(flags.mean() - 0.7) < 5 * deviation
    np.testing.assert_array_equal(flags, sampling_flags(config, 5, batch=40))
    assert (flags != sampling_flags(config, 6, batch=40)).any()
    assert (flags != sampling_flags(dataclasses.replace(config, seed=1), 5, batch=40)).any()
    assert not sampling_flags(dataclasses.replace(config, scheduled_sampling=False), 5, batch=40).any()
    assert not no_true_frames(config, 3).any() and no_true_frames(config, 3).shape == (3, 500, 1, 1, 1)


# ---- data order


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (2, 2), (5, 0), (100, 2)])
def test_every_clip_is_tested_exactly_once_in_order(kth_sample, tmp_path, batch_size, num_workers):
    config = settings_for(kth_sample, tmp_path, batch_size=batch_size, num_workers=num_workers)
    dataset = build_dataset(config, "test")
    served = np.concatenate([batch.numpy() for batch in test_batches(config, dataset)])
    np.testing.assert_array_equal(served, np.stack([dataset[index] for index in range(len(dataset))]))


@pytest.mark.parametrize("batch_size", [3, 40])
def test_training_takes_every_clip_once_an_epoch_and_full_batches(kth_sample, tmp_path, batch_size):
    config = settings_for(kth_sample, tmp_path, batch_size=batch_size, max_iterations=9)
    dataset = build_dataset(config, "train")
    rows = np.stack([dataset[index].ravel() for index in range(len(dataset))])
    batches = [batch.numpy() for batch in train_batches(config, dataset)]
    assert len(batches) == 9 and all(len(batch) == batch_size for batch in batches)
    stream = np.concatenate(batches).reshape([9 * batch_size, -1])
    indices = [int(np.flatnonzero((rows == row).all(axis=1))[0]) for row in stream]
    epochs = [indices[start : start + len(dataset)] for start in range(0, len(indices), len(dataset))]
    assert all(sorted(epoch) == list(range(len(dataset))) for epoch in epochs[:-1]) and len(epochs) > 1
    assert epochs[0] != sorted(epochs[0])


def test_the_data_order_can_start_at_any_iteration_and_follows_the_seed(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, batch_size=3, max_iterations=8)
    dataset = build_dataset(config, "train")
    whole = [batch.numpy() for batch in train_batches(config, dataset)]
    rest = [batch.numpy() for batch in train_batches(config, dataset, first_iteration=6)]
    np.testing.assert_array_equal(np.stack(whole[5:]), np.stack(rest))
    other = [batch.numpy() for batch in train_batches(dataclasses.replace(config, seed=1), dataset)]
    assert (np.stack(other) != np.stack(whole)).any()


# ---- loss and steps


def test_the_loss_is_the_definition():
    rng = np.random.default_rng(0)
    predictions, patches = rng.random([3, 4, 2, 2, 5], np.float32), rng.random([3, 5, 2, 2, 5], np.float32)
    difference = predictions - patches[:, 1:]
    expected = ((difference**2).sum() / 2 + np.abs(difference).sum()) / 3 / 128
    found = prediction_loss(paddle.to_tensor(predictions), paddle.to_tensor(patches))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_reverse_input_is_a_second_step_on_the_clip_played_backwards(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, reverse_input=True)
    frames = next(train_batches(config, build_dataset(config, "train")))
    backwards = paddle.to_tensor(frames.numpy()[:, ::-1].copy())
    forward_only = dataclasses.replace(config, reverse_input=False)

    paddle.seed(7)
    model = build_model(config)
    loss = train_on_batch(config, 1, model, sgd(model), frames).value
    paddle.seed(7)
    twin = build_model(config)
    optimizer = sgd(twin)
    losses = [train_on_batch(forward_only, 1, twin, optimizer, clip).value for clip in (frames, backwards)]

    assert loss == pytest.approx(np.mean(losses)) and losses[0] != losses[1]
    assert_same_weights(weights_of(model), weights_of(twin))


def test_sgd_decays_weights_by_coupled_l2(kth_sample, tmp_path):
    changes = []
    for decay in (0.0, 0.5):
        config = settings_for(kth_sample, tmp_path, weight_decay=decay, lr=0.01)
        paddle.seed(config.seed)
        model = build_model(config)
        before = weights_of(model)
        optimizer = build_optimizer(config, build_schedule(config), model.parameters())
        train_on_batch(config, 1, model, optimizer, next(train_batches(config, build_dataset(config, "train"))))
        changes.append({name: array - before[name] for name, array in weights_of(model).items()})
    for name, plain in changes[0].items():
        np.testing.assert_allclose(changes[1][name] - plain, -0.01 * 0.5 * before[name], rtol=1e-3, atol=1e-6)


@pytest.mark.device
def test_training_lowers_the_loss_on_the_sample_data(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=30, lr=1e-2, scheduled_sampling=False)
    trainer.train(config)
    losses = [float(row["loss"]) for row in losses_of(config)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.device
def test_two_runs_with_the_same_seed_give_the_same_weights(kth_sample, tmp_path):
    found = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        config = settings_for(kth_sample, folder)
        trainer.train(config)
        model = build_model(config)
        load_weights(model, str(folder / "ck" / "3"), config)
        found.append(weights_of(model))
    assert_same_weights(*found)


def test_a_run_writes_snapshots_tests_and_a_log_and_refuses_to_overwrite_them(kth_sample, tmp_path, capsys):
    config = settings_for(kth_sample, tmp_path, max_iterations=5, snapshot_interval=2, test_interval=2)
    trainer.train(config)
    records = ["best", "config.json", "curves.png", "losses.csv", "metrics.csv", "train.log"]
    assert sorted(os.listdir(tmp_path / "ck")) == ["2", "4", "5", *records]
    psnr = [metrics_of(tmp_path, str(iteration))["model"]["psnr"] for iteration in (2, 4)]
    assert metrics_of(tmp_path, "4")["iteration"] == 4
    # The best test so far is in the checkpoint of its own iteration.
    assert [state_of(tmp_path, i)["best"]["psnr"] for i in (2, 4, 5)] == [psnr[0], max(psnr), max(psnr)]
    printed = capsys.readouterr().out
    for text in (log_of(config), printed):
        assert all(f"iteration {iteration}/5, loss " in text for iteration in range(1, 6))
    for part in ("lr 0.001", "sampling 0.9999", "s/it", "frames/s", "left 0:0"):
        assert part in printed
    with pytest.raises(UserError, match=r"--save_dir .*5"):
        trainer.train(config)
    assert checkpoints(config.save_dir) == [2, 4, 5]


@pytest.mark.parametrize(("columns", "more"), [(80, ""), (120, ", sampling 0.543, 10 frames/s")])
def test_the_bar_of_a_long_run_shows_time_left_loss_and_rate_on_the_columns_there_are(monkeypatch, columns, more):
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        progress = Progress(Config(max_iterations=415000), 123456)
        progress.bar.start_t -= 30  # as if the first iteration had taken half a minute
        progress.bar.last_print_t -= 30
        progress.step(123457, 0.0123456, 1.25e-5, 0.54321, 12.345, 0.1)
        progress.close()
        shown = b""
        while not shown.endswith(b"\n"):
            shown += os.read(main, 10000)
    os.close(main)
    shown = shown.decode().rstrip().split("\r")[-1]
    start, bar, end = shown.split("|")
    assert len(shown) <= columns and len(bar) >= 5 and start == "123457/415000"
    assert re.fullmatch(rf" \d\d\.\d\ds/it, left \d{{4}}:\d\d:\d\d, loss 0.01235, lr 1.25e-05{more}", end)


@pytest.mark.parametrize(
    ("seconds", "clips", "iterations", "advice"),
    [
        (350, 4000, 10, "--test_max_clips 200"),
        (350, 60, 10, "--test_interval 5000"),
        (50, 4000, 10, ""),  # a tenth of the run
        (10, 4000, 1, ""),  # soon over, though nearly all of the run
    ],
)
def test_a_training_whose_tests_take_long_says_so_once(tmp_path, caplog, seconds, clips, iterations, advice):
    caplog.set_level("INFO", "e3d_lstm")
    config = Config(save_dir=tmp_path, max_iterations=200 * iterations, test_interval=50 * iterations)
    report = TrainingReport(config, 0, 0, "cpu")
    for number in range(3):
        for iteration in range(iterations):
            seconds_taken = 100.0 if iteration == 0 and iterations > 1 else 0.1 * iterations  # the first is slow
            report.step(iteration + 1, 1.0, 1e-3, 1.0, None, seconds_taken)
        report.advise_on_tests(config.test_interval * (number + 1), clips, seconds)
    report.close()
    assert len(caplog.messages) == bool(advice) and advice in "".join(caplog.messages)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_picture_ends_a_run_with_its_name_and_a_checkpoint_of_every_iteration_before(tmp_path, num_workers):
    """One of the training's clips; then one of the test's, which is read after iteration 4."""
    for person, frames in (("01", 60), ("17", 6)):
        make_tree(tmp_path / "data", [person], ["boxing"], frames=frames, size=(32, 32), seed=0, scenarios=1)
    settings = {"batch_size": 1, "max_iterations": 30, "num_workers": num_workers, "snapshot_interval": 1000}
    for person, name in (("person01", "image_0030.jpg"), ("person17", "image_0002.jpg")):
        folder = tmp_path / person
        folder.mkdir()
        config = settings_for(tmp_path / "data", folder, test_interval=4 if person == "person17" else 1000, **settings)
        (broken,) = (tmp_path / "data").glob(f"boxing/{person}*/{name}")
        whole = broken.read_bytes()
        broken.write_bytes(whole[:200])
        with pytest.raises(UserError, match=name):
            trainer.train(config)
        broken.write_bytes(whole)
        (iteration,) = checkpoints(config.save_dir)
        assert f"iteration {iteration}/30" in log_of(config) and f"iteration {iteration + 1}/30" not in log_of(config)
    assert iteration == 4


# ---- testing


def test_figures_are_means_over_every_clip_and_stand_beside_those_of_trivial_forecasts(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, batch_size=3, num_save_samples=2)
    dataset = build_dataset(config, "test")
    model = build_model(config)
    metrics = evaluator.evaluate(config, model, dataset, "here", 12)

    clips = np.stack([dataset[index] for index in range(len(dataset))])
    pred, true = predict(config, model, paddle.to_tensor(clips)), clips[:, 3:]
    last, mean = clips[:, 2:3].repeat(3, axis=1), clips[:, :3].mean(axis=1, keepdims=True).repeat(3, axis=1)
    assert metrics["sequences"] == len(dataset) and metrics["iteration"] == 12
    for who, frames in (("model", pred), ("repeat_last_frame", last), ("mean_frame", mean)):
        for step in range(3):
            p, t = frames[:, step], true[:, step]
            expected = {
                "mse": frame_mse(p, t).mean(),
                "mae": np.abs(p.clip(0, 1) - t).sum(axis=(1, 2, 3)).mean(),
                "psnr": frame_psnr(to_uint8(p), to_uint8(t)).mean(),
                "ssim": frame_ssim(to_uint8(p), to_uint8(t)).mean(),
            }
            for name, value in expected.items():
                assert metrics[who][f"{name}_per_frame"][step] == pytest.approx(value, rel=1e-4), (who, name, step)
        for name in ("mse", "mae", "psnr", "ssim"):
            assert metrics[who][name] == pytest.approx(np.mean(metrics[who][f"{name}_per_frame"]))
    assert json.loads((tmp_path / "results" / "here" / "metrics.json").read_text()) == metrics
    rows = table(metrics).splitlines()
    assert [line.split()[0] for line in rows[2:]] == ["4", "5", "6", "all", "boxing", "running"]
    assert rows[0].split("|")[1].split() == ["PSNR", "repeat", "mean"]
    whole = rows[5].replace("|", " ").split()[1:]
    assert [float(cell) for cell in whole] == pytest.approx(
        [metrics[who][name] for name in ("psnr", "ssim", "mse", "mae") for who in ("model", *BASELINES)], abs=0.006
    )


def test_kth_has_a_row_for_each_action_in_whatever_batches_its_clips_came(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, batch_size=3)
    dataset = build_dataset(config, "test")
    model = build_model(config)
    metrics = evaluator.evaluate(config, model, dataset, "all", 12)
    names = [clip.category for clip in dataset.clips]
    assert list(metrics["actions"]) == sorted(set(names)) and len(set(names)) == 2
    for action, found in metrics["actions"].items():
        part = paddle.io.Subset(dataset, [index for index, name in enumerate(names) if name == action])
        alone = evaluator.evaluate(config, model, part, action, 12)
        assert "actions" not in alone  # one action: its figures are those of the whole
        assert found["sequences"] == len(part) == alone["sequences"]
        for who in ("model", *BASELINES):
            assert found[who].keys() == {"psnr", "ssim", "mse", "mae"}
            for name, value in found[who].items():
                assert value == pytest.approx(alone[who][name], rel=1e-5)


def test_the_table_has_at_most_100_characters_and_aligned_columns():
    def figures(psnr, ssim, mse, mae):
        whole = {"psnr": psnr, "ssim": ssim, "mse": mse, "mae": mae}
        return {**whole, **{f"{name}_per_frame": [value] * 3 for name, value in whole.items()}}

    who = {
        "model": figures(None, 1.0, 0.0, 0.0),
        "repeat_last_frame": figures(9.123, -0.0101, 49152.0, 16384.2),
        "mean_frame": figures(100.456, 0.5, 1234.56, 999.999),
    }
    lines = table({"input_length": 10, **who, "actions": {"handclapping": who, "walking": who}}).splitlines()
    assert {len(line) for line in lines} == {100}
    cells = "walking inf 9.12 100.46 1.0000 -0.010 0.5000 0.00 49152 1234.6 0.00 16384 1000.0"
    assert lines[-1].replace("|", " ").split() == cells.split()
    assert {len(line) for line in table({"input_length": 10, **who}).splitlines()} == {93}


def test_mae_is_the_sum_of_absolute_differences_of_the_clipped_prediction():
    pred, true = np.array([[[1.5, 0.25]], [[-1.0, 0.5]]]), np.array([[[0.5, 0.5]], [[0.25, 0.5]]])
    np.testing.assert_allclose(frame_mae(pred, true), [0.75, 0.25])
    with pytest.raises(ValueError, match="different shapes"):
        frame_mae(pred, true[:1])


def test_pictures_are_the_first_clip_of_each_batch_with_frame_numbers(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, batch_size=2, num_save_samples=2)
    dataset = build_dataset(config, "test")
    evaluator.evaluate(config, build_model(config), dataset, "7", 7)
    folder = tmp_path / "results" / "7"
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert found == ["1", "2", "metrics.json", "per_frame.png", "report.html"]
    names = ["gt01.png", "gt02.png", "gt03.png", "gt04.png", "gt05.png", "gt06.png", "pd04.png", "pd05.png", "pd06.png"]
    for number in (1, 2):
        assert sorted(os.listdir(folder / str(number))) == ["forecast.gif", *names, "sheet.png"]
        for name, frame in zip(names, dataset[2 * (number - 1)]):
            picture = cv2.imread(str(folder / str(number) / name), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(picture, to_uint8(frame[:, :, 0]))


def test_pictures_of_an_earlier_test_are_removed_and_other_files_stay(kth_sample, tmp_path):
    folder = tmp_path / "results" / "7"
    config = settings_for(kth_sample, tmp_path, batch_size=2, num_save_samples=3)
    dataset, model = build_dataset(config, "test"), build_model(config)
    evaluator.evaluate(config, model, dataset, "7", 7)
    (folder / "3" / "notes.txt").write_text("mine")
    evaluator.evaluate(dataclasses.replace(config, batch_size=100), model, dataset, "7", 7)
    assert os.listdir(folder / "3") == ["notes.txt"] and not (folder / "2").exists()
    assert "gt01.png" in os.listdir(folder / "1")


def test_colour_pictures_keep_their_colours(tmp_path):
    red = np.zeros([3, 8, 8, 3]) + [1.0, 0.0, 0.0]
    write_pictures(str(tmp_path), red[:2], red[2:], red[:1])
    assert sorted(os.listdir(tmp_path)) == ["forecast.gif", "gt01.png", "gt02.png", "gt03.png", "pd03.png", "sheet.png"]
    assert cv2.imread(str(tmp_path / "gt01.png"))[0, 0].tolist() == [0, 0, 255]  # OpenCV reads blue first


def test_predictions_that_are_not_finite_end_a_test_and_give_no_figures(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, is_training=False, pretrained_model="broken")
    model = build_model(config)
    model.decoder.bias.set_value(paddle.full_like(model.decoder.bias, math.nan))
    with pytest.raises(UserError, match="--pretrained_model broken: .*not finite"):
        evaluator.evaluate(config, model, build_dataset(config, "test"), "7", 7)
    assert not (tmp_path / "results" / "7" / "metrics.json").exists()


def test_figures_of_the_table_are_those_of_the_official_test_loop():
    golden = load_golden("metrics.npz")
    figures = FrameMetrics()
    for frames, pred in zip(golden["trainer_test.ims"], golden["trainer_test.preds"]):
        figures.add(pred, frames[:, 2:])
    summary = figures.summary()
    np.testing.assert_allclose(summary["mse_per_frame"], golden["trainer_test.mse_per_frame"], rtol=1e-5)
    np.testing.assert_allclose(summary["psnr_per_frame"], golden["trainer_test.psnr_per_frame"], rtol=1e-5)
    assert summary["psnr"] == pytest.approx(float(golden["trainer_test.psnr_mean"]), rel=1e-5)


def test_a_perfect_forecast_has_no_psnr_to_average_and_is_counted():
    figures = FrameMetrics()
    true = np.random.default_rng(0).random([2, 3, 8, 8, 1], np.float32)
    figures.add(true, true)
    summary = figures.summary()
    assert summary["psnr"] is None and summary["psnr_infinite_frames"] == 6 and summary["ssim"] == pytest.approx(1.0)
    json.dumps(summary, allow_nan=False)


@pytest.mark.device
def test_testing_a_checkpoint_gives_the_figures_of_the_test_inside_training(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, num_hidden="4,4,4", max_iterations=2, test_interval=2)
    trainer.train(config)
    evaluator.test(dataclasses.replace(config, is_training=False, pretrained_model=str(tmp_path / "ck" / "2")))
    inside, alone = metrics_of(tmp_path, "2"), metrics_of(tmp_path, "test_result")
    assert alone["model"] == inside["model"] and alone["iteration"] == 2


def test_one_predicted_frame_trains_and_tests(kth_sample, tmp_path):
    trainer.train(settings_for(kth_sample, tmp_path, total_length=4, max_iterations=1, test_interval=1))
    assert len(metrics_of(tmp_path, "1")["model"]["mse_per_frame"]) == 1


# ---- checkpoints


@pytest.fixture
def saved(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path)
    model = build_model(config)
    path = save_checkpoint(config, 3, model, sgd(model), {"best": {"psnr": 20.0, "iteration": 2}})
    return config, model, path


def test_a_checkpoint_comes_back_as_it_was_saved(saved):
    config, model, path = saved
    assert path == os.path.join(config.save_dir, "3")
    assert sorted(os.listdir(path)) == ["model.safetensors", "state.json"]  # SGD has no state
    assert os.listdir(config.save_dir) == ["3"]
    twin = build_model(config)
    state = load_weights(twin, path, config)
    assert_same_weights(weights_of(twin), weights_of(model))
    assert state["iteration"] == 3 and state["config"] == dataclasses.asdict(config)
    assert state["best"] == {"psnr": 20.0, "iteration": 2} and state["versions"]["paddle"] == paddle.__version__


def test_the_optimizer_s_state_is_saved_by_the_parameters_names(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, optimizer="adam", max_iterations=1)
    trainer.train(config)
    names = {name.split(":")[0] for name in load_file(f"{config.save_dir}/1/optimizer.safetensors")}
    assert names == set(load_file(f"{config.save_dir}/1/model.safetensors"))


def test_what_stands_where_a_checkpoint_should_go_is_never_replaced(saved):
    config, model, path = saved
    before = {name: Path(path, name).read_bytes() for name in os.listdir(path)}
    with pytest.raises(UserError, match="3"):
        save_checkpoint(config, 3, model, sgd(model))
    assert {name: Path(path, name).read_bytes() for name in os.listdir(path)} == before
    assert os.listdir(config.save_dir) == ["3"]


def test_a_folder_of_another_program_s_checkpoints_is_refused(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path)
    (tmp_path / "ck" / "50500").mkdir()
    (tmp_path / "ck" / "50500" / "model.pdparams").write_bytes(b"weights")
    with pytest.raises(UserError, match="50500.*--save_dir"):
        trainer.train(config)
    assert os.listdir(tmp_path / "ck" / "50500") == ["model.pdparams"]


def test_pretrained_weights_are_the_start_and_the_iteration_is_1(saved, tmp_path):
    config, model, path = saved
    folder = tmp_path / "next"
    folder.mkdir()
    trainer.train(dataclasses.replace(config, save_dir=str(folder), pretrained_model=path, max_iterations=1, lr=1e-30))
    twin = build_model(config)
    load_weights(twin, str(folder / "1"), config)
    for name, array in weights_of(twin).items():
        np.testing.assert_allclose(array, weights_of(model)[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"filter_size": 5}, ["--filter_size"]),
        ({"patch_size": 2}, ["--patch_size"]),
        ({"num_hidden": "8,8", "filter_size": 1}, ["--num_hidden", "--filter_size"]),
    ],
)
def test_weights_of_another_network_are_refused_with_the_flags_that_differ(saved, settings, flags):
    """The tensors alone tell; tests/test_command_line.py has each flag, with state.json."""
    config, _, path = saved
    os.remove(os.path.join(path, "state.json"))
    other = dataclasses.replace(config, **settings)
    model = build_model(other)
    before = weights_of(model)
    with pytest.raises(UserError) as error:
        load_weights(model, path, other)
    message = str(error.value)
    assert message.startswith(f"--pretrained_model {path}") and "\n" not in message
    assert all(flag in message for flag in flags), message
    assert_same_weights(before, weights_of(model))
