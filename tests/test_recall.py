"""Another score is a change at one place: the plain form, the blockwise form and the exported program follow it."""

import importlib
import weakref

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from scripts import export_model, predict_exported
from src.config import Config
from src.layers import recall as recall_module
from src.layers import rnn_cell
from src.layers.recall import History, by_position, plain_recall, recall, steps_back
from src.models.model_factory import build_model
from src.utils.preprocess import reshape_patch, reshape_patch_back
from tests.helpers import as_window, from_window

SHAPE = [2, 8, 2, 3, 2]  # of a cell
POSITIONS = 2 * 3 * 2
CELLS = 5
CUT = 3  # steps that the masked score looks back


def product(queries, keys):
    return paddle.matmul(queries, keys, transpose_x=True)


def scaled(queries, keys, newest):
    return product(queries, keys) / queries.shape[1] ** 0.5


def fading(queries, keys, newest):
    """The older, the less."""
    return product(queries, keys) - 0.7 * steps_back(queries, keys, newest).astype("float32")


def masked(queries, keys, newest):
    """The last steps alone."""
    scores = product(queries, keys)
    age = steps_back(queries, keys, newest).astype("float32")
    return paddle.where(age + 0 * scores > CUT, paddle.full_like(scores, float("-inf")), scores)


def bent(queries, keys, newest):
    """tanh keeps its result for its gradient."""
    return F.tanh(product(queries, keys) / 3)


def local(queries, keys, newest):
    """The nearer in the frame, the more."""
    positions = queries.shape[2]
    numbers = paddle.arange(positions, dtype="float32")
    distance = (numbers.unsqueeze(1) - numbers).abs()  # (P, P)
    scores = product(queries, keys)
    by_step = scores.reshape([0, 0, -1, positions]) - distance.unsqueeze(1)  # (B, P, steps, P)
    return by_step.reshape(paddle.shape(scores))


def in_numpy(name, queries, keys):
    """The same scores of a whole history ``[B, P, S]``, computed without the functions above."""
    scores = np.einsum("bnp,bns->bps", queries.astype("float64"), keys)
    number = np.arange(keys.shape[2])
    age = (keys.shape[2] // POSITIONS - number // POSITIONS)[None, None]
    if name == "scaled":
        return scores / np.sqrt(queries.shape[1])
    if name == "fading":
        return scores - 0.7 * age
    if name == "masked":
        return np.where(age > CUT, -np.inf, scores)
    if name == "bent":
        return np.tanh(scores / 3)
    return scores - np.abs(np.arange(POSITIONS)[:, None] - number % POSITIONS)


SCORES = {score.__name__: score for score in (scaled, fading, masked, bent, local)}


def change_score(monkeypatch, name, bound=float("inf")):
    """What the first lines of recall.py tell to change, and nothing else."""
    monkeypatch.setattr(recall_module, "score", SCORES[name])
    if bound is not None:
        monkeypatch.setattr(recall_module, "score_bound", lambda keys: bound)
    monkeypatch.setattr(recall_module, "SCORE_USES_POSITIONS", name == "local")


@pytest.fixture(params=["plain", "again", 1, 2, 100])
def empty_history(request, monkeypatch):
    """Of each form of the recall; in blocks one at a time, as on a CPU, or several, or all, as on a GPU."""
    if isinstance(request.param, str):
        return History(zeros=POSITIONS, form=request.param)
    if request.param > 1:
        monkeypatch.setattr(recall_module, "on_cpu", lambda x: False)
        monkeypatch.setattr(recall_module, "GPU_SCORES", request.param * SHAPE[0] * POSITIONS**2)
    return History(zeros=POSITIONS)


def query_and_cells():
    paddle.seed(1)
    r, *cells = tensors = [paddle.rand(SHAPE), *(paddle.randn(SHAPE) for _ in range(CELLS))]
    for tensor in tensors:
        tensor.stop_gradient = False
    return r, cells


def with_zero_state(cells):
    return paddle.concat([paddle.zeros([*SHAPE[:2], POSITIONS]), *(cell.flatten(2) for cell in cells)], axis=2)


@pytest.mark.parametrize("name", SCORES)
def test_the_plain_form_follows_the_score(monkeypatch, name):
    change_score(monkeypatch, name)
    r, cells = query_and_cells()
    keys = with_zero_state(cells)
    weights = np.exp(in_numpy(name, r.flatten(2).numpy(), keys.numpy()))
    expected = np.einsum("bps,bns->bnp", weights / weights.sum(axis=2, keepdims=True), keys.numpy())
    np.testing.assert_allclose(plain_recall(r.flatten(2), keys).numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bound", [10.0, float("inf")])  # without and with a search for the largest score
@pytest.mark.parametrize("name", SCORES)
def test_every_form_follows_the_score_forward_and_backward(monkeypatch, empty_history, name, bound):
    change_score(monkeypatch, name, bound)
    r, cells = query_and_cells()
    history = empty_history
    for cell in cells:
        history = history.append(as_window(cell))
    found = from_window(recall(as_window(r), history))
    expected = plain_recall(r.flatten(2), with_zero_state(cells)).reshape(SHAPE)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5)
    weights = paddle.randn(SHAPE)
    for one, other in zip(paddle.grad(found, [r, *cells], weights), paddle.grad(expected, [r, *cells], weights)):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=2e-5)
    monkeypatch.undo()
    usual = from_window(recall(as_window(r), history))
    assert np.abs(usual.numpy() - expected.numpy()).max() > 1e-2  # another score is another recall


def test_a_scale_needs_no_other_bound(monkeypatch):
    change_score(monkeypatch, "scaled", bound=None)
    r, cells = query_and_cells()
    history = History(zeros=POSITIONS).append(as_window(cells[0]))
    keys = with_zero_state(cells[:1])
    assert 0 < float(scaled(r.flatten(2), keys, 1).abs().max()) < history.score_bound
    expected = plain_recall(r.flatten(2), keys).reshape(SHAPE)
    found = from_window(recall(as_window(r), history))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5)


def small_network(**settings):
    config = Config(
        img_width=12, patch_size=4, num_hidden="6,6", filter_size=3, input_length=3, total_length=8, **settings
    )
    paddle.seed(2)
    return build_model(config), config


@pytest.mark.parametrize(("name", "recompute"), [("scaled", False), ("masked", True), ("local", False)])
def test_the_network_follows_the_score_forward_and_backward(monkeypatch, form, name, recompute):
    network, config = small_network(recompute=recompute)
    frames, flags = paddle.rand([2, 8, 3, 3, 16]), paddle.zeros([2, 4])

    def predictions_and_gradients():
        predictions = network(frames, flags)
        predictions.square().sum().backward()
        gradients = {key: parameter.grad.numpy() for key, parameter in network.named_parameters()}
        network.clear_gradients()
        return predictions.numpy(), gradients

    def plainly(r, history):
        if not history.blocks:
            return r * 0.0
        queries = by_position(r)
        zeros = paddle.zeros([*queries.shape[:2], history.zeros])
        return plain_recall(queries, paddle.concat([zeros, *history.blocks], axis=2)).reshape(r.shape)

    usual, _ = predictions_and_gradients()
    change_score(monkeypatch, name)
    found, gradients = predictions_and_gradients()
    monkeypatch.setattr(rnn_cell, "recall", plainly)
    expected, expected_gradients = predictions_and_gradients()
    assert np.abs(found - usual).max() > 1e-4
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    for key, gradient in gradients.items():
        largest = np.abs(expected_gradients[key]).max()
        np.testing.assert_allclose(gradient, expected_gradients[key], rtol=0, atol=1e-4 * largest, err_msg=key)


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="exporting needs Paddle 3")
@pytest.mark.parametrize("name", ["scaled", "masked", "local"])
def test_the_exported_program_follows_the_score(monkeypatch, tmp_path, name):
    network, config = small_network()
    network.eval()
    given = np.random.default_rng(3).random([2, 3, 12, 12, 1], np.float32)
    clip = np.concatenate([given, np.zeros([2, 5, 12, 12, 1], np.float32)], axis=1)

    def forecast():
        with paddle.no_grad():
            predictions = network(paddle.to_tensor(reshape_patch(clip, 4)), paddle.zeros([2, 4])).numpy()
        return reshape_patch_back(predictions[:, -5:], 4).clip(0, 1)

    usual = forecast()
    change_score(monkeypatch, name)
    # Paddle keeps each function that it has converted, with the module's names as they were at that time.
    functions = importlib.import_module("paddle.jit.dy2static.program_translator")._FUNCTION_CACHE
    monkeypatch.setattr(functions, "_converted_static_func_caches", weakref.WeakKeyDictionary())
    export_model.save_program(network, config, str(tmp_path / "model"))
    found, expected = predict_exported.predict(tmp_path, given), forecast()
    assert np.abs(found - usual).max() > 1e-4
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
