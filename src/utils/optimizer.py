"""--optimizer, --lr, --lr_schedule, --grad_clip, --weight_decay -> Paddle's optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import paddle

from src.config import Config
from src.flag_values import lr_cosine, lr_stages


def build_schedule(config: Config) -> paddle.optimizer.lr.LRScheduler:
    """The learning rate of each iteration; ``schedule.step(iteration - 1)`` before iteration 1, 2, ... sets it.

    The rate is a function of the iteration alone, so a run that is resumed needs no state of the schedule.
    """
    cosine = lr_cosine(config.lr_schedule)
    if cosine:
        return paddle.optimizer.lr.LambdaDecay(1.0, lambda done: cosine.rate(done + 1))
    stages = lr_stages(config.lr_schedule) or [(config.lr, config.max_iterations)]
    rates = [rate for rate, _ in stages]
    ends = list(itertools.accumulate(iterations for _, iterations in stages))
    return paddle.optimizer.lr.PiecewiseDecay(boundaries=ends, values=[*rates, rates[-1]])  # the last rate stays


def build_optimizer(
    config: Config, schedule: paddle.optimizer.lr.LRScheduler, parameters: Iterable[paddle.Tensor]
) -> paddle.optimizer.Optimizer:
    """The optimizer of a run, its learning rate taken from the schedule."""
    common = {
        "learning_rate": schedule,
        "parameters": list(parameters),
        # A number as weight_decay is Paddle's coupled L2 decay: its gradient is added to the loss's.
        "weight_decay": config.weight_decay,
        "grad_clip": paddle.nn.ClipGradByGlobalNorm(config.grad_clip) if config.grad_clip else None,
    }
    if config.optimizer == "adam":
        beta1, beta2 = map(float, config.betas.split(","))
        return paddle.optimizer.Adam(beta1=beta1, beta2=beta2, **common)
    return paddle.optimizer.SGD(**common)


def gradient_norm(parameters: Iterable[paddle.Tensor]) -> float:
    """Global L2 norm of the gradients, before --grad_clip."""
    squares = [parameter.grad.square().sum() for parameter in parameters if parameter.grad is not None]
    return float(paddle.add_n(squares).sqrt())
