"""The fast form against the plain one, src/layers/reference.py: the same numbers, outputs and gradients."""

import shutil

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from src.checkpoints.checkpoint import load_weights, save_checkpoint
from src.config import Config, check_same_network
from src.errors import UserError
from src.layers import rnn_cell
from src.layers.recall import by_position, keeps_scores, recall, remember
from src.layers.reference import GATES, PlainEideticLSTMCell
from src.layers.rnn_cell import EideticLSTMCell
from src.layers.window_conv import window_conv, window_kernel
from src.models.model_factory import build_model
from src.runtime import process_env
from tests.conftest import assert_same_weights, relative_l2, weights_of
from tests.helpers import as_window, from_window, gradients_of

SMALL = {"img_width": 24, "patch_size": 4, "num_hidden": "8,8", "filter_size": 3, "input_length": 3, "total_length": 9}


def both_forms(**settings):
    """The network and its plain form with the same parameters, none of them where it begins."""
    models = [build_model(Config(model_name=name, **{**SMALL, **settings})) for name in ("e3d_lstm", "e3d_lstm_plain")]
    paddle.seed(1)
    for parameter in models[0].parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    models[1].set_state_dict(models[0].state_dict())
    return models


@pytest.mark.device
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer_norm": False},
        {"residual": True, "norm_epsilon": 1},
        {"residual": "gate", "center": 3},
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_is_the_plain_one(settings, batch, form):
    model, plain = both_forms(**settings)
    rng = np.random.default_rng(0)
    frames = paddle.to_tensor(rng.random([batch, 9, 6, 5, 16], np.float32))
    flags = paddle.to_tensor(rng.integers(0, 2, [batch, 5, 1, 1, 1]).astype("float32"))
    found, expected = model(frames, flags), plain(frames, flags)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5)
    expected = gradients_of(plain, expected, frames)
    for name, gradient in gradients_of(model, found, frames).items():
        assert relative_l2(gradient, expected[name]) < 1e-4, name


def test_the_plain_form_says_what_it_has_not():
    for settings in ({"recompute": True}, {"precision": "bf16"}):
        with pytest.raises(UserError, match=f"--{next(iter(settings))} "):
            build_model(Config(model_name="e3d_lstm_plain", **SMALL, **settings))


def test_checkpoints_of_one_form_load_into_the_other(tmp_path):
    settings = {**SMALL, "save_dir": tmp_path}
    fast, plain = (Config(model_name=name, **settings) for name in ("e3d_lstm", "e3d_lstm_plain"))
    for made, loaded in ((fast, plain), (plain, fast)):
        models = [build_model(made), build_model(loaded)]
        path = save_checkpoint(made, 1, models[0], paddle.optimizer.SGD(parameters=models[0].parameters()))
        load_weights(models[1], path, loaded)
        assert_same_weights(*map(weights_of, models))
        shutil.rmtree(path)
    with pytest.raises(UserError, match="--model_name"):
        check_same_network("", {"model_name": "e3d_lstm"}, {"model_name": "conv_lstm"})


def test_computing_steps_again_changes_no_prediction_and_no_gradient(form):
    rng = np.random.default_rng(0)
    frames = paddle.to_tensor(rng.random([2, 9, 6, 6, 16], np.float32))
    flags = paddle.to_tensor(rng.integers(0, 2, [2, 5]).astype("float32"))
    found = []
    for again in (False, True):
        paddle.seed(0)
        model = build_model(Config(**SMALL, recompute=again))
        predictions = model(frames, flags)
        found.append((predictions.numpy(), gradients_of(model, predictions, frames)))
        assert model(frames[:1], flags[:1]).shape == [1, 8, 6, 6, 16]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        assert relative_l2(found[1][1][name], gradient) < 1e-5, name


@pytest.mark.parametrize("name", ["h", "x", "m"])
def test_a_gate_that_nothing_uses_changes_nothing_but_its_norm(monkeypatch, name):
    """The norms of W_h * h and W_m * m then differ in size, and a gate stands in one convolution alone."""
    monkeypatch.setitem(GATES, name, (*GATES[name], "unused"))
    agree(PlainEideticLSTMCell(3, 4, 3), EideticLSTMCell(3, 4, 3))


def test_a_gate_of_both_w_h_and_w_m_is_an_error(monkeypatch):
    monkeypatch.setitem(GATES, "m", (*GATES["m"], "o"))
    with pytest.raises(ValueError, match="GATES"):
        EideticLSTMCell(3, 4, 3)


def agree(plain, fast):
    """Outputs and gradients of the parameters of two cells with the same numbers."""
    paddle.seed(0)
    for parameter in plain.parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    fast.set_state_dict(plain.state_dict())
    x, h, c, m = (paddle.randn([2, channels, 2, 3, 5]) for channels in (3, 4, 4, 4))
    expected = plain(x, h, c, m, c.flatten(2))
    found = fast(*map(as_window, (x, h, c, m)), [by_position(as_window(c))])
    for one, other in zip(found, expected):
        np.testing.assert_allclose(from_window(one).numpy(), other.numpy(), rtol=0, atol=1e-5)
    for outputs in (expected, found):
        sum(output.square().sum() for output in outputs).backward()
    for (name, one), other in zip(fast.named_parameters(), plain.parameters()):
        assert relative_l2(one.grad.numpy(), other.grad.numpy()) < 1e-4, name


@pytest.mark.parametrize("at_a_time", [7, 100, 2**24])
@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])  # scores of units, tens and hundreds
def test_chunks_of_queries_are_softmax_attention_for_scores_of_any_size(monkeypatch, scale, at_a_time):
    monkeypatch.setattr("src.layers.recall.SCORES_AT_A_TIME", at_a_time * 2 * 24 * 4)
    cell = EideticLSTMCell(3, 16, 3)
    rng = np.random.default_rng(1)
    shape = [2, 16, 2, 4, 3]
    r = paddle.to_tensor(rng.random(shape, np.float32))
    cells = [paddle.to_tensor((rng.standard_normal(shape) * scale).astype("float32")) for _ in range(4)]
    weights = paddle.to_tensor(rng.random(shape, np.float32))
    for tensor in (r, *cells):
        tensor.stop_gradient = False
    history = []
    for one in cells:
        history = remember(history, as_window(one), keep=False)
    assert len(history) == 4
    ours = from_window(recall(as_window(r), history, cell.score))
    plain = cell.recall(r, paddle.concat([one.flatten(2) for one in cells], axis=2))
    assert relative_l2(ours.numpy(), plain.numpy()) < 1e-5
    for found, expected in zip(paddle.grad(ours, [r, *cells], weights), paddle.grad(plain, [r, *cells], weights)):
        assert relative_l2(found.numpy(), expected.numpy()) < 1e-4


@pytest.mark.parametrize("keep", [True, False])
def test_a_frozen_gate_or_history_has_no_gradient_and_does_no_harm(keep):
    score = EideticLSTMCell(3, 4, 3).score
    r, cell, zero = paddle.rand([1, 8, 3, 3]), paddle.randn([1, 8, 3, 3]), paddle.zeros([1, 8, 3, 3])
    r.stop_gradient = cell.stop_gradient = False

    def recalled(r, cell):
        return recall(r, remember(remember([], zero, keep), cell, keep), score)

    whole = paddle.grad(recalled(r, cell), [r, cell])
    (for_r,) = paddle.grad(recalled(r, cell.detach()), [r])
    (for_cell,) = paddle.grad(recalled(r.detach(), cell), [cell])
    for one, other in zip(whole, (for_r, for_cell)):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("filtering", [True, False])
@pytest.mark.parametrize(("depth", "size"), [(2, 3), (2, 5), (2, 7), (2, 9), (1, 1)])
@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 4, 16), (3, 3, 5), (2, 2, 1)])
def test_a_window_convolution_is_conv3d_padded_after_it(monkeypatch, filtering, depth, size, batch, rows, columns):
    monkeypatch.setattr("src.layers.window_conv.FILTERING_FROM", 0 if filtering else float("inf"))
    paddle.seed(3)
    weight, x = paddle.randn([4, 6, depth, size, size]) * 0.1, paddle.randn([batch, 6, 2, rows, columns])
    weight.stop_gradient = x.stop_gradient = False
    kernel = window_kernel(weight, batch, rows, columns)
    assert isinstance(kernel, tuple) == (filtering and size in (3, 5, 7))
    ours, plain = from_window(window_conv(as_window(x), kernel)), F.conv3d(x, weight, padding="SAME")
    np.testing.assert_allclose(ours.numpy(), plain.numpy(), rtol=0, atol=1e-5)
    gradient = paddle.randn(ours.shape)
    for found, expected in zip(paddle.grad(ours, [x, weight], gradient), paddle.grad(plain, [x, weight], gradient)):
        assert relative_l2(found.numpy(), expected.numpy()) < 1e-5


def test_the_rounding_of_minimal_filtering_is_a_few_times_that_of_a_plain_sum():
    """At the full size: 64 channels, filter 5, a grid of 16 x 16."""
    paddle.seed(5)
    weight, x = paddle.randn([256, 64, 2, 5, 5]) * 0.02, paddle.randn([1, 64, 2, 16, 16])
    kernel = window_kernel(weight, 1, 16, 16)
    assert isinstance(kernel, tuple)
    exact = F.conv3d(x.astype("float64"), weight.astype("float64"), padding="SAME").numpy()
    assert relative_l2(from_window(window_conv(as_window(x), kernel)).numpy(), exact) < 2e-6


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
        outputs = cell(x, state, zeros, state, [by_position(zeros)])
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


@pytest.mark.parametrize(("gigabytes", "kept"), [(6, False), (24, True)])
def test_scores_are_kept_if_the_memory_that_is_there_has_room(monkeypatch, gigabytes, kept):
    """At the full size they take 3.65 GB, and what is kept besides 3.3 GB."""
    monkeypatch.setattr("src.layers.recall.memory_limit", lambda: gigabytes * 1e9)
    assert keeps_scores(paddle.zeros([2, 128, 16, 16]), 29, 4) == kept


def test_memory_is_that_of_the_container(tmp_path, monkeypatch):
    machine = process_env.machine_memory()
    assert 1e8 < machine < 1e14
    (tmp_path / "memory.max").write_text("123456789\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "memory.max").write_text("max\n")
    monkeypatch.setattr(process_env, "control_groups", lambda name: [tmp_path / "inner", tmp_path])
    assert process_env.machine_memory() == 123456789


def test_the_norms_epsilon_may_be_a_whole_number():
    x, state = paddle.randn([1, 6, 3, 3]), paddle.zeros([1, 8, 3, 3])
    cells = [EideticLSTMCell(3, 4, 3, norm_epsilon=epsilon) for epsilon in (1, 1.0)]
    cells[1].set_state_dict(cells[0].state_dict())
    one, other = (cell(x, state, state, state, [by_position(state)])[0].numpy() for cell in cells)
    np.testing.assert_array_equal(one, other)
    assert rnn_cell.GateOrder.of_tables().h == ("g", "o", "i", "r")
