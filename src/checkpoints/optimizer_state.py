"""The optimizer's part of a checkpoint: its tensors (of Adam, the accumulators), by names that do not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn

from src.errors import UserError


def optimizer_state(model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, np.ndarray]:
    """The optimizer's tensors, named <parameter in the network>:<accumulator>.

    Paddle names them after its own counters (conv3d_7.w_0_moment1_0), which depend on what was built before. What else
    its state_dict holds is the learning rate's schedule, a function of the iteration.
    """
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    tensors = {}
    for key, value in optimizer.state_dict().items():
        owner = next((own for own in names if key.startswith(f"{own}_")), None)
        if owner and isinstance(value, paddle.Tensor):
            tensors[f"{names[owner]}:{key[len(owner) + 1 :]}"] = np.ascontiguousarray(value.numpy())
    return tensors


def check_optimizer(
    flag: str,
    tensors: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
    parameters: Mapping[str, paddle.Tensor],
    optimizer: paddle.optimizer.Optimizer,
) -> None:
    """See that each parameter has the accumulators that this Paddle's optimizer keeps, which a first step shows.

    Args:
        flag: begins the message.
        tensors: of a checkpoint, as from :func:`optimizer_state`.
        state: its state.json.
        parameters: of the network, by name.
        optimizer: that is to go on with them.

    Raises:
        UserError: one is missing, or has another shape or type.
    """
    loss_scale = state.get("loss_scale") or {}
    if not tensors and loss_scale.get("skipped", -1) >= state["iteration"]:
        return  # in float16 every step may have been skipped so far
    probe = paddle.create_parameter([1, 2], "float32", default_initializer=nn.initializer.Constant(0.0))
    trial = type(optimizer)(parameters=[probe])
    probe.sum().backward()
    trial.step()
    kept = {key[len(probe.name) + 1 :]: value.numpy() for key, value in trial.state_dict().items()}
    for name, parameter in parameters.items():
        for accumulator, example in kept.items():
            shape = parameter.shape if example.shape == (1, 2) else list(example.shape)
            found = tensors.get(f"{name}:{accumulator}")
            there = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
            if there != f"is {example.dtype} {list(shape)}":
                raise UserError(
                    f"{flag}: {name}:{accumulator} {there}, expected {example.dtype} {list(shape)}; "
                    "give another checkpoint, or start a new run from its weights with --pretrained_model"
                )
