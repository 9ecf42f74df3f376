"""What is fast against what is plain: the same numbers, outputs and gradients."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from src.config import Config
from src.layers.recall import SAFE_SCORE, History, recall
from src.layers.window_conv import WindowConv
from src.models.model_factory import build_model
from src.utils.tf_weights import tf_parameters
from tests.conftest import load_golden, relative_l2
from tests.helpers import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, gradients_of, kernel_to_tf, network_of
from tests.plain_e3d import plain_e3d
from tests.plain_e3d import recall as plain_recall


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_is_the_plain_one(layer_norm, batch):
    config = Config(
        img_width=24, patch_size=4, num_hidden="8,8", filter_size=3, input_length=3, total_length=9,
        layer_norm=layer_norm,
    )  # fmt: skip
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


def test_computing_steps_again_changes_no_prediction_and_no_gradient():
    settings = {
        "img_width": 24, "patch_size": 4, "num_hidden": "8,8", "filter_size": 3, "input_length": 3, "total_length": 9,
    }  # fmt: skip
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
        history = history.append(cell)
    assert history.score_bound is None if group > 1 else (history.score_bound < SAFE_SCORE) == (scale < 10)
    keys = paddle.concat([paddle.zeros([2, 16, zeros]), *(cell.flatten(2) for cell in cells)], axis=2)

    ours, plain = recall(r, history), plain_recall(r, keys)
    assert relative_l2(ours.numpy(), plain.numpy()) < 1e-5
    for found, expected in zip(paddle.grad(ours, tensors, weights), paddle.grad(plain, tensors, weights)):
        assert relative_l2(found.numpy(), expected.numpy()) < 1e-4


def test_the_bound_of_the_scores_holds_and_is_reached():
    rng = np.random.default_rng(2)
    cell = rng.standard_normal([2, 5, 2, 3, 3]).astype("float32")
    history = History().append(paddle.to_tensor(cell))
    keys = cell.reshape([2, 5, -1])
    largest = max(np.maximum(keys, 0).sum(axis=1).max(), np.maximum(-keys, 0).sum(axis=1).max())
    assert history.score_bound == pytest.approx(largest, rel=1e-5)
    assert history.append(paddle.to_tensor(cell / 2)).score_bound == history.score_bound


def test_a_history_of_zeros_alone_recalls_zero():
    assert float(recall(paddle.rand([1, 4, 2, 3, 3]), History(zeros=18)).abs().max()) == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("filter_size", "rows", "columns"), [(1, 4, 4), (3, 2, 5), (5, 3, 3), (5, 4, 16), (7, 8, 2), (9, 3, 5)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_window_convolution_is_conv3d_padded_after_the_window(bias, filter_size, rows, columns, batch):
    paddle.seed(3)
    layer = WindowConv(6, 4, filter_size, bias)
    x = paddle.randn([batch, 6, 2, rows, columns])
    x.stop_gradient = False
    ours, plain = layer(x, layer.kernel_slices()), F.conv3d(x, layer.weight, layer.bias, padding="SAME")
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), rtol=0, atol=1e-5)
    wanted = [x, layer.weight] + ([layer.bias] if bias else [])
    weights = paddle.randn(ours.shape)
    for found, expected in zip(paddle.grad(ours, wanted, weights), paddle.grad(plain, wanted, weights)):
        assert relative_l2(found.numpy(), expected.numpy()) < 1e-5


def test_the_rounding_of_a_window_convolution_is_a_few_times_that_of_a_plain_sum():
    """At the full size: 64 channels, filter 5, a grid of 16 x 16."""
    paddle.seed(5)
    layer, x = WindowConv(64, 8, 5, bias=False), paddle.randn([1, 64, 2, 16, 16])
    exact = F.conv3d(x.astype("float64"), layer.weight.astype("float64"), padding="SAME").numpy()
    assert relative_l2(layer(x, layer.kernel_slices()).numpy(), exact) < 2e-6


def test_the_way_of_the_gpu_gives_the_same_window_convolution(monkeypatch):
    """On a GPU the library's conv2d is called; here it runs on the CPU."""
    layer, x = WindowConv(6, 4, 3), paddle.randn([2, 6, 2, 5, 5])
    x.stop_gradient = False
    expected = layer(x, layer.kernel_slices()).numpy()
    gradients = paddle.grad(layer(x, layer.kernel_slices()), [x, layer.weight])
    monkeypatch.setattr("src.layers.window_conv.on_cpu", lambda x: False)
    found = layer(x, layer.kernel_slices())
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)
    for one, other in zip(paddle.grad(found, [x, layer.weight]), gradients):
        assert relative_l2(one.numpy(), other.numpy()) < 1e-5


def test_frozen_weights_inputs_and_gates_have_no_gradient_and_do_no_harm():
    layer, x = WindowConv(6, 4, 3), paddle.randn([2, 6, 2, 5, 5])
    x.stop_gradient = False
    whole = paddle.grad(layer(x, layer.kernel_slices()), [x, layer.weight])
    (for_x,) = paddle.grad(layer(x, [piece.detach() for piece in layer.kernel_slices()]), [x])
    (for_weight,) = paddle.grad(layer(x.detach(), layer.kernel_slices()), [layer.weight])
    for one, other in zip(whole, (for_x, for_weight)):
        np.testing.assert_array_equal(one.numpy(), other.numpy())

    r, cell = paddle.rand([1, 4, 2, 3, 3]), paddle.randn([1, 4, 2, 3, 3])
    r.stop_gradient = cell.stop_gradient = False
    whole = paddle.grad(recall(r, History().append(cell)), [r, cell])
    (for_r,) = paddle.grad(recall(r, History().append(cell.detach())), [r])
    (for_cell,) = paddle.grad(recall(r.detach(), History().append(cell)), [cell])
    for one, other in zip(whole, (for_r, for_cell)):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_scores_far_below_zero_are_a_softmax_too():
    r, cell = paddle.full([1, 4, 2, 3, 3], 0.9), paddle.full([1, 4, 2, 3, 3], -60.0) + paddle.rand([1, 4, 2, 3, 3])
    found = recall(r, History().append(cell))
    assert relative_l2(found.numpy(), plain_recall(r, cell.flatten(2)).numpy()) < 1e-5


