"""UnrolledNetwork: what the recurrent networks share, the loop over the frames of a clip, fed true or predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.utils import flatten, pack_sequence_as

from src.config import Config
from src.flag_values import GATE
from src.layers.precision import autocast, precision_in_force

# One step: what is fed, patches [B, p*p*C, H/p, W/p], and the states -> what the decoder makes of it, the new states.
Step = Callable[[paddle.Tensor, Any], tuple[paddle.Tensor, Any]]
GATE_START = 3.0  # score of the frame fed last before any training; 91 % of a prediction are that frame


class UnrolledNetwork(nn.Layer):
    """A network that takes one frame at a time and predicts the next one. The weights are the same at every time step.

    A prediction is D(h), a decoder D of the last layer's hidden state h. ``residual`` and ``center``, which the paper
    has not, change what is predicted and what is fed. With x the frame fed last, y the mean of the given frames:

        center 0:         the cells are fed x;            f = D(h)
        center s:         the cells are fed (x - y) s;    f = y + D(h) / s
        residual False:   f
        residual True:    x + D(h)
        residual "gate":  a x + b y + c f,  (a, b, c) = softmax(S(h)) of each pixel and colour

    The scores S are 3 p*p*C channels that the decoder has beside D. In D and S the weights begin at 0, the scores at
    (3, 0, 0): the untrained network repeats the frame fed last, with "gate" nearly so. A sum has to say the exact
    negative of a person to erase it; a gate closes. With ``center`` the cells see what moves, not how bright the
    background is, so the decoder makes a difference too: a frame that is brighter all over is forecast brighter all
    over. y is there before the first step: the given frames are.

    A subclass gives its decoder, with :attr:`decoder_channels`, to :meth:`set_decoder`, and has :meth:`begin`.

    Parameters:
        patch_channels (int): channels of a position, p*p*C.
        input_length (int): frames given; later ones are predictions where the flag is 0.
        residual (bool or "gate"): what a prediction is.
        center (float): 0, or what the difference from the mean is multiplied by.
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

    def __init__(
        self,
        patch_channels: int,
        input_length: int,
        residual: bool | str = False,
        recompute: bool = False,
        center: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_channels = patch_channels
        self.input_length = input_length
        self.residual = residual
        self.recompute = recompute
        self.center = center

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
            center=config.center,
            **more,
        )

    @property
    def decoder_channels(self) -> int:
        """Output channels of the decoder: those of D, with "gate" those of S after them."""
        return 4 * self.patch_channels if self.residual == GATE else self.patch_channels

    def set_decoder(self, decoder: nn.Layer) -> None:
        """Take a layer with a bias ``[decoder_channels]`` as ``self.decoder``."""
        self.decoder = decoder
        if self.residual:
            decoder.weight.set_value(paddle.zeros_like(decoder.weight))
        if self.residual == GATE:
            start = paddle.to_tensor([0.0, GATE_START, 0.0, 0.0]).repeat_interleave(self.patch_channels)
            decoder.bias.set_value(start)

    def fed(self, frame: paddle.Tensor, mean: paddle.Tensor | None) -> paddle.Tensor:
        """What the cells see of a frame, given the mean of the given frames (None if nothing asks for it),
        ``[B, p*p*C, H/p, W/p]`` each."""
        return (frame - mean) * self.center if self.center else frame

    def prediction(self, frame: paddle.Tensor, mean: paddle.Tensor | None, decoded: paddle.Tensor) -> paddle.Tensor:
        """The next frame, given the one fed last, the mean of the given frames, ``[B, p*p*C, H/p, W/p]`` each, and what
        the decoder makes of them, ``[B, decoder_channels, H/p, W/p]``."""
        if self.residual is True:
            return frame + decoded
        if self.residual == GATE:
            decoded, *scores = decoded.split(4, axis=1)
        if self.center:
            decoded = mean + decoded / self.center
        if self.residual == GATE:
            shares = F.softmax(paddle.stack(scores), axis=0)
            return shares[0] * frame + shares[1] * mean + shares[2] * decoded
        return decoded

    def begin(self, batch: int, rows: int, columns: int, steps: int) -> tuple[Any, Step]:
        """The states before the first frame, and the function that takes a step.

        In a static graph the steps stay one loop, so the states are lists of tensors, of lists and so on.

        Args:
            batch, rows, columns: B, H/p and W/p.
            steps: how many will be taken.
        """
        raise NotImplementedError

    def start_at(self, brightness: Sequence[float]) -> None:
        """Begin predictions at a brightness instead of at black: the decoder's bias becomes it, a number a colour."""
        positions = self.patch_channels // len(brightness)  # of a patch; its channels are (py*p + px)*C + c
        bias = self.decoder.bias.numpy()
        bias[: self.patch_channels] = list(brightness) * positions  # the scores of "gate" stay
        self.decoder.bias.set_value(bias)

    def forward(self, frames: paddle.Tensor, real_input_flag: paddle.Tensor | None = None) -> paddle.Tensor:
        flags = self._check_inputs(frames, real_input_flag)
        batch, length, rows, columns, _ = frames.shape
        frames = frames.transpose([1, 0, 4, 2, 3])  # (T, B, p*p*C, H/p, W/p)
        if flags is not None:  # all the products with true frames at once
            true_parts = paddle.unbind(flags * frames[self.input_length : -1])
            shares_of_predictions = paddle.unbind(1.0 - flags)
        is_used = self.residual == GATE or self.center
        mean = frames[: self.input_length].mean(axis=0) if is_used else None
        frames = paddle.unbind(frames)
        states, step = self.begin(batch, rows, columns, length - 1)
        predictions = []
        for t in range(length - 1):
            frame = frames[t]
            if t >= self.input_length:
                k = t - self.input_length
                # The gradient flows through the prediction.
                frame = true_parts[k] + shares_of_predictions[k] * predictions[-1]
            decoded, states = step(self.fed(frame, mean), states)
            predictions.append(self.prediction(frame, mean, decoded))
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
