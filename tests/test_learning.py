"""What helps a training to learn: the weight of the L1 term, residual predictions, the decoder's start, the average of
the weights, warm-up and cosine."""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from src import evaluator, trainer
from src.checkpoints.checkpoint import load_weights, read_checkpoint, save_checkpoint
from src.config import Config
from src.data_provider.datasets_factory import build_dataset
from src.errors import UserError
from src.models.model_factory import build_model
from src.runtime.signals import Stopped
from src.step import flipped, l1_weight_at, prediction_loss
from src.utils.optimizer import build_optimizer, build_schedule
from src.utils.weight_average import WeightAverage
from tests.conftest import settings_for, sgd, trained, weights_of
from tests.helpers import assert_same_checkpoint, flip_a_byte, log_of, losses_of, stop_after

pytestmark = pytest.mark.usefixtures("undrawn")

RECIPE = {
    "norm_epsilon": 1,
    "residual": "gate",
    "center": 3,
    "flip": True,
    "optimizer": "adam",
    "weight_decay": 0,
    "betas": "0.9,0.999",
    "lr_schedule": "cosine:2e-3:6:2",
    "l1_weight": 0.3,
    "l1_from": 4,
    "ema": 0.9,
}


def rates_of(schedule, iterations):
    rates = []
    for iteration in iterations:
        schedule.step(iteration - 1)
        rates.append(schedule.get_lr())
    return rates


# ---- the loss


def test_the_loss_counts_absolute_differences_with_their_weight():
    patches = paddle.to_tensor(np.zeros([2, 3, 1, 1, 1], np.float32))
    predictions = paddle.to_tensor(np.array([3.0, -1.0, 2.0, 0.0], np.float32).reshape([2, 2, 1, 1, 1]))
    for weight in (0.0, 0.3, 1.0):
        expected = (14 / 2 + weight * 6) / 2 / 128
        assert float(prediction_loss(predictions, patches, weight)) == pytest.approx(expected, rel=1e-6)
    assert float(prediction_loss(predictions, patches)) == pytest.approx(13 / 256, rel=1e-6)


def test_the_weight_of_the_loss_is_a_function_of_the_iteration():
    config = Config(l1_weight=0.3, l1_from=4)
    assert [l1_weight_at(config, iteration) for iteration in (1, 3, 4, 5, 10**6)] == [0, 0, 0.3, 0.3, 0.3]
    assert l1_weight_at(Config(), 1) == 1.0


def test_a_training_says_which_loss_it_has_and_when_that_changes(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, l1_weight=0.5, l1_from=3, max_iterations=4)
    trainer.train(config)
    log = log_of(config)
    assert log.index("loss: squares / 2 + 0.5 x absolute differences") < log.index("iteration 1/4")
    assert log.index("iteration 2/4") < log.index("iteration 3: absolute differences join") < log.index("iteration 3/4")


# ---- the learning rate


def test_a_cosine_rises_then_falls_to_a_hundredth_and_stays_there():
    schedule = build_schedule(Config(lr_schedule="cosine:2e-3:100:10"))
    assert rates_of(schedule, [1, 5, 10]) == pytest.approx([2e-4, 1e-3, 2e-3])
    assert rates_of(schedule, [55, 100, 101, 5000]) == pytest.approx([2e-3 * (0.01 + 0.99 / 2), 2e-5, 2e-5, 2e-5])
    middle = 2e-3 * (0.01 + 0.99 * (1 + math.cos(math.pi * 30 / 90)) / 2)
    assert rates_of(build_schedule(Config(lr_schedule="cosine:2e-3:100:10")), [40]) == pytest.approx([middle])
    without_warmup = build_schedule(Config(lr_schedule="cosine:1e-3:50"))
    assert rates_of(without_warmup, [1, 50]) == pytest.approx([1e-3, 1e-5], rel=2e-3)


def test_adam_has_the_betas_of_its_flag():
    """The first step moves a weight by about the rate, whatever the betas; the second tells them."""
    config = Config(optimizer="adam", betas="0.5, 0.75", weight_decay=0, lr=0.1)
    weight = paddle.create_parameter([1], "float32")
    adam = build_optimizer(config, build_schedule(config), [weight])
    moved = []
    for gradient in (1.0, 3.0):
        before = weight.item()
        (weight * gradient).sum().backward()
        adam.step()
        adam.clear_grad()
        moved.append(before - weight.item())
    first, second = 0.5 * 0.5 + 0.5 * 3, 0.75 * 0.25 + 0.25 * 9
    expected = 0.1 * (first / (1 - 0.5**2)) / math.sqrt(second / (1 - 0.75**2))
    assert moved == pytest.approx([0.1, expected], rel=1e-4)


# ---- residual predictions


@pytest.mark.parametrize(
    "settings",
    [
        {"residual": True},
        {"residual": True, "layer_norm": False},
        {"residual": "gate"},
        {"residual": "gate", "center": 3, "model_name": "conv_lstm"},
    ],
)
def test_an_untrained_residual_network_repeats_the_last_frame(kth_sample, tmp_path, settings):
    config = settings_for(kth_sample, tmp_path, **settings, lr=1e-9, max_iterations=1, test_interval=1)
    trainer.train(config)
    metrics = json.loads((Path(config.gen_frm_dir) / "1" / "metrics.json").read_text())
    assert metrics["model"]["psnr"] == pytest.approx(metrics["repeat_last_frame"]["psnr"], abs=0.5)


@pytest.mark.parametrize(
    ("flag", "value", "before"), [("residual", True, False), ("center", 3.0, 0.0), ("norm_epsilon", 1.0, 1e-5)]
)
def test_weights_of_another_function_are_refused_and_older_checkpoints_have_the_default(tmp_path, flag, value, before):
    """The parameters of both are the same, so shapes do not tell; older checkpoints do not name the flag."""
    config = settings_for("unused", tmp_path, **{flag: value})
    plain = dataclasses.replace(config, **{flag: before})
    model = build_model(config)
    path = save_checkpoint(config, 1, model, sgd(model))
    with pytest.raises(UserError, match=f"--{flag} {value}.*--{flag} {before}"):
        load_weights(model, path, plain)
    state = json.loads((Path(path) / "state.json").read_text())
    del state["config"][flag]
    (Path(path) / "state.json").write_text(json.dumps(state))
    load_weights(model, path, plain)
    with pytest.raises(UserError, match=f"--{flag} {before}.*--{flag} {value}"):
        load_weights(model, path, config)
    assert read_checkpoint("", path).state["config"][flag] == before


# ---- the decoder's start


def test_the_decoder_begins_at_the_mean_brightness_of_the_training_clips(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, start_at_mean=True, lr=1e-9, max_iterations=1, test_interval=1)
    dataset = build_dataset(config, "train")
    mean = np.mean([dataset[index].mean() for index in range(len(dataset))])
    trainer.train(config)
    weights = load_file(os.path.join(config.save_dir, "1", "model.safetensors"))
    np.testing.assert_allclose(weights["decoder.bias"], np.full(16, mean), rtol=1e-5)
    assert f"{len(dataset)} training clips: {mean:.4f}" in log_of(config)
    # A run that is resumed, or that starts from weights, keeps its own.
    trainer.train(dataclasses.replace(config, resume="newest", start_at_mean=False, max_iterations=2))
    (tmp_path / "other").mkdir()
    other = settings_for(kth_sample, tmp_path, save_dir=tmp_path / "other", lr=1e-9, max_iterations=1)
    model = build_model(other)
    model.decoder.bias.set_value(np.full([16], 0.25, np.float32))
    start = save_checkpoint(dataclasses.replace(other, save_dir=str(tmp_path / "from")), 1, model, sgd(model))
    trainer.train(dataclasses.replace(other, pretrained_model=start, start_at_mean=True))
    weights = load_file(os.path.join(other.save_dir, "1", "model.safetensors"))
    np.testing.assert_allclose(weights["decoder.bias"], np.full(16, 0.25), rtol=1e-5)


def test_each_colour_has_its_own_brightness():
    model = build_model(Config(img_width=16, patch_size=4, num_hidden="4", filter_size=3, img_channel=3))
    model.start_at([0.1, 0.2, 0.3])
    bias = model.decoder.bias.numpy().reshape([16, 3])  # a row for each pixel of a patch
    np.testing.assert_allclose(bias, np.tile([0.1, 0.2, 0.3], [16, 1]), rtol=1e-6)


def test_the_decoder_of_a_gate_begins_at_the_brightness_and_its_scores_at_the_frame_fed_last(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, residual="gate", lr=1e-9, max_iterations=1)
    dataset = build_dataset(config, "train")
    mean = np.mean([dataset[index].mean() for index in range(len(dataset))])
    trainer.train(config)
    weights = load_file(os.path.join(config.save_dir, "1", "model.safetensors"))
    np.testing.assert_allclose(weights["decoder.bias"], np.repeat([mean, 3, 0, 0], 16), rtol=1e-5, atol=1e-6)


def test_mirrored_clips_are_a_function_of_seed_and_iteration_and_half_of_all():
    frames = paddle.rand([4, 3, 6, 6, 1])
    draws = []
    for iteration in range(1, 101):
        found = flipped(Config(seed=5), iteration, frames).numpy()
        np.testing.assert_array_equal(flipped(Config(seed=5), iteration, frames).numpy(), found)
        for clip, before in zip(found, frames.numpy()):
            is_mirrored = bool((clip == before[:, :, ::-1]).all())
            assert is_mirrored or (clip == before).all()
            draws.append(is_mirrored)
    assert 150 < sum(draws) < 250
    others = [flipped(Config(seed=6), iteration, frames).numpy() for iteration in range(1, 20)]
    assert not all((flipped(Config(seed=5), n, frames).numpy() == o).all() for n, o in enumerate(others, 1))


@pytest.mark.parametrize(("settings", "flag"), [({"residual": True}, "--residual True"), ({"center": 3}, "--center 3")])
def test_a_network_of_differences_has_no_brightness_to_begin_at(settings, flag):
    with pytest.raises(UserError, match=f"{flag} and --start_at_mean True"):
        Config(**settings, start_at_mean=True)


def test_a_centered_gate_forecasts_a_brighter_film_brighter_and_otherwise_the_same():
    config = Config(img_width=16, patch_size=4, num_hidden="4", filter_size=3, input_length=3, total_length=6)
    config = dataclasses.replace(config, residual="gate", center=3)
    model = build_model(config)
    trained(model)
    frames = paddle.rand([2, 6, 4, 4, 16])
    flags = paddle.zeros([2, 2])
    np.testing.assert_allclose(model(frames + 0.5, flags).numpy(), model(frames, flags).numpy() + 0.5, atol=1e-4)


# ---- the average of the weights


def test_the_average_follows_its_formula_and_gives_the_weights_back():
    paddle.seed(0)
    model = build_model(Config(img_width=16, patch_size=4, num_hidden="4", filter_size=3))
    average = WeightAverage(model, 0.5)
    expected = model.decoder.bias.numpy().astype(np.float64)
    for iteration, value in enumerate((1.0, -2.0, 4.0, 0.5, 3.0, 7.0, 2.0, 1.0, 8.0, 3.0), start=1):
        model.decoder.bias.set_value(np.full([16], value, np.float32))
        average.update(iteration)
        decay = min(0.5, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * value
    own = weights_of(model)
    with average.in_use():
        np.testing.assert_allclose(model.decoder.bias.numpy(), expected, rtol=1e-5)
    for name, array in weights_of(model).items():
        np.testing.assert_array_equal(array, own[name])


def test_tests_and_forecasts_use_the_average_and_training_its_own_weights(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, ema=0.9, lr=1e-3, max_iterations=3, test_interval=3)
    trainer.train(config)
    folder = f"{config.save_dir}/3"
    own, average = (load_file(f"{folder}/{name}.safetensors") for name in ("model", "ema"))
    assert any(np.abs(own[name] - average[name]).max() > 0 for name in own)
    model = build_model(config)
    load_weights(model, folder, config)
    for name, array in weights_of(model).items():
        np.testing.assert_array_equal(array, average[name])
    evaluator.test(dataclasses.replace(config, is_training=False, pretrained_model=folder))
    in_training, tested = (
        json.loads((Path(config.gen_frm_dir) / name / "metrics.json").read_text()) for name in ("3", "test_result")
    )
    assert in_training["model"] == tested["model"]
    (tmp_path / "without").mkdir()
    without = settings_for(kth_sample, tmp_path, save_dir=tmp_path / "without", lr=1e-3, max_iterations=3)
    trainer.train(without)
    same = load_file(f"{without.save_dir}/3/model.safetensors")
    for name in own:
        np.testing.assert_array_equal(own[name], same[name], err_msg=name)


def test_a_damaged_average_is_noticed(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, ema=0.9, max_iterations=1)
    trainer.train(config)
    path = Path(config.save_dir, "1", "ema.safetensors")
    flip_a_byte(path)
    with pytest.raises(UserError, match="ema.safetensors"):
        load_weights(build_model(config), str(path.parent), config)
    with pytest.raises(UserError, match="ema.safetensors"):
        read_checkpoint("", str(path.parent))


# ---- all of it


def test_a_run_with_the_recipe_in_two_pieces_is_the_run_in_one_go(kth_sample, tmp_path, monkeypatch):
    runs = []
    for name in ("one", "pieces"):
        (tmp_path / name).mkdir()
        runs.append(
            settings_for(
                kth_sample,
                tmp_path / name,
                **RECIPE,
                max_iterations=7,
                test_interval=4,
                snapshot_interval=5,
                sampling_changing_rate=0.2,
            )
        )
    one, pieces = runs
    trainer.train(one)
    with monkeypatch.context() as context:
        stop_after(context, 3)
        with pytest.raises(Stopped):
            trainer.train(pieces)
    trainer.train(dataclasses.replace(pieces, resume="newest"))
    for name in ("5", "7", "best"):
        assert_same_checkpoint(f"{one.save_dir}/{name}", f"{pieces.save_dir}/{name}")
    assert losses_of(one) == losses_of(pieces)


def test_a_checkpoint_without_an_average_goes_on_with_one(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=2, snapshot_interval=1)
    trainer.train(config)
    trainer.train(dataclasses.replace(config, resume="newest", ema=0.5, max_iterations=3))
    before, after = (load_file(f"{config.save_dir}/{name}") for name in ("2/model.safetensors", "3/model.safetensors"))
    average = load_file(f"{config.save_dir}/3/ema.safetensors")
    decay = 4 / 13  # (1 + 3) / (10 + 3)
    for name in before:
        np.testing.assert_allclose(
            average[name], decay * before[name] + (1 - decay) * after[name], rtol=0, atol=1e-6, err_msg=name
        )
