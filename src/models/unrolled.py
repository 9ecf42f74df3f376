"""UnrolledNetwork: what the recurrent networks share, the loop over the frames of a clip, fed true or predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.utils import flatten, pack_sequence_as

from src.config import Config
from src.layers.precision import autocast, precision_in_force

# One step: a frame as patches [B, p*p*C, H/p, W/p] and the states -> the prediction of the next frame, the new states.
Step = Callable[[paddle.Tensor, Any], tuple[paddle.Tensor, Any]]


class UnrolledNetwork(nn.Layer):
    """A network that takes one frame at a time and predicts the next one. The weights are the same at every time step.

    A prediction is D(h), a decoder D of the last layer's hidden state h. With ``residual`` it is x + D(h), x the frame
    fed last, and D begins at 0: the untrained network repeats that frame.

    A subclass gives its decoder to :meth:`set_decoder`, makes its predictions with :meth:`prediction`, and has
    :meth:`begin`.

    Parameters:
        patch_channels (int): channels of a position, p*p*C.
        input_length (int): frames given; later ones are predictions where the flag is 0.
        residual (bool): whether the decoder's output is added to the frame fed last.
        recompute (bool): in training keep only the states of each step, and compute the rest of the step again in the
            backward pass: a third more time for a fraction of the memory.

    Inputs:
        - frames: float32 ``[B, T, H/p, W/p, p*p*C]``; B, T > input_length, H and W are free.
        - real_input_flag: ``[B, T-input_length-1]``, with three more axes that broadcast to a frame's, or without them.
          1 feeds the true frame, 0 the prediction of the step before. May be None when T = input_length + 1.

    Returns:
        predictions of the frames 1 .. T-1: float32 ``[B, T-1, H/p, W/p, p*p*C]``.

    Raises:
        ValueError: inputs of other shapes.
    """

    def __init__(self, patch_channels: int, input_length: int, residual: bool = False, recompute: bool = False) -> None:
        super().__init__()
        self.patch_channels = patch_channels
        self.input_length = input_length
        self.residual = residual
        self.recompute = recompute

    @classmethod
    def from_config(cls, config: Config, **more: Any) -> UnrolledNetwork:
        """The network of a run's flags; ``more`` are arguments that this class has and others have not."""
        return cls(
            patch_channels=config.patch_channels,
            hidden_sizes=config.hidden_sizes,
            filter_size=config.filter_size,
            input_length=config.input_length,
            residual=config.residual,
            recompute=config.recompute,
            **more,
        )

    def set_decoder(self, decoder: nn.Layer) -> None:
        """Take a layer whose bias ``[p*p*C]`` is that of the predictions as ``self.decoder``."""
        self.decoder = decoder
        if self.residual:
            decoder.weight.set_value(paddle.zeros_like(decoder.weight))

    def prediction(self, frame: paddle.Tensor, decoded: paddle.Tensor) -> paddle.Tensor:
        """The next frame, given the one fed last and what the decoder makes of it; ``[B, p*p*C, H/p, W/p]`` each."""
        return frame + decoded if self.residual else decoded

    def begin(self, batch: int, rows: int, columns: int, steps: int) -> tuple[Any, Step]:
        """The states before the first frame, and the function that takes a step.

        Args:
            batch, rows, columns: B, H/p and W/p.
            steps: how many will be taken.
        """
        raise NotImplementedError

    def begin_loop(self, batch: int, rows: int, columns: int) -> tuple[Any, Step]:
        """The same for a loop that stays one in an exported program: the states are tensors, or lists of them."""
        return self.begin(batch, rows, columns, steps=1)

    def start_at(self, brightness: Sequence[float]) -> None:
        """Begin predictions at a brightness instead of at black: the decoder's bias becomes it, a number a colour."""
        positions = self.patch_channels // len(brightness)  # of a patch; its channels are (py*p + px)*C + c
        self.decoder.bias.set_value(paddle.to_tensor(list(brightness) * positions, dtype="float32"))

    def forward(self, frames: paddle.Tensor, real_input_flag: paddle.Tensor | None = None) -> paddle.Tensor:
        flags = self._check_inputs(frames, real_input_flag)
        batch, length, rows, columns, _ = frames.shape
        frames = frames.transpose([1, 0, 4, 2, 3])  # (T, B, p*p*C, H/p, W/p)
        if flags is not None:  # all the products with true frames at once
            true_parts = paddle.unbind(flags * frames[self.input_length : -1])
            shares_of_predictions = paddle.unbind(1.0 - flags)
        frames = paddle.unbind(frames)
        states, step = self.begin(batch, rows, columns, length - 1)
        predictions = []
        for t in range(length - 1):
            frame = frames[t]
            if t >= self.input_length:
                k = t - self.input_length
                # The gradient flows through the prediction.
                frame = true_parts[k] + shares_of_predictions[k] * predictions[-1]
            prediction, states = step(frame, states)
            predictions.append(prediction)
        return paddle.stack(predictions, axis=1).transpose([0, 1, 3, 4, 2])

    def _check_inputs(self, frames: paddle.Tensor, real_input_flag: paddle.Tensor | None) -> paddle.Tensor | None:
        """Return the flags as ``[T-input_length-1, B, C, H, W]`` (broadcastable), the order of the unrolled loop."""
        if len(frames.shape) != 5 or frames.shape[4] != self.patch_channels:
            raise ValueError(
                f"frames must be [B, T, H/p, W/p, {self.patch_channels}] (see reshape_patch), got {list(frames.shape)}"
            )
        batch, length = frames.shape[:2]
        if length <= self.input_length:
            raise ValueError(f"frames hold {length} time steps, expected more than input_length = {self.input_length}")
        steps = length - self.input_length - 1
        if steps == 0:
            return None
        if real_input_flag is None or list(real_input_flag.shape[:2]) != [batch, steps]:
            found = None if real_input_flag is None else list(real_input_flag.shape)
            raise ValueError(f"real_input_flag: expected [B, T-input_length-1] = [{batch}, {steps}], ..., got {found}")
        if len(real_input_flag.shape) == 2:
            real_input_flag = real_input_flag.reshape([batch, steps, 1, 1, 1])
        return real_input_flag.astype(frames.dtype).transpose([1, 0, 4, 2, 3])


def recomputed(step: Callable[..., Any], *arguments: Any) -> list[paddle.Tensor]:
    """What ``step(*arguments)`` returns, computed again in the backward pass; all its tensors in a flat row.

    Paddle's recompute takes tensors in a flat row alone; the arguments may be lists and dictionaries of them.
    """
    precision = precision_in_force()  # the backward pass runs outside of autocast

    def run(*tensors: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        with autocast(precision):
            return tuple(flatten(step(*pack_sequence_as(list(arguments), tensors))))

    return list(recompute(run, *flatten(list(arguments))))
