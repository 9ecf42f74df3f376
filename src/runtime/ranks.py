"""Which process of a job this is: its rank.

``python -m paddle.distributed.launch`` starts one process for each GPU (or several on CPUs) and tells each by its
environment. This module does not import paddle, so what comes before paddle can ask it too.
"""

from __future__ import annotations

import os
from typing import TypeVar

Batch = TypeVar("Batch")  # list or numpy.ndarray: both have a length and slices


def rank() -> int:
    """Number of this process in the job, from 0; 0 where there is no job."""
    return int(os.environ.get("PADDLE_TRAINER_ID", 0)) if world_size() > 1 else 0


def world_size() -> int:
    """Processes of the job, on all its machines; 1 where no launcher has started this one.

    A shell's or a cluster's environment may hold the number without a launcher: the others would be waited for in vain.
    """
    return int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) if is_launched() else 1


def local_count() -> int:
    """Processes of the job on this machine."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", 1))


def is_first() -> bool:
    """Whether this is rank 0, the one that writes and prints."""
    return rank() == 0


def is_launched() -> bool:
    """Whether Paddle's launcher has started this process, be it the only one."""
    return "PADDLE_LOCAL_SIZE" in os.environ


def shard(batch: Batch) -> Batch:
    """This rank's part of the job's batch; the parts of all ranks, in order, are the whole."""
    size = len(batch) // world_size()
    return batch[rank() * size : (rank() + 1) * size]
