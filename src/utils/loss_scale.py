"""LossScale: keeps the gradients of float16 convolutions in the range of float16."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import paddle

# Powers of two: to divide by them rounds nothing.
LARGEST, SMALLEST = 2.0**24, 2.0**-13
GROWTH_INTERVAL = 2000  # good steps in a row before the scale is doubled
PATIENCE = 20  # bad steps in a row that end a run whose scale can fall no further


@dataclass
class LossScale:
    """A factor on the loss, and so on every gradient, that follows what float16 can hold.

    A step whose gradients are not finite is to be skipped and halves the scale; many good ones in a row double it
    (Micikevicius et al., "Mixed Precision Training", ICLR 2018). paddle.amp.GradScaler does the same, but not on a CPU,
    has no smallest scale, prints to the terminal, and tells only in private attributes that it has skipped a step.

    Each decision follows from the gradients alone: ranks that have averaged theirs decide the same.

    Raises:
        ValueError: values that none can have, as a checkpoint may hold that was damaged.
    """

    value: float = 2.0**15
    good_steps: int = 0  # since the scale changed
    bad_steps: int = 0  # in a row
    skipped: int = 0  # in the whole run

    def __post_init__(self) -> None:
        counts = (self.good_steps, self.bad_steps, self.skipped)
        is_scale = isinstance(self.value, float) and SMALLEST <= self.value <= LARGEST
        if not (is_scale and math.frexp(self.value)[0] == 0.5 and all(type(n) is int and n >= 0 for n in counts)):
            raise ValueError(f"not a loss scale: {self}")

    @property
    def exhausted(self) -> bool:
        """Whether steps go on being skipped with the smallest scale."""
        return self.value == SMALLEST and self.bad_steps >= PATIENCE

    def backward(self, loss: paddle.Tensor, parameters: Sequence[paddle.Tensor]) -> None:
        """Leave the gradients of the loss, not of the scaled one, in the parameters."""
        (loss * self.value).backward()
        with paddle.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.scale_(1 / self.value)

    def update(self, finite: bool) -> None:
        """Take note of a step: of whether its gradients were finite."""
        if finite:
            self.good_steps, self.bad_steps = self.good_steps + 1, 0
            if self.good_steps == GROWTH_INTERVAL:
                self.value, self.good_steps = min(2 * self.value, LARGEST), 0
        else:
            self.value, self.good_steps = max(self.value / 2, SMALLEST), 0
            self.bad_steps, self.skipped = self.bad_steps + 1, self.skipped + 1
