"""Data parallel: what the ranks of a job say to one another. With one process alone nothing is said.

Each rank has its part of the batch; gradients are averaged, so that N ranks with a batch of B do what one does with a
batch of N*B. Rank 0 alone writes. What one rank finds (a signal, a broken file) ends all of them, with one error.

The gradients are averaged at the end of the backward pass by Paddle's fused_allreduce_gradients, not in its course by
the hooks of paddle.DataParallel: unrolled over time, a weight's gradient is not complete before the very end, so there
is nothing to overlap, and Paddle 3.3.1's hooks end a backward pass with --recompute in an error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.base import core
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients
from paddle.distributed.parallel import sync_params_buffers

from src.errors import LostFile, UserError
from src.runtime import ranks
from src.runtime.device import ACCELERATORS
from src.runtime.signals import SIGNALS, Stopped, first_signal

BACKEND = "PADDLE_DISTRI_BACKEND"  # the variable in which Paddle looks for its name
CARDS = {kind: f"FLAGS_selected_{kind}s" for kind in ACCELERATORS}  # where the launcher notes a rank's card
ARRIVED = "e3d_lstm/arrived"
POLL = 0.005  # seconds between two looks at who has arrived
# Seconds to wait for the other ranks after a signal. The launcher kills 3 s after a rank's death, in which rank 0 is to
# write its checkpoint, and 30 s after it was told to stop itself.
PATIENCE, PATIENCE_FOR_CHECKPOINT = 1.0, 25.0
LAUNCHER_NOTICES = 10.0  # seconds until it ought to have seen a rank's death; it looks every 2

T = TypeVar("T")

_meetings = 0


class LostRank(UserError):
    """Another rank has ended, or cannot be reached."""


def own_device(device: str) -> str:
    """--device for this rank: the card that the launcher has given it, or cpu where it has given none.

    Raises:
        UserError: the flag names one card for several ranks.
    """
    kind, _, number = device.partition(":")
    if not ranks.is_launched() or (number and ranks.world_size() == 1):
        return device
    if number:
        raise UserError(
            f"--device {device}: is one card for {ranks.world_size()} processes; choose the cards by the launcher's "
            f"--{kind}s, as in python -m paddle.distributed.launch --{kind}s 0,1 runp.py, and leave --device out"
        )
    given = [card for card, variable in CARDS.items() if os.environ.get(variable)]
    if kind == "auto":
        kind = given[0] if given else "cpu"
    if kind in given:
        return f"{kind}:{os.environ[CARDS[kind]].split(',')[0]}"
    return kind


def start(device: str) -> None:
    """Meet the other ranks; ``device`` is the one that Paddle uses in this process."""
    if ranks.world_size() == 1:
        return
    if device == "cpu":
        os.environ[BACKEND] = "gloo"
    with _lost_rank():
        dist.init_parallel_env()


def on_rank_0(function: Callable[[], T]) -> T:
    """Have rank 0 do it; its result, or the error of a user, is that of every rank."""
    if ranks.world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if ranks.is_first():
        try:
            outcome[0] = function()
        except (UserError, Stopped) as error:
            outcome[1] = _packed(error)
    _meet()
    with _lost_rank():
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise _unpacked(*outcome[1])
    return outcome[0]


def on_every_rank(function: Callable[[], T]) -> T:
    """Do it on every rank; the error of a user, or a signal, that one finds is raised on all."""
    if ranks.world_size() == 1:
        return function()
    result, found = None, None
    try:
        result = function()
    except (UserError, Stopped) as error:
        found = error
    _meet()
    if any(_sum([found is not None])):
        packed = all_gather(_packed(found) if found is not None else None)
        errors = [_unpacked(*error) for error in packed if error is not None]
        # A fault of the run comes before a lost file, which may not end it, and both before a request to stop.
        worst = min(errors, key=lambda error: (isinstance(error, Stopped), isinstance(error, LostFile)))
        where = next(rank for rank, error in enumerate(packed) if error == _packed(worst))
        if where and not isinstance(worst, Stopped):
            worst = type(worst)(f"{worst} (on rank {where})")
        raise worst
    return result


def all_gather(value: T) -> list[T]:
    """The value of each rank, in order."""
    if ranks.world_size() == 1:
        return [value]
    values: list[T] = []
    _meet()
    with _lost_rank():
        dist.all_gather_object(values, value)
    return values


def all_reduce_gradients(parameters: Iterable[paddle.Tensor]) -> None:
    """Put the mean over the ranks in the place of each parameter's gradient."""
    if ranks.world_size() > 1:
        _meet()
        with _lost_rank():
            fused_allreduce_gradients(list(parameters), None)


def mean(value: float) -> float:
    """The mean over the ranks."""
    if ranks.world_size() == 1:
        return value
    _meet()
    return _sum([value])[0] / ranks.world_size()


def share_weights(model: nn.Layer) -> None:
    """Give every rank the weights of rank 0."""
    if ranks.world_size() > 1:
        _meet()
        with _lost_rank():
            sync_params_buffers(model)


def leave() -> None:
    """Wait until every rank is done: the launcher ends all of them soon after the first that has failed has left."""
    if ranks.world_size() == 1:
        return
    try:
        _meet(PATIENCE if ranks.is_first() else PATIENCE_FOR_CHECKPOINT)
        _sum([0])
    except Stopped:
        pass
    except LostRank:  # the launcher is to find the one that was lost, and to show its log, not this one's
        until = time.monotonic() + LAUNCHER_NOTICES
        while first_signal() is None and time.monotonic() < until:
            time.sleep(POLL)


def _sum(values: list[float]) -> list[float]:
    tensor = paddle.to_tensor([float(value) for value in values], dtype="float64")
    with _lost_rank():
        dist.all_reduce(tensor)
        return tensor.tolist()


def _meet(patience: float = PATIENCE) -> None:
    """Wait for the other ranks to come to this point, after a signal for no more than ``patience`` seconds.

    Gloo, the backend for CPUs, gives up for good where a rank comes 30 s after another, which a slow disk or a batch of
    a test may bring about; the launcher's store has no such limit. NCCL waits for half an hour.

    Raises:
        Stopped: a signal came, and others have not come since: one of them may be dead.
        LostRank: the store is gone, and with it rank 0.
    """
    global _meetings
    if os.environ.get(BACKEND) != "gloo":
        return
    _meetings += 1
    with _lost_rank():
        arrived = _arrived(1)
        while arrived < _meetings * ranks.world_size():  # nobody can come for the next time before all have come now
            request = first_signal()
            if request is not None and time.monotonic() > request.time + patience:
                raise Stopped(request.number)
            time.sleep(POLL)
            arrived = _arrived(0)


def _arrived(more: int) -> int:
    """How often ranks have arrived, all their meetings together, with ``more`` added."""
    # A signal in the middle of it would break the connection to the store.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return core.create_or_get_global_tcp_store().add(ARRIVED, more)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def _lost_rank() -> Iterator[None]:
    try:
        yield
    except (UserError, Stopped):
        raise
    except Exception as error:  # Paddle has many kinds
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise LostRank(
            f"rank {ranks.rank()} cannot reach another rank of the job, which has ended or has lost its network; its "
            f"log (workerlog.N in the launcher's --log_dir) tells why ({reason[0].strip()})"
        ) from None


def _packed(error: UserError | Stopped) -> tuple[str, Any]:
    if isinstance(error, Stopped):
        return "Stopped", error.number
    return ("LostFile" if isinstance(error, LostFile) else "UserError"), str(error)


def _unpacked(kind: str, content: Any) -> UserError | Stopped:
    return {"Stopped": Stopped, "LostFile": LostFile, "UserError": UserError}[kind](content)
