"""Another score is a change at one place, reference.py: every form of the recall and the exported program follow it."""

import importlib
import weakref

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from scripts import export_model, predict_exported
from src.config import Config
from src.layers.recall import recall, remember
from src.layers.reference import PlainEideticLSTMCell, steps_back
from src.layers.rnn_cell import EideticLSTMCell
from src.models.model_factory import build_model
from src.utils.preprocess import reshape_patch, reshape_patch_back
from tests.helpers import as_window, from_window

SHAPE = [2, 8, 2, 3, 2]  # of a cell
POSITIONS = 2 * 3 * 2
CELLS = 5
CUT = 3  # steps that the masked score looks back


def product(queries, keys):
    return paddle.matmul(queries, keys, transpose_x=True)


def fading(self, queries, keys, first, positions):
    """The older, the less."""
    return product(queries, keys) - 0.7 * steps_back(keys, positions).astype("float32")


def masked(self, queries, keys, first, positions):
    """The last steps alone."""
    return product(queries, keys) - 1e9 * (steps_back(keys, positions) > CUT).astype("float32")


def bent(self, queries, keys, first, positions):
    """tanh keeps its result for its gradient."""
    return F.tanh(product(queries, keys) / 3)


def local(self, queries, keys, first, positions):
    """The nearer in the frame, the more."""
    query = paddle.arange(first, first + queries.shape[2], dtype="float32").unsqueeze(1)
    key = (paddle.arange(0, steps_back(keys, positions).shape[0]) % positions).astype("float32")
    return product(queries, keys) - (query - key).abs()


def in_numpy(name, queries, keys):
    """The same scores of a whole history ``[B, P, S]``, computed without the functions above."""
    scores = np.einsum("bnp,bns->bps", queries.astype("float64"), keys)
    number = np.arange(keys.shape[2])
    age = (keys.shape[2] // POSITIONS - number // POSITIONS)[None, None]
    if name == "fading":
        return scores - 0.7 * age
    if name == "masked":
        return np.where(age > CUT, -np.inf, scores)
    if name == "bent":
        return np.tanh(scores / 3)
    return scores - np.abs(np.arange(POSITIONS)[:, None] - number % POSITIONS)


SCORES = {score.__name__: score for score in (fading, masked, bent, local)}


@pytest.mark.parametrize("chunk", [None, 1, 5, 100])  # queries; None: the scores are kept
@pytest.mark.parametrize("name", SCORES)
def test_every_form_follows_the_score_forward_and_backward(monkeypatch, name, chunk):
    monkeypatch.setattr(PlainEideticLSTMCell, "score", SCORES[name])
    cell = EideticLSTMCell(3, SHAPE[1], 3)
    paddle.seed(1)
    r, *cells = tensors = [paddle.rand(SHAPE), *(paddle.randn(SHAPE) for _ in range(CELLS))]
    for tensor in tensors:
        tensor.stop_gradient = False
    history = []
    for past in cells:
        history = remember(history, as_window(past), keep=chunk is None)
    monkeypatch.setattr("src.layers.recall.SCORES_AT_A_TIME", (chunk or 1) * SHAPE[0] * CELLS * POSITIONS)
    found = from_window(recall(as_window(r), history, cell.score))

    keys = paddle.concat([past.flatten(2) for past in cells], axis=2)
    weights = np.exp(in_numpy(name, r.flatten(2).numpy(), keys.numpy()))
    by_hand = np.einsum("bps,bns->bnp", weights / weights.sum(axis=2, keepdims=True), keys.numpy())
    np.testing.assert_allclose(found.flatten(2).numpy(), by_hand, rtol=0, atol=1e-5)
    plain, gradient = cell.recall(r, keys), paddle.randn(SHAPE)
    for one, other in zip(paddle.grad(found, tensors, gradient), paddle.grad(plain, tensors, gradient)):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=2e-5)


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="exporting needs Paddle 3")
@pytest.mark.parametrize("model_name", ["e3d_lstm", "e3d_lstm_plain"])
def test_the_exported_program_follows_the_score(monkeypatch, tmp_path, model_name):
    settings = {"img_width": 12, "patch_size": 4, "num_hidden": "6,6", "filter_size": 3}
    config = Config(model_name=model_name, input_length=3, total_length=8, **settings)
    paddle.seed(2)
    network = build_model(config)
    network.eval()
    given = np.random.default_rng(3).random([2, 3, 12, 12, 1], np.float32)
    clip = np.concatenate([given, np.zeros([2, 5, 12, 12, 1], np.float32)], axis=1)

    def forecast():
        with paddle.no_grad():
            predictions = network(paddle.to_tensor(reshape_patch(clip, 4)), paddle.zeros([2, 4])).numpy()
        return reshape_patch_back(predictions[:, -5:], 4).clip(0, 1)

    usual = forecast()
    monkeypatch.setattr(PlainEideticLSTMCell, "score", masked)
    # Paddle keeps each function that it has converted, with the module's names as they were at that time.
    functions = importlib.import_module("paddle.jit.dy2static.program_translator")._FUNCTION_CACHE
    monkeypatch.setattr(functions, "_converted_static_func_caches", weakref.WeakKeyDictionary())
    export_model.save_program(network, config, str(tmp_path / "model"))
    found, expected = predict_exported.predict(tmp_path, given), forecast()
    assert np.abs(found - usual).max() > 1e-4
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
