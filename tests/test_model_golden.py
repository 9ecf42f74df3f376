"""The model against outputs and gradients of the official code (see tests/golden/README.md)."""

import json

import numpy as np
import paddle
import pytest

from src.layers.rnn_cell import EideticLSTMCell, History
from src.utils.tf_weights import load_tf_variables, tf_parameters
from tests.conftest import load_golden, relative_l2
from tests.helpers import GRADIENT_TOLERANCE, OFFICIAL_EPSILON, OUTPUT_TOLERANCE, kernel_to_tf, network_of, variables_of


def to_paddle(array: np.ndarray) -> paddle.Tensor:
    """(b, window, rows, cols, c) -> [B, C, 2, H, W]."""
    return paddle.to_tensor(np.ascontiguousarray(array.transpose(0, 4, 1, 2, 3)))


def from_paddle(tensor: paddle.Tensor) -> np.ndarray:
    return tensor.numpy().transpose(0, 2, 3, 4, 1)


@pytest.mark.parametrize("name", ["cell_small.npz", "cell_k5.npz"])
def test_a_cell_agrees_with_the_official_one_in_outputs_and_all_gradients(name):
    golden = load_golden(name)
    settings = json.loads(str(golden["config"]))
    cell = EideticLSTMCell(
        settings["in_ch"], settings["hidden"], settings["filter"], norm_epsilon=OFFICIAL_EPSILON
    )
    load_tf_variables(cell, variables_of(golden))
    names = ("inputs", "hidden", "cell", "global_memory", "eidetic_cell")
    inputs = {key: to_paddle(golden[f"in.{key}"]) for key in names}
    for tensor in inputs.values():
        tensor.stop_gradient = False

    outputs = cell(*(inputs[key] for key in names[:4]), History().append(inputs["eidetic_cell"]))

    scalar = 0.0
    for key, output in zip(("output", "new_cell", "new_global_memory"), outputs):
        np.testing.assert_allclose(from_paddle(output), golden[f"out.{key}"], rtol=0, atol=OUTPUT_TOLERANCE)
        scalar = scalar + (output * to_paddle(golden[f"weight.{key}"])).sum()
    scalar.backward()
    for key, tensor in inputs.items():
        assert relative_l2(from_paddle(tensor.grad), golden[f"grad_in.{key}"]) < GRADIENT_TOLERANCE, key
    for key, parameter in tf_parameters(cell).items():
        assert relative_l2(kernel_to_tf(parameter.grad.numpy()), golden[f"grad.{key}"]) < GRADIENT_TOLERANCE, key


@pytest.mark.parametrize("name", ["net_small.npz", "net_k5.npz", "net_rgb.npz"])
def test_the_network_agrees_with_the_official_one_in_predictions_loss_and_gradients(name):
    golden = load_golden(name)
    model, settings, patches = network_of(golden)

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


@pytest.mark.parametrize("name", ["net_small.npz", "net_k5.npz", "net_rgb.npz"])
def test_testing_feeds_back_predictions_as_the_official_code_does(name):
    golden = load_golden(name)
    model, settings, patches = network_of(golden)
    steps = settings["total"] - settings["input"] - 1
    with paddle.no_grad():
        predictions = model(paddle.to_tensor(patches), paddle.zeros([settings["batch"], steps, 1, 1, 1]))
    forecast = predictions.numpy()[:, settings["input"] - 1 :]
    np.testing.assert_allclose(forecast, golden["out_ims_flag0"], rtol=0, atol=OUTPUT_TOLERANCE)
