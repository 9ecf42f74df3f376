"""The model against outputs and gradients of the official code (see tests/golden/README.md)."""

import json

import numpy as np
import paddle
import pytest

from src.layers.recall import keeps_scores, remember
from src.layers.reference import PlainEideticLSTMCell
from src.layers.rnn_cell import EideticLSTMCell
from src.utils.tf_weights import load_tf_variables, tf_parameters
from tests.conftest import load_golden, relative_l2
from tests.helpers import (
    GRADIENT_TOLERANCE,
    OFFICIAL_EPSILON,
    OUTPUT_TOLERANCE,
    as_window,
    from_window,
    kernel_to_tf,
    network_of,
    variables_of,
)


def to_paddle(array: np.ndarray) -> paddle.Tensor:
    """(b, window, rows, cols, c) -> [B, C, 2, H, W]."""
    return paddle.to_tensor(np.ascontiguousarray(array.transpose(0, 4, 1, 2, 3)))


def from_paddle(tensor: paddle.Tensor) -> np.ndarray:
    return tensor.numpy().transpose(0, 2, 3, 4, 1)


def fast_cell(cell, inputs, past):
    x, h, c, m = map(as_window, inputs)
    history = []
    for window in past:
        history = remember(history, as_window(window), keep=keeps_scores(c, len(past), 1))
    return [from_window(output) for output in cell(x, h, c, m, history)]


def plain_cell(cell, inputs, past):
    return cell(*inputs, paddle.concat([window.flatten(2) for window in past], axis=2))


@pytest.mark.device
@pytest.mark.parametrize("name", ["cell_small.npz", "cell_k5.npz"])
def test_a_cell_agrees_with_the_official_one_in_outputs_and_all_gradients(name, form):
    check_cell(name, EideticLSTMCell, fast_cell)


@pytest.mark.parametrize("name", ["cell_small.npz", "cell_k5.npz"])
def test_the_plain_cell_agrees_with_the_official_one_in_outputs_and_all_gradients(name):
    check_cell(name, PlainEideticLSTMCell, plain_cell)


def check_cell(name, cell_type, called):
    golden = load_golden(name)
    settings = json.loads(str(golden["config"]))
    cell = cell_type(settings["in_ch"], settings["hidden"], settings["filter"], norm_epsilon=OFFICIAL_EPSILON)
    load_tf_variables(cell, variables_of(golden))
    names = ("inputs", "hidden", "cell", "global_memory")
    inputs = [to_paddle(golden[f"in.{key}"]) for key in names]
    number = golden["in.eidetic_cell"].shape[1] // 2  # the history: windows one after the other
    past = [to_paddle(part) for part in np.split(golden["in.eidetic_cell"], number, axis=1)]
    for tensor in (*inputs, *past):
        tensor.stop_gradient = False

    scalar = 0.0
    for key, output in zip(("output", "new_cell", "new_global_memory"), called(cell, inputs, past)):
        np.testing.assert_allclose(from_paddle(output), golden[f"out.{key}"], rtol=0, atol=OUTPUT_TOLERANCE)
        scalar = scalar + (output * to_paddle(golden[f"weight.{key}"])).sum()
    scalar.backward()
    gradients = {key: from_paddle(tensor.grad) for key, tensor in zip(names, inputs)}
    gradients["eidetic_cell"] = np.concatenate([from_paddle(window.grad) for window in past], axis=1)
    for key, gradient in gradients.items():
        assert relative_l2(gradient, golden[f"grad_in.{key}"]) < GRADIENT_TOLERANCE, key
    for key, parameter in tf_parameters(cell).items():
        assert relative_l2(kernel_to_tf(parameter.grad.numpy()), golden[f"grad.{key}"]) < GRADIENT_TOLERANCE, key


@pytest.mark.device
@pytest.mark.parametrize("name", ["net_small.npz", "net_k5.npz", "net_rgb.npz"])
def test_the_network_agrees_with_the_official_one_in_predictions_loss_and_gradients(name, form):
    check_network(name, "e3d_lstm")


@pytest.mark.parametrize("name", ["net_small.npz", "net_k5.npz", "net_rgb.npz"])
def test_the_plain_network_agrees_with_the_official_one_in_predictions_loss_and_gradients(name):
    check_network(name, "e3d_lstm_plain")


def check_network(name, model_name):
    golden = load_golden(name)
    model, settings, patches = network_of(golden, model_name)

    predictions = model(paddle.to_tensor(patches), paddle.to_tensor(golden["real_input_token"]))
    np.testing.assert_allclose(predictions.numpy(), golden["gen_images"], rtol=0, atol=OUTPUT_TOLERANCE)
    forecast = predictions.numpy()[:, settings["input"] - 1 :]
    np.testing.assert_allclose(forecast, golden["out_ims"], rtol=0, atol=OUTPUT_TOLERANCE)

    difference = predictions - paddle.to_tensor(patches[:, 1:])
    loss = (difference**2).sum() / 2 + difference.abs().sum()
    assert float(loss) == pytest.approx(float(golden["loss"]), rel=1e-6)
    loss.backward()
    for key, parameter in tf_parameters(model).items():
        assert relative_l2(kernel_to_tf(parameter.grad.numpy()), golden[f"grad.{key}"]) < GRADIENT_TOLERANCE, key


@pytest.mark.device
@pytest.mark.parametrize("name", ["net_small.npz", "net_k5.npz", "net_rgb.npz"])
def test_testing_feeds_back_predictions_as_the_official_code_does(name):
    golden = load_golden(name)
    model, settings, patches = network_of(golden)
    steps = settings["total"] - settings["input"] - 1
    with paddle.no_grad():
        predictions = model(paddle.to_tensor(patches), paddle.zeros([settings["batch"], steps, 1, 1, 1]))
    forecast = predictions.numpy()[:, settings["input"] - 1 :]
    np.testing.assert_allclose(forecast, golden["out_ims_flag0"], rtol=0, atol=OUTPUT_TOLERANCE)
