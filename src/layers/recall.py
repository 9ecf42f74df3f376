"""RECALL(r, K) = softmax(r K^T) K, the attention of the eidetic cell over its whole history.

:func:`plain_recall` is the equation. Its scores are a matrix of positions x history positions at each step. Kept for
the backward pass they take nearly all of the memory at 30 frames, so there are three ways, chosen by
:func:`recall_form`:

- "plain": the equation with its scores kept, where they are few or a GPU has room for them, and in the exported
  program. It has the fewest operators.
- "again": the equation, computed again in the backward pass, on a GPU.
- "blocks": one block of scores at a time, that of one step of the history (of several on a GPU). Numerator and
  denominator of the softmax are sums over the blocks, and the backward pass computes each block again. A CPU's cache
  holds a block.

To try another score (a scale, a bias, a mask), change these three, which stand together. All three ways and the
exported program follow, gradients included.

1. :func:`score`: any operations that Paddle can differentiate. A score of minus infinity masks a key; each query needs
   at least one key that is not masked.
2. :func:`score_bound`: what no score exceeds. A bound that is too small lets exp overflow; ``float("inf")`` is always
   right and costs three more passes over the scores: a maximum, and a subtraction forward and backward.
3. ``SCORE_USES_POSITIONS``: True if the score depends on where in the frame a key is.

A score with trained parameters of its own needs more, as they must become inputs of the blockwise form. The tests that
compare with the paper's score (the goldens and tests/test_fast_layers.py) fail after a change, as they should.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from src.layers.precision import on_cpu
from src.runtime.device import card_memory

SCORE_USES_POSITIONS = False  # then one key can stand for all positions of the zero state


def score(queries: paddle.Tensor, keys: paddle.Tensor, newest: int) -> paddle.Tensor:
    """How well each position of r matches each key: r K^T, with no 1/sqrt(n). The only place that says so.

    Args:
        queries: r ``[B, n, P]``, in (0, 1), its P = 2*H*W positions in the order window, row, column.
        keys: ``[B, n, S]``, whole steps of P positions, the oldest step first. Unless ``SCORE_USES_POSITIONS``, the
            zero state of step 0, the oldest of all, may be one key instead of P.
        newest: how many steps back the last of the keys is, 1 or more; :func:`steps_back` gives it for every key.

    Returns:
        ``[B, P, S]``.
    """
    return paddle.matmul(queries, keys, transpose_x=True)


def score_bound(keys: paddle.Tensor) -> float:
    """What no absolute score exceeds, for any r in (0, 1), these keys ``[B, n, P]`` and any ``newest``.

    Masked keys do not count. For r K^T it is the sum of a key's positive numbers, or of its negative ones if that is
    larger. It is called by "blocks" for the keys of each step on a CPU; on a GPU the largest score is always
    subtracted.
    """
    return float((keys.abs().sum(axis=1) + keys.sum(axis=1).abs()).max() / 2)


def steps_back(queries: paddle.Tensor, keys: paddle.Tensor, newest: int) -> paddle.Tensor:
    """How many steps before this one each key is from, int64 ``[S]``, for a :func:`score` that depends on it."""
    number = keys.shape[2] if paddle.in_dynamic_mode() else paddle.shape(keys)[2]  # free in a static graph
    return newest + paddle.arange(number - 1, -1, -1, dtype="int64") // queries.shape[2]


def plain_recall(queries: paddle.Tensor, keys: paddle.Tensor) -> paddle.Tensor:
    """softmax(score) K: the equation, all scores at once.

    Args:
        queries: r ``[B, n, P]``.
        keys: the whole history ``[B, n, S]``, the oldest step first.

    Returns:
        ``[B, n, P]``.
    """
    weights = F.softmax(score(queries, keys, newest=1))  # (B, P, S)
    return paddle.matmul(keys, weights, transpose_y=True)


# exp of a score above 88 overflows float32, one below -87 vanishes, and sums of thousands need room: where every score
# is sure to be within +-70, as in an untrained network, no maximum has to be subtracted first.
SAFE_SCORE = 70.0
CPU_KEPT_SCORES = 2**23  # of all the steps of a clip: what "plain" keeps of a layer in 32 MB
GPU_SHARE = 3 / 4  # of a card's memory that a clip's tensors may take with the scores of "plain" among them
STATES_A_CELL = 60  # what a step of a layer keeps for the backward pass besides, in tensors of the size of a state
GPU_SCORES = 2**26  # at a time on a GPU, 268 MB; with 128 pixels, patches of 8 and B = 4 a step of 64 frames


def recall_form(state: paddle.Tensor, steps: int, layers: int) -> str:
    """The form that is fastest within a bounded memory: plain, again or blocks.

    Args:
        state: any of a layer, ``[B, 2n, H, W]``.
        steps: of the whole unrolled network.
        layers: how many it has.
    """
    if not paddle.in_dynamic_mode():  # a static graph can hold no PyLayer
        return "plain"
    batch, _, rows, columns = state.shape
    scores = batch * (2 * rows * columns) ** 2  # of one step of the history
    kept = scores * steps * (steps + 1) // 2  # of all the steps of a layer
    if on_cpu(state):
        return "plain" if kept <= CPU_KEPT_SCORES else "blocks"
    besides = STATES_A_CELL * state.size * steps
    if 4 * (kept + besides) * layers <= GPU_SHARE * card_memory():  # of softmax in float32 only the result is kept
        return "plain"
    return "again" if scores * steps <= GPU_SCORES else "blocks"


class History:
    """A layer's cells of the steps before, as blocks of keys ``[B, n, P]``, one a step, the oldest first. In the form
    "plain" one block ``[B, n, S]`` holds them all.

    A history never changes: :meth:`append` makes a new one, so a step can be computed again in the backward pass.

    Parameters:
        zeros (int): positions of the history that are zero, as those of the state of step 0, which stay in it for good.
            They are older than all the blocks and stand in none of them, but in the one of "plain".
        form (str): of :func:`recall_form`.
    """

    def __init__(self, zeros: int = 0, form: str = "blocks") -> None:
        self.zeros, self.form = zeros, form
        self.blocks: list[paddle.Tensor] = []
        # What "blocks" needs beside them. The same numbers, without a gradient, and a row of ones below,
        # ``[B, n+1, P]``: with it the denominator of the softmax is part of the product that makes the numerator.
        self.values: list[paddle.Tensor] = []
        self.score_bound: float | None = 0.0  # the largest score_bound of the blocks; None: not known

    def append(self, cell: paddle.Tensor) -> History:
        """The history with one more cell ``[B, 2n, H, W]``, a window in the layout of window_conv.py."""
        keys = by_position(cell)  # (B, n, P)
        if self.form == "plain":  # one tensor that grows: the gradients of many would have to be added up
            return History(form="plain").with_blocks([_all_keys([*self.blocks, keys], self.zeros)])
        longer = self.with_blocks([*self.blocks, keys])
        if self.form != "blocks":
            return longer
        with paddle.no_grad():
            ones = paddle.ones([keys.shape[0], 1, keys.shape[2]], dtype=keys.dtype)
            longer.values = [*self.values, paddle.concat([keys, ones], axis=1)]
            if on_cpu(keys) and self.score_bound is not None:
                longer.score_bound = max(self.score_bound, score_bound(keys))
            else:  # to fetch a number from a GPU is to wait for all that it was given to do
                longer.score_bound = None
        return longer

    def with_blocks(self, blocks: list[paddle.Tensor]) -> History:
        """The same history in other tensors of the same values."""
        other = History(self.zeros, self.form)
        other.blocks, other.values, other.score_bound = blocks, self.values, self.score_bound
        return other


def recall(r: paddle.Tensor, history: History) -> paddle.Tensor:
    """RECALL(r, K): each position of r looks at every position of the history (equation 3 of the paper).

    One softmax over all positions in space, window and time.

    Args:
        r: recall gate ``[B, 2n, H, W]``, in (0, 1), a window in the layout of window_conv.py.
        history: the layer's cells of the steps before.

    Returns:
        ``[B, 2n, H, W]``.
    """
    if not history.blocks:
        return r * 0.0  # no constant: Paddle 2.6 fails at the gradient of a norm whose input has none
    queries = by_position(r)  # (B, n, P)
    if history.form == "plain":
        recalled = plain_recall(queries, history.blocks[0])
    elif history.form == "again":
        recalled = _RecallAgain.apply(queries, history.zeros, *history.blocks)
    else:
        recalled = _BlockwiseRecall.apply(queries, history, *history.blocks)
    return recalled.reshape(r.shape)


def by_position(window: paddle.Tensor) -> paddle.Tensor:
    """``[B, 2n, H, W]`` -> ``[B, n, P]``."""
    return window.reshape([0, window.shape[1] // 2, -1])


def _all_keys(blocks: Sequence[paddle.Tensor], zeros: int) -> paddle.Tensor:
    """``[B, n, S]``, the zero state's included."""
    if zeros:
        batch, n, _ = blocks[0].shape
        blocks = [paddle.zeros([batch, n, zeros], dtype=blocks[0].dtype), *blocks]
    return paddle.concat(blocks, axis=2) if len(blocks) > 1 else blocks[0]


class _RecallAgain(PyLayer):
    """Queries ``[B, n, P]``, the number of zeros, blocks of keys -> ``[B, n, P]``. Keeps its inputs alone."""

    @staticmethod
    def forward(ctx, queries, zeros, *blocks):
        ctx.constant = queries.stop_gradient, *(keys.stop_gradient for keys in blocks)
        ctx.zeros = zeros
        ctx.save_for_backward(queries, *blocks)
        return plain_recall(queries, _all_keys(blocks, zeros))

    @staticmethod
    def backward(ctx, gradient):
        queries, *blocks = ctx.saved_tensor()
        queries, keys = _leaf(queries), _leaf(_all_keys(blocks, ctx.zeros))
        with paddle.enable_grad():
            recalled = plain_recall(queries, keys)
        recalled.backward(gradient)
        sizes = [ctx.zeros] * (ctx.zeros > 0) + [block.shape[2] for block in blocks]
        key_gradients = paddle.split(keys.grad, sizes, axis=2)[-len(blocks) :]  # not that of the zero state
        found = [queries.grad, *key_gradients]
        return tuple(None if constant else f for f, constant in zip(found, ctx.constant))


class _BlockwiseRecall(PyLayer):
    """Queries ``[B, n, P]`` and a history; its blocks, as inputs that have a gradient -> ``[B, n, P]``."""

    @staticmethod
    def forward(ctx, queries, history, *blocks):
        ctx.constant = queries.stop_gradient, *(keys.stop_gradient for keys in blocks)
        ctx.values, ctx.zeros = history.values, history.zeros
        batch, n, positions = queries.shape
        total = paddle.zeros([batch, n + 1, positions], dtype=queries.dtype)  # numerator, and the denominator below it
        largest = None  # of each query's scores so far, (B, P, 1)
        if history.score_bound is None or history.score_bound >= SAFE_SCORE:
            largest = paddle.full([batch, positions, 1], -1e30, dtype=queries.dtype)  # finite: a block may be masked
        for keys, values, newest, _ in _grouped(blocks, ctx.values, ctx.zeros):
            scores = score(queries, keys, newest)  # (B, P, S)
            if largest is not None:
                before, largest = largest, paddle.maximum(largest, scores.max(axis=2, keepdim=True))
                total = total * (before - largest).exp().reshape([batch, 1, positions])
            total = total + paddle.matmul(values, _exp(scores, largest), transpose_y=True)  # (B, n+1, P)
        denominator = total[:, -1:]
        recalled = total[:, :-1] / denominator
        ctx.largest = largest
        ctx.save_for_backward(queries, denominator, recalled, *blocks)
        return recalled

    @staticmethod
    def backward(ctx, gradient):
        queries, denominator, recalled, *blocks = ctx.saved_tensor()
        # With A = softmax(S), S the scores: dS = A . (gradient K - (gradient . recalled)). The row of ones of the
        # values makes the subtraction part of the product.
        gradient = gradient / denominator
        both = paddle.concat([gradient, -(gradient * recalled).sum(axis=1, keepdim=True)], axis=1)  # (B, n+1, P)
        queries = _leaf(queries)
        key_gradients = []
        for keys, values, newest, sizes in _grouped(blocks, ctx.values, ctx.zeros):
            keys = _leaf(keys)
            with paddle.enable_grad():
                scores = score(queries, keys, newest)
            weights = _exp(scores.detach(), ctx.largest)
            scores.backward(paddle.matmul(both, values, transpose_x=True).multiply_(weights))  # queries.grad adds up
            key_gradient = paddle.matmul(gradient, weights).add_(keys.grad)  # through the values, through the scores
            key_gradients += paddle.split(key_gradient, sizes, axis=2) if len(sizes) > 1 else [key_gradient]
        found = [queries.grad, *key_gradients[-len(blocks) :]]  # not that of the zero state
        return tuple(None if constant else f for f, constant in zip(found, ctx.constant))


def _leaf(x: paddle.Tensor) -> paddle.Tensor:
    """The same numbers as the leaf of a graph of its own."""
    x = x.detach()
    x.stop_gradient = False
    return x


def _exp(scores: paddle.Tensor, largest: paddle.Tensor | None) -> paddle.Tensor:
    """exp(scores - largest); the scores stay as they are, their gradient may need them."""
    return scores.exp() if largest is None else (scores - largest).exp_()


def _grouped(
    blocks: Sequence[paddle.Tensor], values: Sequence[paddle.Tensor], zeros: int
) -> Iterator[tuple[paddle.Tensor, paddle.Tensor, int, list[int]]]:
    """Keys ``[B, n, S]``, values ``[B, n+1, S]``, the ``newest`` of :func:`score`, and the sizes of the blocks in it.

    One by one on a CPU, whose cache may hold the scores of one; several as one on a GPU.
    """
    batch, n, positions = blocks[0].shape
    size = 1 if on_cpu(blocks[0]) else max(1, GPU_SCORES // (batch * positions**2))
    if zeros:  # their scores are equal: one key will do for all, and counts as often in the denominator
        number = zeros if SCORE_USES_POSITIONS else 1
        keys = paddle.zeros([batch, n, number], dtype=blocks[0].dtype)
        count = paddle.full([batch, 1, number], zeros / number, dtype=keys.dtype)
        blocks, values = [keys, *blocks], [paddle.concat([keys, count], axis=1), *values]
    for start in range(0, len(blocks), size):
        stop = min(start + size, len(blocks))
        group = blocks[start:stop], values[start:stop]
        keys, ones_below = (tensors[0] if len(tensors) == 1 else paddle.concat(tensors, axis=2) for tensors in group)
        yield keys, ones_below, len(blocks) - stop + 1, [block.shape[2] for block in group[0]]
