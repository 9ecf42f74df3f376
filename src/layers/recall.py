"""RECALL(r, K) = softmax(r K^T) K, the attention of the eidetic cell over its whole history, in blocks.

Written plainly (two products, a softmax) the scores of a step are a matrix of positions x history positions, kept for
the backward pass: at 30 frames they take nearly all of the memory. Here there is one block of scores at a time, that of
one step of the history (of several on a GPU): the softmax is normalised after the product, as its numerator and
denominator are sums over the blocks, and the backward pass computes each block again.

To try another score (a scale, a bias, a mask), begin with the plain recall of benchmarks/plain_e3d.py: ``recall`` below
can be any function of r and ``history.blocks``. In this form the score stands in _largest_scores and twice in _Recall,
and the bound of History.append holds for r in (0, 1) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from src.layers.precision import on_cpu

# exp of a score above 88 overflows float32, one below -87 vanishes, and sums of thousands need room: where every score
# is sure to be within +-70, as in an untrained network, no maximum has to be found first.
SAFE_SCORE = 70.0
GPU_SCORES = 2**24  # at a time on a GPU, 67 MB: with 128 pixels, patches of 8 and B = 4 those of 16 steps


class History:
    """A layer's cells of the steps before, as blocks ``[B, n+1, P]``: a cell of P = 2*H*W positions, and a row of ones.

    The row of ones makes the softmax's denominator, and the subtraction of its maximum, part of the matrix products.

    A history never changes: :meth:`append` makes a new one, so a step can be computed again in the backward pass.

    Parameters:
        zeros (int): positions of the history that are zero, as those of the state of step 0, which stay in it for good.
            Their scores are 0: they need no products, they add to the denominator.
    """

    def __init__(self, zeros: int = 0) -> None:
        self.zeros = zeros
        self.blocks: list[paddle.Tensor] = []
        self.score_bound: float | None = 0.0  # of |r K^T| for any r in (0, 1); None: not known

    def append(self, cell: paddle.Tensor) -> History:
        """The history with one more cell ``[B, n, 2, H, W]``."""
        keys = cell.flatten(2)
        ones = paddle.ones([keys.shape[0], 1, keys.shape[2]], dtype=keys.dtype)
        longer = self.with_blocks([*self.blocks, paddle.concat([keys, ones], axis=1)])
        if on_cpu(keys) and self.score_bound is not None:
            with paddle.no_grad():  # the sum of a column's positive numbers, or of its negative ones if that is larger
                bound = (keys.abs().sum(axis=1) + keys.sum(axis=1).abs()).max() / 2
            longer.score_bound = max(self.score_bound, float(bound))
        else:  # to fetch a number from a GPU is to wait for all that it was given to do
            longer.score_bound = None
        return longer

    def with_blocks(self, blocks: list[paddle.Tensor]) -> History:
        """The same history in other tensors of the same values."""
        other = History(self.zeros)
        other.blocks, other.score_bound = blocks, self.score_bound
        return other


def recall(r: paddle.Tensor, history: History) -> paddle.Tensor:
    """RECALL(r, K): each position of r looks at every position of the history (equation 3 of the paper).

    One softmax over all positions in space, window and time, with no 1/sqrt(n).

    Args:
        r: recall gate ``[B, n, 2, H, W]``, in (0, 1).
        history: the layer's cells of the steps before.

    Returns:
        ``[B, n, 2, H, W]``.
    """
    if not history.blocks:
        return r * 0.0  # no constant: Paddle 2.6 fails at the gradient of a norm whose input has none
    queries = r.flatten(2)  # (B, n, P)
    if not paddle.in_dynamic_mode():
        return _plain_recall(queries, history).reshape(r.shape)
    if history.score_bound is not None and history.score_bound < SAFE_SCORE:
        shift = paddle.zeros_like(queries[:, :1])
    else:
        shift = -_largest_scores(queries, history)
    return _Recall.apply(queries, shift, history.zeros, *history.blocks).reshape(r.shape)


def _plain_recall(queries: paddle.Tensor, history: History) -> paddle.Tensor:
    """One softmax over all the scores at once, ``[B, n, P]``: in a static graph, which can hold no PyLayer."""
    keys = paddle.concat(history.blocks, axis=2)[:, :-1]
    keys = F.pad(keys, [0, history.zeros], data_format="NCL")
    weights = F.softmax(paddle.matmul(queries, keys, transpose_x=True))  # (B, P, P of the history)
    return paddle.matmul(keys, weights, transpose_y=True)


@paddle.no_grad()
def _largest_scores(queries: paddle.Tensor, history: History) -> paddle.Tensor:
    """The largest score of each query, ``[B, 1, P]``."""
    largest = [
        paddle.matmul(keys[:, :-1], queries, transpose_x=True).max(axis=1, keepdim=True)
        for keys, _ in _grouped(history.blocks)
    ]
    if history.zeros:
        largest.append(paddle.zeros_like(queries[:, :1]))
    return paddle.concat(largest, axis=1).max(axis=1, keepdim=True)


class _Recall(PyLayer):
    """Queries ``[B, n, P]``, what is added to their scores ``[B, 1, P]``, blocks of keys -> ``[B, n, P]``."""

    @staticmethod
    def forward(ctx, queries, shift, zeros, *blocks):
        ctx.constant = queries.stop_gradient, *(keys.stop_gradient for keys in blocks)
        queries = paddle.concat([queries, shift], axis=1)  # (B, n+1, P): the shift meets the row of ones of the keys
        total = paddle.zeros_like(queries)
        if zeros:  # shift <= 0 then: the maximum is not below their score
            total = paddle.concat([total[:, :-1], zeros * shift.exp()], axis=1)
        for keys, _ in _grouped(blocks):
            weights = paddle.matmul(queries, keys, transpose_x=True).exp_()  # (B, P, P of the history)
            total = total + paddle.matmul(keys, weights, transpose_y=True)  # (B, n+1, P)
        denominator = total[:, -1:]
        recalled = total[:, :-1] / denominator
        ctx.save_for_backward(queries, denominator, recalled, *blocks)
        return recalled

    @staticmethod
    def backward(ctx, gradient):
        queries, denominator, recalled, *blocks = ctx.saved_tensor()
        # With P = weights / denominator: dS = P . (gradient K - (gradient . recalled)), all in one product as above.
        gradient = gradient / denominator
        gradient = paddle.concat([gradient, -(gradient * recalled).sum(axis=1, keepdim=True)], axis=1)  # (B, n+1, P)
        query_gradient = 0.0
        key_gradients = []
        for keys, sizes in _grouped(blocks):
            weights = paddle.matmul(queries, keys, transpose_x=True).exp_()
            key_gradient = paddle.matmul(gradient, weights)  # through the values
            score_gradient = paddle.matmul(gradient, keys, transpose_x=True).multiply_(weights)
            key_gradient = key_gradient.add_(paddle.matmul(queries, score_gradient))  # through the scores
            query_gradient = query_gradient + paddle.matmul(keys, score_gradient, transpose_y=True)
            # The row of ones has no gradient; its row here is never looked at.
            key_gradients += paddle.split(key_gradient, sizes, axis=2) if len(sizes) > 1 else [key_gradient]
        found = [query_gradient[:, :-1], *key_gradients]
        query_gradient, *key_gradients = [None if not_wanted else f for f, not_wanted in zip(found, ctx.constant)]
        return query_gradient, None, *key_gradients


def _grouped(blocks: Sequence[paddle.Tensor]) -> Iterator[tuple[paddle.Tensor, list[int]]]:
    """The blocks and their sizes: one by one on a CPU, whose cache may hold one's scores; several as one on a GPU."""
    batch, _, positions = blocks[0].shape
    size = 1 if on_cpu(blocks[0]) else max(1, GPU_SCORES // (batch * positions**2))
    for start in range(0, len(blocks), size):
        group = list(blocks[start : start + size])
        keys = group[0] if len(group) == 1 else paddle.concat(group, axis=2)
        yield keys, [block.shape[2] for block in group]
