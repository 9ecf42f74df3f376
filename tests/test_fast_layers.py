"""What is fast against what is plain: the same numbers, outputs and gradients."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from src.config import Config
from src.layers import recall as recall_module
from src.layers import window_conv as window_module
from src.layers.recall import SAFE_SCORE, History, recall, recall_form
from src.layers.window_conv import conv3d, window_conv, window_kernel
from src.models.model_factory import build_model
from src.utils.tf_weights import tf_parameters
from tests.conftest import load_golden, relative_l2
from tests.helpers import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    as_window,
    from_window,
    gradients_of,
    kernel_to_tf,
    network_of,
)
from tests.plain_e3d import plain_e3d
from tests.plain_e3d import recall as plain_recall


@pytest.mark.device
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_is_the_plain_one(layer_norm, batch, form):
    config = Config(
        img_width=24,
        patch_size=4,
        num_hidden="8,8",
        filter_size=3,
        input_length=3,
        total_length=9,
        layer_norm=layer_norm,
    )
    paddle.seed(0)
    model = build_model(config)
    rng = np.random.default_rng(0)
    frames = paddle.to_tensor(rng.random([batch, 9, 6, 5, 16], np.float32))
    flags = paddle.to_tensor(rng.integers(0, 2, [batch, 5, 1, 1, 1]).astype("float32"))
    ours, plain = model(frames, flags), plain_e3d(model, frames, flags)
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), rtol=0, atol=1e-5)
    expected = gradients_of(model, plain, frames)
    for name, found in gradients_of(model, ours, frames).items():
        assert relative_l2(found, expected[name]) < 1e-5, name


@pytest.mark.parametrize("name", ["net_small.npz", "net_k5.npz", "net_rgb.npz"])
def test_the_plain_network_agrees_with_the_official_one(name):
    golden = load_golden(name)
    model, _, patches = network_of(golden)
    patches = paddle.to_tensor(patches)
    predictions = plain_e3d(model, patches, paddle.to_tensor(golden["real_input_token"]))
    np.testing.assert_allclose(predictions.numpy(), golden["gen_images"], rtol=0, atol=OUTPUT_TOLERANCE)
    difference = predictions - patches[:, 1:]
    ((difference**2).sum() / 2 + difference.abs().sum()).backward()
    for key, parameter in tf_parameters(model).items():
        assert relative_l2(kernel_to_tf(parameter.grad.numpy()), golden[f"grad.{key}"]) < GRADIENT_TOLERANCE, key


def test_computing_steps_again_changes_no_prediction_and_no_gradient(form):
    settings = {
        "img_width": 24,
        "patch_size": 4,
        "num_hidden": "8,8",
        "filter_size": 3,
        "input_length": 3,
        "total_length": 9,
    }
    rng = np.random.default_rng(0)
    frames = paddle.to_tensor(rng.random([2, 9, 6, 6, 16], np.float32))
    flags = paddle.to_tensor(rng.integers(0, 2, [2, 5]).astype("float32"))
    found = []
    for again in (False, True):
        paddle.seed(0)
        model = build_model(Config(**settings, recompute=again))
        predictions = model(frames, flags)
        found.append((predictions.numpy(), gradients_of(model, predictions, frames)))
        assert model(frames[:1], flags[:1]).shape == [1, 8, 6, 6, 16]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        assert relative_l2(found[1][1][name], gradient) < 1e-5, name


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("zeros", [0, 24])
@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])  # scores of units, tens and hundreds
def test_recall_is_softmax_attention_for_scores_of_any_size(monkeypatch, scale, zeros, group):
    if group > 1:  # the way of the GPU
        monkeypatch.setattr("src.layers.recall.on_cpu", lambda x: False)
        monkeypatch.setattr("src.layers.recall.GPU_SCORES", group * 2 * 24**2)
    rng = np.random.default_rng(1)
    shape = [2, 16, 2, 4, 3]
    r = paddle.to_tensor(rng.random(shape, np.float32))
    cells = [paddle.to_tensor((rng.standard_normal(shape) * scale).astype("float32")) for _ in range(4)]
    weights = paddle.to_tensor(rng.random(shape, np.float32))
    tensors = [r, *cells]
    for tensor in tensors:
        tensor.stop_gradient = False
    history = History(zeros)
    for cell in cells:
        history = history.append(as_window(cell))
    assert history.score_bound is None if group > 1 else (history.score_bound < SAFE_SCORE) == (scale < 10)
    keys = paddle.concat([paddle.zeros([2, 16, zeros]), *(cell.flatten(2) for cell in cells)], axis=2)

    ours, plain = from_window(recall(as_window(r), history)), plain_recall(r, keys)
    assert relative_l2(ours.numpy(), plain.numpy()) < 1e-5
    for found, expected in zip(paddle.grad(ours, tensors, weights), paddle.grad(plain, tensors, weights)):
        assert relative_l2(found.numpy(), expected.numpy()) < 1e-4


def test_the_bound_of_the_scores_holds_and_is_reached():
    rng = np.random.default_rng(2)
    cell = rng.standard_normal([2, 5, 2, 3, 3]).astype("float32")
    history = History().append(paddle.to_tensor(as_window(cell)))
    keys = cell.reshape([2, 5, -1])
    largest = max(np.maximum(keys, 0).sum(axis=1).max(), np.maximum(-keys, 0).sum(axis=1).max())
    assert history.score_bound == pytest.approx(largest, rel=1e-5)
    assert history.append(paddle.to_tensor(as_window(cell) / 2)).score_bound == history.score_bound


def test_a_history_of_zeros_alone_recalls_zero():
    assert float(recall(paddle.rand([1, 8, 3, 3]), History(zeros=18)).abs().max()) == 0


def convolved(weight, x):
    """A window ``[B, C, 2, H, W]`` by the layer's own way."""
    kernel = window_kernel(weight, x.shape[0], *x.shape[3:])
    return from_window(window_conv(as_window(x), kernel))


@pytest.mark.parametrize("filtering", [True, False])
@pytest.mark.parametrize(
    ("filter_size", "rows", "columns"), [(1, 4, 4), (3, 2, 5), (5, 3, 3), (5, 4, 16), (7, 8, 2), (9, 3, 5)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_window_convolution_is_conv3d_padded_after_it(monkeypatch, filtering, filter_size, rows, columns, batch):
    monkeypatch.setattr(window_module, "FILTERING_FROM", 0 if filtering else float("inf"))
    monkeypatch.setattr(window_module, "FILTERING_COLUMNS", 0)
    paddle.seed(3)
    weight, x = conv3d(6, 4, (2, filter_size, filter_size)).weight, paddle.randn([batch, 6, 2, rows, columns])
    assert isinstance(window_kernel(weight, batch, rows, columns), tuple) == (filtering and filter_size > 1)
    x.stop_gradient = False
    ours, plain = convolved(weight, x), F.conv3d(x, weight, padding="SAME")
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), rtol=0, atol=1e-5)
    weights = paddle.randn(ours.shape)
    for found, expected in zip(paddle.grad(ours, [x, weight], weights), paddle.grad(plain, [x, weight], weights)):
        assert relative_l2(found.numpy(), expected.numpy()) < 1e-5


def test_a_kernel_of_one_frame_convolves_each_frame_of_a_window():
    weight, x = conv3d(6, 4, (1, 1, 1)).weight, paddle.randn([2, 6, 2, 5, 4])
    ours, plain = convolved(weight, x), F.conv3d(x, weight)
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), rtol=0, atol=1e-6)
    weights = paddle.randn(ours.shape)
    (found,), (expected,) = (paddle.grad(out, [weight], weights) for out in (ours, plain))
    assert relative_l2(found.numpy(), expected.numpy()) < 1e-5


def test_the_rounding_of_a_window_convolution_is_a_few_times_that_of_a_plain_sum():
    """At the full size: 64 channels, filter 5, a grid of 16 x 16."""
    paddle.seed(5)
    weight, x = conv3d(64, 256, (2, 5, 5)).weight, paddle.randn([1, 64, 2, 16, 16])
    assert isinstance(window_kernel(weight, 1, 16, 16), tuple)
    exact = F.conv3d(x.astype("float64"), weight.astype("float64"), padding="SAME").numpy()
    assert relative_l2(convolved(weight, x).numpy(), exact) < 2e-6


@pytest.mark.parametrize("filtering", [True, False])
def test_frozen_weights_and_inputs_have_no_gradient_and_do_no_harm(monkeypatch, filtering):
    monkeypatch.setattr(window_module, "FILTERING_FROM", 0 if filtering else float("inf"))
    monkeypatch.setattr(window_module, "FILTERING_COLUMNS", 0)
    weight, x = conv3d(6, 4, (2, 3, 3)).weight, paddle.randn([2, 6, 2, 5, 5])
    x.stop_gradient = False
    whole = paddle.grad(convolved(weight, x), [x, weight])
    (for_x,) = paddle.grad(convolved(weight.detach(), x), [x])
    (for_weight,) = paddle.grad(convolved(weight, x.detach()), [weight])
    for one, other in zip(whole, (for_x, for_weight)):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("name", ["plain", "again", "blocks"])
def test_a_frozen_gate_or_history_has_no_gradient_and_does_no_harm(name):
    r, cell = paddle.rand([1, 8, 3, 3]), paddle.randn([1, 8, 3, 3])
    r.stop_gradient = cell.stop_gradient = False
    history = History(zeros=18, form=name)
    whole = paddle.grad(recall(r, history.append(cell)), [r, cell])
    (for_r,) = paddle.grad(recall(r, history.append(cell.detach())), [r])
    (for_cell,) = paddle.grad(recall(r.detach(), history.append(cell)), [cell])
    for one, other in zip(whole, (for_r, for_cell)):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_scores_far_below_zero_are_a_softmax_too():
    r, cell = paddle.full([1, 4, 2, 3, 3], 0.9), paddle.full([1, 4, 2, 3, 3], -60.0) + paddle.rand([1, 4, 2, 3, 3])
    found = from_window(recall(as_window(r), History().append(as_window(cell))))
    assert relative_l2(found.numpy(), plain_recall(r, cell.flatten(2)).numpy()) < 1e-5


@pytest.mark.parametrize("layer_norm", [True, False])
def test_no_state_stands_for_zeros(layer_norm):
    """The first step multiplies no zeros: its predictions and gradients are those of states of zeros."""
    paddle.seed(0)
    cell = build_model(Config(num_hidden="6", filter_size=3, patch_size=2, layer_norm=layer_norm)).cells[0]
    for parameter in cell.parameters():  # shifts and biases begin at zero, which would hide a lost one
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    x, zeros = paddle.randn([2, 8, 3, 4]), paddle.zeros([2, 12, 3, 4])
    found = []
    for state in (None, zeros):
        outputs = cell(x, state, zeros, state, History(zeros=24))
        sum((output * output).sum() for output in outputs).backward()
        gradients = {name: parameter.grad for name, parameter in cell.named_parameters()}
        found.append((outputs, {name: None if g is None else g.numpy() for name, g in gradients.items()}))
        cell.clear_gradients()
    for one, other in zip(found[0][0], found[1][0]):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-6)
    for name, gradient in found[1][1].items():
        if found[0][1][name] is None:
            assert not gradient.any(), name
        else:
            np.testing.assert_allclose(found[0][1][name], gradient, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_form_of_the_recall_follows_the_size_and_the_device(monkeypatch):
    small, full, huge = (paddle.zeros(shape) for shape in ([1, 96, 8, 8], [2, 128, 16, 16], [4, 128, 32, 32]))
    assert [recall_form(state, 29, 4) for state in (small, full, huge)] == ["plain", "blocks", "blocks"]
    monkeypatch.setattr(recall_module, "on_cpu", lambda x: False)
    # The card's memory is not known here.
    assert [recall_form(state, 29, 4) for state in (small, full, huge)] == ["again", "again", "blocks"]
    for gigabytes, expected in ((6, "again"), (8, "plain")):  # 3.65 GB of scores, 1.83 GB besides
        monkeypatch.setattr(recall_module, "card_memory", lambda memory=gigabytes: memory * 1e9)
        assert recall_form(full, 29, 4) == expected
