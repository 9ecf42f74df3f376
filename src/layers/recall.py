"""RECALL(r, K) = softmax(score(r, K)) K within a bounded memory; the score is that of reference.py.

Its scores are a matrix of positions x history positions at each step. Kept for the backward pass they are the fastest
way, and take nearly all of the memory at 30 frames. If there is no room for them, the queries are taken in chunks, each
with a softmax of its own, and computed again in the backward pass. :func:`keeps_scores` decides.

A history is a list of keys ``[B, n, S]``, the oldest step first. If the scores are kept it holds one tensor, since the
gradients of many would have to be added up. Else it holds one for each step, which all the steps after it share.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from src.layers.precision import on_cpu
from src.runtime.device import memory_limit

Score = Callable[[paddle.Tensor, paddle.Tensor, int, int], paddle.Tensor]  # PlainEideticLSTMCell.score

# The share of the memory that a clip's tensors may take with their scores among them, and what a step of a layer keeps
# for the backward pass besides, in tensors of the size of a state: 110 with minimal filtering, 60 without.
ON_CPU, ON_CARD = (1 / 2, 110), (3 / 4, 60)
SCORES_AT_A_TIME = 2**24  # of a chunk, 67 MB; smaller ones take longer (benchmarks/README.md)


def keeps_scores(state: paddle.Tensor, steps: int, layers: int) -> bool:
    """Whether there is room for all the scores of a clip.

    Args:
        state: any of a layer, ``[B, 2n, H, W]``.
        steps: of the whole unrolled network.
        layers: how many it has.
    """
    if not paddle.in_dynamic_mode():  # a static graph can hold no PyLayer
        return True
    batch, _, rows, columns = state.shape
    scores = batch * (2 * rows * columns) ** 2 * steps * (steps + 1) // 2  # softmax keeps its result alone
    share, states = ON_CPU if on_cpu(state) else ON_CARD
    return 4 * (scores + states * state.size * steps) * layers <= share * memory_limit()


def remember(history: list[paddle.Tensor], cell: paddle.Tensor, keep: bool) -> list[paddle.Tensor]:
    """The history with one more cell ``[B, 2n, H, W]``; ``keep``: whether the scores are kept."""
    longer = [*history, by_position(cell)]
    return [paddle.concat(longer, axis=2)] if keep and len(longer) > 1 else longer


def recall(r: paddle.Tensor, history: list[paddle.Tensor], score: Score) -> paddle.Tensor:
    """Each position of r looks at every position of the history.

    Args:
        r: recall gate ``[B, 2n, H, W]``, a window in the layout of window_conv.py.
        history: see :func:`remember`.
        score: of the layer's cell.

    Returns:
        ``[B, 2n, H, W]``.
    """
    queries = by_position(r)
    if len(history) == 1:
        recalled = _attend(queries, history[0], score, 0, queries.shape[2])
    else:
        recalled = _RecallAgain.apply(queries, score, *history)
    return recalled.reshape(r.shape)


def by_position(window: paddle.Tensor) -> paddle.Tensor:
    """``[B, 2n, H, W]`` -> ``[B, n, P]``, P = 2*H*W."""
    return window.reshape([0, window.shape[1] // 2, -1])


def _attend(queries: paddle.Tensor, keys: paddle.Tensor, score: Score, first: int, positions: int) -> paddle.Tensor:
    weights = F.softmax(score(queries, keys, first, positions))  # (B, Q, S)
    return paddle.matmul(keys, weights, transpose_y=True)  # (B, n, Q)


class _RecallAgain(PyLayer):
    """Queries ``[B, n, P]`` and the keys of each step -> ``[B, n, P]``. Keeps its inputs alone."""

    @staticmethod
    def forward(ctx, queries, score, *history):
        ctx.score, ctx.constant = score, [tensor.stop_gradient for tensor in (queries, *history)]
        ctx.save_for_backward(queries, *history)
        keys, positions = paddle.concat(history, axis=2), queries.shape[2]
        chunks = [
            _attend(queries[:, :, start:stop], keys, score, start, positions) for start, stop in _chunks(queries, keys)
        ]
        return paddle.concat(chunks, axis=2)

    @staticmethod
    def backward(ctx, gradient):
        queries, *history = ctx.saved_tensor()
        positions, keys = queries.shape[2], _leaf(paddle.concat(history, axis=2))
        of_queries = []
        for start, stop in _chunks(queries, keys):
            chunk = _leaf(queries[:, :, start:stop])
            with paddle.enable_grad():
                recalled = _attend(chunk, keys, ctx.score, start, positions)
            recalled.backward(gradient[:, :, start:stop])  # that of keys, and of the score's parameters, adds up
            of_queries.append(chunk.grad)
        found = [paddle.concat(of_queries, axis=2), *paddle.split(keys.grad, len(history), axis=2)]
        return tuple(None if constant else f for f, constant in zip(found, ctx.constant))


def _chunks(queries: paddle.Tensor, keys: paddle.Tensor) -> list[tuple[int, int]]:
    """First query and the one after the last of each chunk."""
    positions = queries.shape[2]
    size = min(max(1, SCORES_AT_A_TIME // (keys.shape[0] * keys.shape[2])), positions)
    return [(start, min(start + size, positions)) for start in range(0, positions, size)]


def _leaf(x: paddle.Tensor) -> paddle.Tensor:
    """The same numbers as the leaf of a graph of its own."""
    x = x.detach()
    x.stop_gradient = False
    return x
