"""What a user may rely on in the network, beyond the figures of the official code."""

import subprocess
import sys

import numpy as np
import paddle
import pytest

from src.config import Config
from src.errors import UserError
from src.models.forecaster import Forecaster
from src.models.model_factory import MODELS, build_model
from src.models.parameters import parameter_count, start_at_mean
from src.models.unrolled import UnrolledNetwork
from src.utils.tf_weights import load_tf_variables, tf_parameters
from tests.helpers import ROOT, plain_prediction

SMALL = {
    "img_width": 16,
    "patch_size": 4,
    "input_length": 3,
    "total_length": 7,
    "num_hidden": "4,4",
    "filter_size": 3,
}


def small_model(**settings):
    paddle.seed(1)
    return build_model(Config(**{**SMALL, **settings}))


def clip(batch=2, length=7, rows=4, columns=4, channels=16, seed=0):
    frames = np.random.default_rng(seed).random([batch, length, rows, columns, channels], dtype=np.float32)
    return paddle.to_tensor(frames)


def numbers_by_formula(layers, n, k, patch_channels, layer_norm):
    """Trained numbers of the network of the paper; nothing in it depends on the number of time steps."""
    total = 0
    for layer in range(layers):
        inputs = n if layer else patch_channels
        gates = 2 * k * k * (n * 4 * n + inputs * 7 * n + n * 4 * n)  # W_h, W_x, W_m
        gates += (2 if layer_norm else 1) * (4 + 7 + 4) * n  # gain and shift of the norms, or biases
        outputs = 2 * (2 * k * k * n * n + n) + (2 * n * n + n)  # W_co, W_mo and W_1x1x1 with their biases
        total += gates + outputs + 2 * n  # and the norm of the cell
    return total + 2 * n * patch_channels + patch_channels  # decoder


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize(("total_length", "num_hidden"), [(7, "4,4"), (20, "4,4"), (7, "6,6,6"), (7, "8")])
def test_weights_are_shared_over_time(layer_norm, total_length, num_hidden):
    config = Config(**{**SMALL, "total_length": total_length, "num_hidden": num_hidden, "layer_norm": layer_norm})
    sizes = config.hidden_sizes
    assert parameter_count(build_model(config)) == numbers_by_formula(len(sizes), sizes[0], 3, 16, layer_norm)


def test_the_full_model_has_the_parameters_of_the_paper_s_architecture():
    assert parameter_count(build_model(Config())) == numbers_by_formula(4, 64, 5, 64, True)


def test_a_clip_s_prediction_does_not_depend_on_the_batch_it_is_in():
    model, frames = small_model(), clip(batch=3)
    flags = paddle.zeros([3, 3, 1, 1, 1])
    together = model(frames, flags).numpy()
    for index in range(3):
        alone = model(frames[index : index + 1], flags[index : index + 1]).numpy()
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 6), (5, 3)])
def test_any_image_size_runs_on_the_same_weights(rows, columns):
    predictions = small_model()(clip(rows=rows, columns=columns), paddle.ones([2, 3, 1, 1, 1]))
    assert predictions.shape == [2, 6, rows, columns, 16]


@pytest.mark.parametrize("filter_size", [1, 3, 7])
def test_any_odd_filter_size_keeps_the_grid(filter_size):
    assert small_model(filter_size=filter_size)(clip(), paddle.ones([2, 3])).shape == [2, 6, 4, 4, 16]


def test_three_channels_are_predicted_as_three_channels():
    model = small_model(img_channel=3)
    assert model(clip(channels=48), paddle.ones([2, 3])).shape == [2, 6, 4, 4, 48]


def test_without_layer_norm_the_network_trains_and_keeps_only_the_norm_of_the_cell():
    model = small_model(layer_norm=False)
    names = [name for name, _ in model.named_parameters()]
    assert {name.split(".")[2] for name in names if ".norm_" in name} == {"norm_c"}
    assert "cells.0.conv_h.bias" in names and "cells.0.conv_x.bias" in names and "cells.0.conv_m.bias" in names
    loss = model(clip(), paddle.ones([2, 3])).square().sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(paddle.isfinite(parameter.grad).all()), name


def test_convolutions_before_a_norm_have_no_bias():
    names = [name for name, _ in small_model().named_parameters()]
    assert not [name for name in names if name.endswith(("conv_h.bias", "conv_x.bias", "conv_m.bias"))]


def test_flags_take_any_broadcastable_shape():
    model, frames = small_model(), clip()
    flags = paddle.to_tensor(np.array([[1, 0, 1], [0, 1, 0]], dtype="float32"))
    expected = model(frames, flags.reshape([2, 3, 1, 1, 1])).numpy()
    np.testing.assert_array_equal(model(frames, flags).numpy(), expected)
    full = flags.reshape([2, 3, 1, 1, 1]).expand([2, 3, 4, 4, 16])
    np.testing.assert_allclose(model(frames, full).numpy(), expected, rtol=0, atol=1e-6)


def test_a_flag_of_1_feeds_the_true_frame_and_0_the_prediction():
    model, frames = small_model(), clip()
    other = paddle.concat([frames[:, :3], 1.0 - frames[:, 3:]], axis=1)
    zeros, ones = paddle.zeros([2, 3]), paddle.ones([2, 3])
    np.testing.assert_array_equal(model(frames, zeros).numpy(), model(other, zeros).numpy())
    differing = np.abs(model(frames, ones).numpy() - model(other, ones).numpy()).max(axis=(0, 2, 3, 4))
    assert (differing[:3] == 0).all() and (differing[3:] > 1e-6).all()


def test_one_predicted_frame_needs_no_flags():
    assert small_model(total_length=4)(clip(length=4)).shape == [2, 3, 4, 4, 16]


def test_the_memory_of_one_step_reaches_the_next_one():
    model, frames = small_model(), clip()
    received = []
    model.cells[0].register_forward_pre_hook(lambda layer, inputs: received.append(inputs[3]))
    model(frames, paddle.ones([2, 3]))
    assert received.pop(0) is None  # zeros
    memories = [memory.numpy() for memory in received]
    assert all(np.abs(after - before).max() > 1e-6 for before, after in zip(memories, memories[1:]))


def test_the_history_grows_by_one_window_a_step_and_keeps_the_zero_state(form):
    model = small_model()
    histories = []
    for cell in model.cells:
        cell.register_forward_pre_hook(lambda layer, inputs: histories.append([past.numpy() for past in inputs[4]]))
    model(clip(), paddle.ones([2, 3]))
    window = 2 * 4 * 4
    for step, history in enumerate(histories[::2]):
        positions = np.concatenate(history, axis=2)
        assert positions.shape == (2, 4, window * (step + 1)) and np.abs(positions[:, :, :window]).max() == 0
        assert all(np.abs(positions[:, :, window * past :][:, :, :window]).max() > 0 for past in range(1, step + 1))
        assert len(history) == (step + 1 if form == "chunks" else 1)


@pytest.mark.parametrize(
    ("frames", "flags", "message"),
    [
        ([2, 7, 4, 4, 15], [2, 3], "frames must be"),
        ([2, 7, 4, 4], [2, 3], "frames must be"),
        ([2, 3, 4, 4, 16], [2, 3], "more than input_length"),
        ([2, 7, 4, 4, 16], [2, 4], "real_input_flag"),
        ([2, 7, 4, 4, 16], [1, 3], "real_input_flag"),
    ],
)
def test_inputs_of_another_shape_are_refused_with_the_shape_expected(frames, flags, message):
    with pytest.raises(ValueError, match=message):
        small_model()(paddle.zeros(frames), paddle.zeros(flags))


def test_another_network_is_not_started_at_the_mean_or_exported():
    with pytest.raises(UserError, match=r"--start_at_mean True: Linear has no start_at"):
        start_at_mean(paddle.nn.Linear(2, 2), [np.zeros([3, 4, 4, 1], np.float32)])
    with pytest.raises(UserError, match="Linear cannot be exported: it is no UnrolledNetwork"):
        Forecaster(paddle.nn.Linear(2, 2), patch_size=4, steps=3)


def test_every_model_name_builds():
    assert set(MODELS) == {"e3d_lstm", "e3d_lstm_plain", "conv_lstm"}
    for name in MODELS:
        assert isinstance(build_model(Config(**SMALL, model_name=name)), paddle.nn.Layer)


@pytest.mark.parametrize(
    ("model", "epsilon"),
    [
        (lambda: build_model(Config(**SMALL)), 1e-5),
        (lambda: build_model(Config(**SMALL, norm_epsilon=1)), 1.0),
        (lambda: build_model(Config(**SMALL, norm_epsilon=1), norm_epsilon=1e-3), 1e-3),
    ],
)
def test_norm_epsilon_reaches_every_norm(model, epsilon):
    norms = [layer for layer in model().sublayers() if isinstance(layer, paddle.nn.GroupNorm)]
    assert len(norms) == 8 and all(norm._epsilon == epsilon for norm in norms)


def test_tensorflow_variables_that_do_not_fit_are_all_listed():
    model = small_model()
    variables = {name: parameter.numpy() for name, parameter in tf_parameters(model).items()}
    variables = {name: a.transpose(2, 3, 4, 1, 0) if a.ndim == 5 else a for name, a in variables.items()}
    load_tf_variables(model, {f"{name.replace('.', '/')}:0": array for name, array in variables.items()})

    del variables["generator.e3d-lstm.e3d1.hidden.gamma"]
    variables["generator.e3d-lstm.e3d9.hidden.gamma"] = np.zeros(4)
    variables["generator.e3d-lstm.conv3d.bias"] = np.zeros(3)
    before = model.decoder.bias.numpy()
    with pytest.raises(ValueError) as error:
        load_tf_variables(model, variables)
    for part in (
        "missing generator.e3d-lstm.e3d1.hidden.gamma",
        "unknown generator.e3d-lstm.e3d9.hidden.gamma",
        "generator.e3d-lstm.conv3d.bias has shape [3]",
    ):
        assert part in str(error.value)
    np.testing.assert_array_equal(model.decoder.bias.numpy(), before)


def test_a_program_of_ones_own_may_import_src_then_paddle_and_train():
    """As docs/flags.md shows; Paddle 2.6 crashed at src.trainer."""
    code = "import src\nimport paddle\nimport src.trainer\nprint('imported')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "imported", (result.returncode, result.stderr)


class Fed(UnrolledNetwork):
    """Decodes what it is fed by a 1 x 1 convolution, and keeps nothing."""

    def __init__(self, **settings):
        super().__init__(patch_channels=2, input_length=3, **settings)
        self.set_decoder(paddle.nn.Conv2D(2, self.decoder_channels, 1))

    def begin(self, batch, rows, columns, steps):
        return [], lambda frame, states: (self.decoder(frame), states)


@pytest.mark.parametrize("residual", [False, True, "gate"])
@pytest.mark.parametrize("center", [0, 3])
def test_what_is_fed_and_what_is_predicted_are_their_equations(residual, center):
    paddle.seed(0)
    model = Fed(residual=residual, center=center)
    model.decoder.weight.set_value(paddle.randn(model.decoder.weight.shape))
    weight, bias = model.decoder.weight.numpy()[:, :, 0, 0], model.decoder.bias.numpy()
    frames = np.random.default_rng(0).random([2, 6, 3, 4, 2], np.float32)
    flags = np.float32([[1, 0], [0, 0]])
    found = model(paddle.to_tensor(frames), paddle.to_tensor(flags)).numpy()

    y = frames[:, :3].mean(axis=1)
    prediction = None
    for t in range(5):
        flag = 1 if t < 3 else flags[:, t - 3].reshape([2, 1, 1, 1])
        x = frames[:, t] if t < 3 else flag * frames[:, t] + (1 - flag) * prediction
        decoded = ((x - y) * center if center else x) @ weight.T + bias
        prediction = plain_prediction(model, *(np.moveaxis(array, -1, 1) for array in (decoded, x, y)))
        prediction = np.moveaxis(prediction, 1, -1)
        np.testing.assert_allclose(found[:, t], prediction, rtol=1e-4, atol=1e-5)
