"""A checkpoint: ``<save_dir>/<iteration>/`` or ``<save_dir>/best/`` with model.safetensors, optimizer.safetensors (if
the optimizer has state), ema.safetensors (the moving average of the weights, with --ema) and state.json.

It is written under another name beside its place, flushed to disk, then renamed: whenever the process is killed, what
stands under a checkpoint's name is whole. No pickle is ever written or read: ``paddle.load`` runs code from its file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

# safetensors.paddle does not work with Paddle 2.6; the numpy interface serves every version.
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from src.checkpoint_files import (
    EMA_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    DamagedCheckpoint,
    no_checkpoint,
    of_another_program,
    read_state,
    reading,
)
from src.config import LATER_FLAGS, Config, check_same_network
from src.errors import UserError, WriteError, reason_of
from src.runtime.files import new_folder, partial_name, write_flushed
from src.utils.loss_scale import LossScale
from src.utils.weight_average import WeightAverage

# In the order in which they are removed: a folder without a model is none that is listed, and state.json marks it as
# the program's own to the last.
FILES = (MODEL_FILE, OPTIMIZER_FILE, EMA_FILE, partial_name(STATE_FILE), STATE_FILE)
NEEDED = {"iteration", "config", "sha256"}  # in state.json, to go on with a run
ITERATION = re.compile("[1-9][0-9]*")
PREVIOUS = ".previous"  # a checkpoint in the moment when its place is taken
NAMES_SHOWN = 4

logger = logging.getLogger("e3d_lstm")


class Checkpoint(NamedTuple):
    """What a checkpoint holds, read and verified."""

    path: str
    state: dict[str, Any]
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]  # empty where it has no state
    average: dict[str, np.ndarray]  # of the weights; empty without --ema


# ---- which there are


def names_in(directory: str, flag: str = "") -> list[str]:
    """What a folder holds; nothing where there is none.

    Raises:
        UserError: it cannot be read. The message begins with ``flag``.
    """
    try:
        return os.listdir(directory) if os.path.isdir(directory) else []
    except OSError as error:
        raise UserError(f"{flag or directory}: cannot be read ({reason_of(error)}); check its permissions") from None


def numbered(save_dir: str) -> list[int]:
    """What has a checkpoint's name in save_dir, of this program or not, oldest first; empty where there is none."""
    return sorted(int(name) for name in names_in(save_dir) if ITERATION.fullmatch(name))


def checkpoints(save_dir: str) -> list[int]:
    """Iterations of the checkpoints in save_dir, oldest first; empty where there is none."""
    return [n for n in numbered(save_dir) if os.path.isfile(os.path.join(save_dir, str(n), MODEL_FILE))]


def _check_directory(flag: str, directory: str) -> None:
    """Raises UserError with what is there, and what to give in its place, if it is no checkpoint's folder."""
    if not os.path.isdir(directory):
        raise UserError(f"{flag}: {no_checkpoint(directory, 'checkpoints/500')}")
    names = names_in(directory, flag)
    if os.path.exists(os.path.join(directory, MODEL_FILE)):
        return  # whether it can be read shows when it is
    numbers = list(map(str, checkpoints(directory)))
    others = sorted(name for name in names if not ITERATION.fullmatch(name) and "." not in name)
    others = [name for name in others if os.path.isfile(os.path.join(directory, name, MODEL_FILE))]  # best, say
    if numbers or others:
        shown = [*(["..."] if len(numbers) > NAMES_SHOWN else []), *numbers[-NAMES_SHOWN:], *others]
        raise UserError(
            f"{flag}: holds the checkpoints {', '.join(shown)}; give one of them, "
            f"as {os.path.join(directory, (numbers or others)[-1])}"
        )
    if of_another_program(names) and not set(FILES) & set(names):
        raise UserError(f"{flag}: {of_another_program(names)}")
    content = ", ".join(sorted(names)[:NAMES_SHOWN]) or "nothing"
    raise DamagedCheckpoint(f"{flag}: no {MODEL_FILE} in it (it holds {content}); give a checkpoint's directory")


# ---- write


def save_checkpoint(
    config: Config,
    iteration: int,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    record: Mapping[str, Any] | None = None,
    average: WeightAverage | None = None,
    name: str = "",
) -> str:
    """Write ``<save_dir>/<iteration>/`` and return its path.

    Args:
        config: settings of the run; kept in state.json.
        iteration: iterations done.
        model: network; its state_dict is saved.
        optimizer: its state is saved where it has one (SGD has none).
        record: what else to keep in state.json: ``best``, the figures of the best test so far; ``best_chosen_on``,
            the set of its clips; ``tested``, the iteration of the last one; ``train_clips``, the size of the training
            set; ``ranks``, the processes of the job; ``loss_scale``, of a training in float16.
        average: of the weights, where the run keeps one.
        name: in place of the iteration; what stands there is renamed to ``<name>.previous``.

    Raises:
        WriteError: the disk is full, save_dir cannot be written, or the checkpoint is there; what is there stays.
    """
    path = os.path.join(config.save_dir, name or str(iteration))
    if not name and os.path.lexists(path):
        raise WriteError(f"--save_dir {config.save_dir}: {path} is there already; give another folder")
    tensors = {
        MODEL_FILE: {key: tensor.numpy() for key, tensor in model.state_dict().items()},
        OPTIMIZER_FILE: _optimizer_state(model, optimizer),
        EMA_FILE: average.state() if average else {},
    }
    contents = {
        file: to_bytes({key: np.ascontiguousarray(array) for key, array in arrays.items()})
        for file, arrays in tensors.items()
        if arrays
    }
    state = {
        "iteration": iteration,
        "config": dataclasses.asdict(config),
        **(record or {}),
        # No random state: weights aside, every draw is a function of the seed and the iteration.
        "versions": {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__},
        "sha256": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
    }
    contents[STATE_FILE] = state_json(state).encode()
    try:
        with new_folder(path) as folder:
            for file, content in contents.items():
                write_flushed(os.path.join(folder, file), content)
            # Two renames, as no system call in reach swaps folders; a kill between them is mended at the next start.
            if name and os.path.lexists(path):
                os.rename(path, path + PREVIOUS)
    except OSError as error:
        raise WriteError(
            f"--save_dir {config.save_dir}: {f'the {name} checkpoint' if name else f'checkpoint {iteration}'} cannot "
            f"be written ({reason_of(error)}); make room, or give another folder; older checkpoints are untouched"
        ) from None
    return path


def state_json(state: Mapping[str, Any]) -> str:
    """What state.json holds."""
    return json.dumps(state, indent=1, allow_nan=False)


def _optimizer_state(model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, np.ndarray]:
    """The optimizer's tensors (of Adam, the accumulators), named <parameter in the network>:<accumulator>.

    Paddle names them after its own counters (conv3d_7.w_0_moment1_0), which depend on what was built before. What else
    its state_dict holds is the learning rate's schedule, a function of the iteration.
    """
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    tensors = {}
    for key, value in optimizer.state_dict().items():
        owner = next((own for own in names if key.startswith(f"{own}_")), None)
        if owner and isinstance(value, paddle.Tensor):
            tensors[f"{names[owner]}:{key[len(owner) + 1 :]}"] = value.numpy()
    return tensors


# ---- read


def read_checkpoint(flag: str, directory: str) -> Checkpoint:
    """Read and verify all that is needed to continue a run; ``flag`` begins the messages.

    Raises:
        UserError: no checkpoint there, or one that is damaged.
    """
    _check_directory(flag, directory)
    state = read_state(flag, directory)
    with reading(flag, STATE_FILE):
        if not state:
            raise FileNotFoundError
        missing = sorted(NEEDED - state.keys())
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        LossScale(**(state.get("loss_scale") or {}))
        known = {field.name for field in dataclasses.fields(Config)}
        saved = {name: value for name, value in state["config"].items() if name in known}
        checked = dataclasses.asdict(Config(**saved))
    state["config"] = {**LATER_FLAGS, **{name: checked[name] for name in saved}}
    weights = _read_tensors(flag, directory, MODEL_FILE, state)
    optimizer, average = (
        _read_tensors(flag, directory, name, state) if name in state["sha256"] else {}
        for name in (OPTIMIZER_FILE, EMA_FILE)
    )
    name = _not_finite(weights) or _not_finite(average)
    if name:
        raise DamagedCheckpoint(f"{flag}: {name} is not finite, so it cannot be continued; give another checkpoint")
    return Checkpoint(directory, state, weights, optimizer, average)


def _read_tensors(flag: str, directory: str, name: str, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    with reading(flag, name):
        with open(os.path.join(directory, name), "rb") as file:
            content = file.read()
        expected = state.get("sha256", {}).get(name)
        if expected is not None and hashlib.sha256(content).hexdigest() != expected:
            raise ValueError("its content is not what was written")
        return from_bytes(content)


def _not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """The name of the first array that holds NaN or infinity; None where there is none."""
    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    return next((name for name, array in floats.items() if not np.isfinite(array).all()), None)


# ---- use


def load_weights(model: nn.Layer, directory: str, config: Config) -> dict[str, Any]:
    """Load a checkpoint's weights into the network, or their moving average where it holds one.

    Args:
        model: network built from config.
        directory: ``<save_dir>/<iteration>``; a folder with model.safetensors alone will do.
        config: settings of this run, to name the flags that differ.

    Returns:
        the checkpoint's state.json, empty where it has none.

    Raises:
        UserError: no checkpoint there, a file that is damaged, weights that are not finite, or those of another network
            (what differs, and the flag that decides it, are listed). The network is unchanged.
    """
    flag = f"--pretrained_model {directory}"
    _check_directory(flag, directory)
    state = read_state(flag, directory)
    saved = state.get("config", {})
    check_same_network(flag, saved, dataclasses.asdict(config))
    averaged = EMA_FILE in state.get("sha256", {})
    arrays = _read_tensors(flag, directory, EMA_FILE if averaged else MODEL_FILE, state)
    _check_weights(flag, model, arrays)
    name = _not_finite(arrays)
    if name:
        what = f"{name} is not finite, so its training had diverged"
        raise UserError(f"{flag}: {what}; give an earlier checkpoint of it, or other weights")
    _set_weights(model, arrays)
    if averaged:
        logger.info("%s: the moving average of its weights is used (its run had --ema %s)", flag, saved.get("ema"))
    return state


def restore(
    checkpoint: Checkpoint,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    average: WeightAverage | None = None,
) -> None:
    """Give the network, the optimizer and the average the state they had when the checkpoint was written.

    An average that the checkpoint has none of begins at its weights.

    Raises:
        UserError: the weights, the optimizer's state or the average do not fit; the network is unchanged.
    """
    flag = f"--resume {checkpoint.path}"
    parameters = dict(model.named_parameters())
    _check_weights(flag, model, checkpoint.weights)
    _check_optimizer(f"{flag}: {OPTIMIZER_FILE}", checkpoint, parameters, optimizer)
    if average and checkpoint.average:
        _check_weights(f"{flag}: {EMA_FILE}", model, checkpoint.average)
    _set_weights(model, checkpoint.weights)
    state: dict[str, Any] = {key: value for key, value in optimizer.state_dict().items() if key == "LR_Scheduler"}
    for name, array in checkpoint.optimizer.items():
        owner, _, accumulator = name.partition(":")
        state[f"{parameters[owner].name}_{accumulator}"] = paddle.to_tensor(array)
    optimizer.set_state_dict(state)
    if average and checkpoint.average:
        average.restore(checkpoint.average)
    elif average:
        average.restart()


def _set_weights(model: nn.Layer, arrays: Mapping[str, np.ndarray]) -> None:
    for name, parameter in model.state_dict().items():
        parameter.set_value(arrays[name])


def _check_weights(flag: str, model: nn.Layer, found: Mapping[str, np.ndarray]) -> None:
    """Raises UserError with what differs: each flag that decides it, with one parameter as the example."""
    expected = model.state_dict()
    wrong = _mismatches({name: f"float32 {list(tensor.shape)}" for name, tensor in expected.items()}, found)
    if not wrong:
        return
    by_flag: dict[str, list[str]] = {}
    if len(_kinds(found) - _kinds(expected)) > len(_kinds(found)) / 2:  # no flag of one model makes so many
        by_flag["--model_name"] = [what for name, what in wrong.items() if name not in expected]
    else:
        deciding_flag = getattr(model, "deciding_flag", lambda *_: "the network")
        for name, what in wrong.items():
            shapes = [list(arrays[name].shape) for arrays in (found, expected) if name in arrays]
            is_type = len(shapes) == 2 and shapes[0] == shapes[1]
            decider = "the type" if is_type else deciding_flag(name, *(shapes if len(shapes) == 2 else ()))
            by_flag.setdefault(decider, []).append(what)
    differing = [
        f"{decider} differs ({examples[0]}" + (f", and {len(examples) - 1} more)" if len(examples) > 1 else ")")
        for decider, examples in by_flag.items()
    ]
    raise UserError(f"{flag}: does not fit the network: {'; '.join(differing)}")


def _mismatches(expected: Mapping[str, str], found: Mapping[str, np.ndarray]) -> dict[str, str]:
    """What is wrong with each array that is not of the type and shape expected under its name."""
    there = {name: f"{array.dtype} {list(array.shape)}" for name, array in found.items()}
    wrong = {name: f"{name} is not in the network" for name in there.keys() - expected.keys()}
    for name in expected:
        if there.get(name) != expected[name]:
            wrong[name] = f"{name} is {there.get(name, 'missing')}, expected {expected[name]}"
    return dict(sorted(wrong.items()))


def _kinds(names: Iterable[str]) -> set[str]:
    """Names of parameters without the numbers of their layers."""
    return {re.sub(r"\d+", "", name) for name in names}


def _check_optimizer(
    flag: str,
    checkpoint: Checkpoint,
    parameters: Mapping[str, paddle.Tensor],
    optimizer: paddle.optimizer.Optimizer,
) -> None:
    """Raises UserError unless each parameter has the accumulators that this Paddle's optimizer keeps."""
    loss_scale = checkpoint.state.get("loss_scale") or {}
    if not checkpoint.optimizer and loss_scale.get("skipped", -1) >= checkpoint.state["iteration"]:
        return  # in float16 every step may have been skipped so far
    # A first step of one like it shows what the optimizer keeps.
    probe = paddle.create_parameter([1, 2], "float32", default_initializer=nn.initializer.Constant(0.0))
    trial = type(optimizer)(parameters=[probe])
    probe.sum().backward()
    trial.step()
    kept = {key[len(probe.name) + 1 :]: value.numpy() for key, value in trial.state_dict().items()}
    expected = {}
    for name, parameter in parameters.items():
        for accumulator, example in kept.items():
            shape = parameter.shape if example.shape == (1, 2) else example.shape
            expected[f"{name}:{accumulator}"] = f"{example.dtype} {list(shape)}"
    # Another Paddle may have kept more of a parameter, which does no harm.
    used = {name for name in checkpoint.optimizer if name in expected or name.partition(":")[0] not in parameters}
    wrong = _mismatches(expected, {name: checkpoint.optimizer[name] for name in used})
    if wrong:
        advice = "give another checkpoint, or start a new run from its weights with --pretrained_model"
        raise UserError(f"{flag}: {next(iter(wrong.values()))}; {advice}")
