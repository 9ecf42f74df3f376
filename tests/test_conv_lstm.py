"""--model_name conv_lstm: the equations of the ConvLSTM, and that everything a run does works with it."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from scripts import export_model, predict_exported
from src import trainer
from src.checkpoints.checkpoint import load_weights, save_checkpoint
from src.config import Config
from src.errors import UserError
from src.evaluator import predict_video, test
from src.layers.conv_lstm_cell import ConvLSTMCell
from src.layers.precision import autocast
from src.models.conv_lstm_net import ConvLSTM
from src.models.model_factory import build_model
from src.runtime.signals import Stopped
from src.step import predict
from tests.conftest import assert_same_weights, settings_for, sgd, trained, weights_of
from tests.helpers import assert_same_checkpoint, losses_of, plain_prediction, rows_of, stop_after

test.__test__ = False
SMALL = {
    "model_name": "conv_lstm",
    "img_width": 16,
    "patch_size": 4,
    "input_length": 3,
    "total_length": 7,
    "num_hidden": "4,4",
    "filter_size": 3,
}


def small_model(**settings):
    """A network whose peepholes and biases are no zeros."""
    paddle.seed(1)
    model = build_model(Config(**{**SMALL, **settings}))
    for name, parameter in model.named_parameters():
        if "peephole" in name or name.endswith("bias"):
            parameter.set_value(parameter + 0.3 * paddle.randn(parameter.shape))
    return model


def clip(batch=2, length=7, rows=4, columns=4, channels=16, seed=0):
    frames = np.random.default_rng(seed).random([batch, length, rows, columns, channels], dtype=np.float32)
    return paddle.to_tensor(frames)


# ---- equations


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolved(x, weight):
    """ "Same" convolution of ``[B, C, H, W]`` with ``[O, C, k, k]``, by its definition."""
    side = weight.shape[2]
    rows, columns = x.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)])
    return sum(
        np.einsum("bchw,oc->bohw", padded[:, :, r : r + rows, c : c + columns], weight[:, :, r, c])
        for r in range(side)
        for c in range(side)
    )


def plain_cell(weights, x, h, c):
    """The paper's equations, each with its own two convolutions, in float64."""
    w, b = np.split(weights["gates.weight"], 4), np.split(weights["gates.bias"], 4)
    a_i, a_f, a_c, a_o = (
        convolved(x, w[gate][:, : x.shape[1]]) + convolved(h, w[gate][:, x.shape[1] :]) + b[gate].reshape([1, -1, 1, 1])
        for gate in range(4)
    )
    p_i, p_f, p_o = (weights[f"peephole_{gate}"].reshape([1, -1, 1, 1]) for gate in "ifo")
    i, f = sigmoid(a_i + p_i * c), sigmoid(a_f + p_f * c)
    c = f * c + i * np.tanh(a_c)
    return sigmoid(a_o + p_o * c) * np.tanh(c), c


def doubles(layer):
    return {name: parameter.numpy().astype(np.float64) for name, parameter in layer.named_parameters()}


def plain_network(model, frames, flags):
    states = [[np.zeros([frames.shape[0], cell.hidden_channels, *frames.shape[2:4]])] * 2 for cell in model.cells]
    decoder, bias = model.decoder.weight.numpy()[:, :, 0, 0], model.decoder.bias.numpy()
    predictions = []
    for t in range(frames.shape[1] - 1):
        frame = frames[:, t]
        if t >= model.input_length:
            flag = flags[:, t - model.input_length].reshape([-1, 1, 1, 1])
            frame = flag * frame + (1 - flag) * predictions[-1]
        given = frames[:, : model.input_length]
        fed = (frame - given.mean(axis=1)) * model.center if model.center else frame
        x = fed.transpose(0, 3, 1, 2)
        for layer, cell in enumerate(model.cells):
            states[layer] = plain_cell(doubles(cell), x, *states[layer])
            x = states[layer][0]
        decoded = np.einsum("bnhw,on->bohw", x, decoder) + bias.reshape([1, -1, 1, 1])
        before, mean = frame.transpose(0, 3, 1, 2), given.mean(axis=1).transpose(0, 3, 1, 2)
        predictions.append(plain_prediction(model, decoded, before, mean).transpose(0, 2, 3, 1))
    return np.stack(predictions, axis=1)


@pytest.mark.parametrize("filter_size", [1, 3, 5])
def test_the_cell_is_the_paper_s_equations(filter_size):
    paddle.seed(3)
    cell = ConvLSTMCell(5, 4, filter_size)
    for gate in "ifo":
        getattr(cell, f"peephole_{gate}").set_value(paddle.randn([4]))
    cell.gates.bias.set_value(paddle.randn([16]))
    x, h, c = (paddle.randn([2, channels, 6, 7]) for channels in (5, 4, 4))
    expected = plain_cell(doubles(cell), *(tensor.numpy().astype(np.float64) for tensor in (x, h, c)))
    for found, values in zip(cell(x, h, c), expected):
        np.testing.assert_allclose(found.numpy(), values, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"residual": True},
        {"residual": "gate", "center": 3},
        {"residual": "gate", "center": 3, "recompute": True},
        {"num_hidden": "6,6,6", "filter_size": 5},
    ],
)
def test_the_network_is_the_cell_in_layers_fed_with_frames_or_predictions(settings):
    model, frames = small_model(**settings), clip()
    if model.residual:
        trained(model)
    flags = np.array([[1, 0, 1], [0, 1, 0]], np.float32)
    expected = plain_network(model, frames.numpy().astype(np.float64), flags)
    found = model(frames, paddle.to_tensor(flags)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    full = paddle.to_tensor(flags).reshape([2, 3, 1, 1, 1]).expand([2, 3, 4, 4, 16])
    np.testing.assert_allclose(model(frames, full).numpy(), expected, rtol=0, atol=1e-5)


def test_layers_may_differ_from_python():
    assert ConvLSTM(16, [6, 3], 3, input_length=3)(clip(length=4)).shape == [2, 3, 4, 4, 16]


def test_an_untrained_network_has_an_open_forget_gate_and_no_peepholes():
    model = build_model(Config(**SMALL))
    for cell in model.cells:
        np.testing.assert_array_equal(cell.gates.bias.numpy(), [0] * 4 + [1] * 4 + [0] * 8)
        assert all(not getattr(cell, f"peephole_{gate}").numpy().any() for gate in "ifo")


def test_parameters_depend_on_no_image_size_and_no_number_of_steps():
    for settings in ({}, {"img_width": 32}, {"total_length": 20}):
        shapes = {name: list(array.shape) for name, array in weights_of(small_model(**settings)).items()}
        assert shapes["cells.0.gates.weight"] == [16, 20, 3, 3] and shapes["cells.1.gates.weight"] == [16, 8, 3, 3]
        assert shapes["decoder.weight"] == [16, 4, 1, 1] and len(shapes) == 2 * 5 + 2
    assert small_model()(clip(rows=5, columns=3), paddle.ones([2, 3])).shape == [2, 6, 5, 3, 16]


# ---- gradients


def test_every_parameter_has_a_gradient_that_is_the_slope_of_the_loss():
    model, frames, flags = small_model(), clip(), paddle.zeros([2, 3])
    loss = model(frames, flags).square().sum()
    loss.backward()
    inputs, given = frames.numpy().astype(np.float64), flags.numpy()
    for name, parameter in model.named_parameters():
        gradient, array = parameter.grad.numpy(), parameter.numpy()
        direction = np.sign(gradient)
        losses = []
        for step in (1e-3, -1e-3):
            parameter.set_value((array + step * direction).astype(np.float32))
            losses.append(np.square(plain_network(model, inputs, given)).sum())
        parameter.set_value(array)
        slope = (losses[0] - losses[1]) / 2e-3
        assert np.abs(gradient).sum() == pytest.approx(slope, rel=2e-2), name


def test_the_gradient_flows_through_the_predictions_that_are_fed_back():
    model = small_model()
    frames = clip()
    frames.stop_gradient = False
    model(frames, paddle.zeros([2, 3]))[:, -1].sum().backward()
    sizes = np.abs(frames.grad.numpy()).sum(axis=(0, 2, 3, 4))
    assert (sizes[:3] > 0).all() and (sizes[3:] == 0).all()
    decoder = model.decoder.bias.grad.numpy()  # a sum: 32 positions of the last frame, and what was fed before it
    assert np.abs(decoder - 32).max() > 1e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_computing_steps_again_changes_the_order_of_sums_alone(precision):
    found = []
    for recompute in (False, True):
        model = small_model(recompute=recompute)
        with autocast(precision):
            predictions = model(clip(), paddle.zeros([2, 3]))
        predictions.square().sum().backward()
        found.append([predictions.numpy(), *(parameter.grad.numpy() for parameter in model.parameters())])
    for once, again in zip(*found):
        np.testing.assert_allclose(again, once, rtol=1e-5, atol=1e-5)


def test_half_precision_rounds_its_convolutions():
    model, frames, flags = small_model(), clip(), paddle.zeros([2, 3])
    exact = model(frames, flags).numpy()
    with autocast("bf16"):
        rounded = model(frames, flags).numpy()
    assert 1e-5 < np.abs(rounded - exact).max() < 0.05


@pytest.mark.parametrize(
    ("frames", "flags", "message"),
    [
        ([2, 7, 4, 4, 15], [2, 3], "frames must be"),
        ([2, 3, 4, 4, 16], [2, 3], "more than input_length"),
        ([2, 7, 4, 4, 16], [2, 4], "real_input_flag"),
    ],
)
def test_inputs_of_another_shape_are_refused_with_the_shape_expected(frames, flags, message):
    with pytest.raises(ValueError, match=message):
        small_model()(paddle.zeros(frames), paddle.zeros(flags))


# ---- runs


def run_config(kth_sample, folder, **settings):
    folder.mkdir(exist_ok=True)
    return settings_for(kth_sample, folder, model_name="conv_lstm", **settings)


@pytest.mark.device
@pytest.mark.usefixtures("undrawn")
def test_a_run_in_pieces_is_the_run_in_one_go_bit_for_bit(kth_sample, tmp_path, monkeypatch):
    common = {
        "optimizer": "adam",
        "max_iterations": 8,
        "snapshot_interval": 4,
        "test_interval": 4,
        "start_at_mean": True,
        "sampling_start_value": 0.5,
        "ema": 0.9,
        "resume": "newest",
        "num_save_samples": 0,
    }
    whole, pieces = (run_config(kth_sample, tmp_path / name, **common) for name in ("whole", "pieces"))
    trainer.train(whole)
    with monkeypatch.context() as context:
        stop_after(context, 6)
        with pytest.raises(Stopped):
            trainer.train(pieces)
    trainer.train(pieces)
    assert_same_checkpoint(f"{whole.save_dir}/8", f"{pieces.save_dir}/8")
    assert losses_of(whole) == losses_of(pieces) and rows_of(whole, "metrics.csv") == rows_of(pieces, "metrics.csv")


@pytest.mark.usefixtures("undrawn")
def test_it_learns_is_tested_and_forecasts_a_film(kth_sample, tmp_path):
    config = run_config(
        kth_sample,
        tmp_path / "run",
        optimizer="adam",
        lr=0.01,
        l1_weight=0,
        max_iterations=30,
        snapshot_interval=30,
        test_interval=30,
    )
    trainer.train(config)
    losses = [float(row["loss"]) for row in losses_of(config)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    checkpoint = f"{config.save_dir}/30"
    flags = ["--pretrained_model", checkpoint, "--gen_frm_dir", str(tmp_path / "out"), "--device", "cpu"]
    test(Config.from_command_line(["--is_training", "False", "--valid_data_paths", str(kth_sample), *flags]))
    in_training, tested = (
        json.loads((Path(folder) / "metrics.json").read_text())["model"]
        for folder in (Path(config.gen_frm_dir) / "30", tmp_path / "out" / "test_result")
    )
    assert in_training == tested

    film = next((kth_sample / "running").glob("person17*"))
    predict_video(Config.from_command_line(["--predict_video", str(film), *flags]))
    assert len(list((tmp_path / "out" / film.name).glob("pd*.png"))) == 3


def test_a_residual_network_repeats_the_last_frame_before_it_is_trained():
    model, frames = build_model(Config(**SMALL, residual=True)), clip()
    np.testing.assert_array_equal(model(frames, paddle.ones([2, 3])).numpy(), frames[:, :-1].numpy())


def test_its_predictions_can_begin_at_a_brightness():
    model = build_model(Config(**{**SMALL, "img_channel": 3}))
    model.start_at([0.1, 0.2, 0.3])
    np.testing.assert_allclose(model.decoder.bias.numpy(), np.tile(np.float32([0.1, 0.2, 0.3]), 16))


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="exporting needs Paddle 3")
@pytest.mark.parametrize(
    "settings", [{}, {"residual": "gate", "center": 3, "img_channel": 3, "num_hidden": "6", "filter_size": 5}]
)
def test_its_exported_program_forecasts_as_the_network(tmp_path, settings):
    config = Config(**{**SMALL, **settings})
    model = small_model(**settings)
    if config.residual:
        trained(model)
    export_model.save_program(model, config, str(tmp_path / "model"))
    given = np.random.default_rng(5).random([2, 3, 16, 16, config.img_channel], np.float32)
    frames = np.concatenate([given, np.zeros([2, 4, *given.shape[2:]], np.float32)], axis=1)
    expected = predict(config, model, paddle.to_tensor(frames)).clip(0, 1)
    assert expected.std() > 0.01
    np.testing.assert_allclose(predict_exported.predict(tmp_path, given), expected, rtol=0, atol=1e-5)


# ---- checkpoints of another network


@pytest.mark.parametrize(("there", "here"), [("e3d_lstm", "conv_lstm"), ("conv_lstm", "e3d_lstm")])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_checkpoint_of_the_other_model_is_refused_in_one_line_that_names_model_name(
    tmp_path, there, here, layer_norm
):
    settings = {**SMALL, "layer_norm": layer_norm}
    config = Config(**{**settings, "model_name": there, "save_dir": str(tmp_path)})
    network = build_model(config)
    path = save_checkpoint(config, 1, network, sgd(network))
    other = Config(**{**settings, "model_name": here})
    model = build_model(other)
    before = weights_of(model)
    with pytest.raises(UserError, match=f"made with --model_name {there}; this run has --model_name {here}; "):
        load_weights(model, path, other)
    bare = tmp_path / "bare"  # without state.json
    bare.mkdir()
    shutil.copy(f"{path}/model.safetensors", bare)
    with pytest.raises(UserError, match=r"--model_name differs \(\S+ is not in the network, and \d+ more\)$"):
        load_weights(model, str(bare), other)
    assert_same_weights(weights_of(model), before)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"num_hidden": "4,4,4"}, "the number of layers in --num_hidden"),
        ({"num_hidden": "6,6"}, "--num_hidden"),
        ({"filter_size": 5}, "--filter_size"),
        ({"patch_size": 2}, "--patch_size, --img_channel, --residual or --num_hidden"),
    ],
)
def test_weights_of_another_size_name_the_flag(tmp_path, settings, flag):
    config = Config(**{**SMALL, "save_dir": str(tmp_path)})
    network = build_model(config)
    path = save_checkpoint(config, 1, network, sgd(network))
    (Path(path) / "state.json").unlink()
    other = dataclasses.replace(config, **settings)
    with pytest.raises(UserError, match=f"does not fit the network: .*{flag} differs"):
        load_weights(build_model(other), path, other)
