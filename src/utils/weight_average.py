"""WeightAverage: a moving average of the weights, for tests and forecasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import paddle
from paddle import nn


class WeightAverage:
    """An exponential moving average of a network's weights: smoother than the weights of any one iteration.

    After iteration t: average = d_t * average + (1 - d_t) * weights, d_t = min(decay, (1 + t) / (10 + t)). A constant
    decay of 0.999 would hold on to the random weights of the start for thousands of iterations; d_t is that of
    TensorFlow's ``ExponentialMovingAverage(decay, num_updates=t)``. (The official code keeps an average with decay
    0.9995 and never uses it.)

    Parameters:
        model (nn.Layer): network; the average begins at its present weights.
        decay (float): in (0, 1).
    """

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.decay = decay
        self.replaced: dict[str, np.ndarray] | None = None  # the network's own weights, until they are given back
        self._parameters = dict(model.named_parameters())
        self.restart()

    def restart(self) -> None:
        """Begin anew at the network's present weights."""
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @paddle.no_grad()
    def update(self, iteration: int) -> None:
        """Take in the weights after an iteration, counted from 1."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        for name, parameter in self._parameters.items():
            self._averages[name].add_((parameter - self._averages[name]) * (1 - decay))

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it the network computes with the average; after it with its own weights again."""
        self.replaced = {name: parameter.numpy() for name, parameter in self._parameters.items()}
        self._give(self.state())
        try:
            yield
        finally:
            self._give(self.replaced)
            self.replaced = None

    def state(self) -> dict[str, np.ndarray]:
        """The average of each parameter, by its name in the network."""
        return {name: average.numpy() for name, average in self._averages.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a :meth:`state`, whose names and shapes are the network's."""
        for name, average in self._averages.items():
            average.set_value(state[name])

    def _give(self, weights: Mapping[str, np.ndarray]) -> None:
        for name, parameter in self._parameters.items():
            parameter.set_value(weights[name])
