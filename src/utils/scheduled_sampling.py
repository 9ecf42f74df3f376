"""Scheduled sampling: true frames in place of predictions, less and less often.

Everything here is a function of the iteration (and the seed), so a run that is resumed needs no stored state.
"""

from __future__ import annotations

import numpy as np

from src.config import Config
from src.runtime import ranks

STREAM = 1  # keeps these draws apart from the data order's, which come from the same seed


def sampling_eta(config: Config, iteration: int) -> float:
    """Probability of feeding the true frame, in [0, 1]: start - rate * iteration before the stop, 0 from it on."""
    if not config.scheduled_sampling or iteration >= config.sampling_stop_iter:
        return 0.0
    return max(0.0, config.sampling_start_value - config.sampling_changing_rate * iteration)


def sampling_flags(config: Config, iteration: int, batch: int) -> np.ndarray:
    """real_input_flag of a training step: float32 ``[B, T-input_length-1, 1, 1, 1]``, 1 with probability eta each.

    With several ranks B is that of one, and each has its own draws: together those of one rank with all the clips.
    """
    steps = config.total_length - config.input_length - 1
    size = [batch * ranks.world_size(), steps, 1, 1, 1]
    draws = ranks.shard(np.random.default_rng([config.seed, STREAM, iteration]).random(size))
    return (draws < sampling_eta(config, iteration)).astype(np.float32)


def no_true_frames(config: Config, batch: int) -> np.ndarray:
    """real_input_flag of a test: every frame after the given ones is a prediction."""
    return np.zeros([batch, config.total_length - config.input_length - 1, 1, 1, 1], dtype=np.float32)
