"""Checkpoints: ``<save_dir>/<iteration>/`` and ``<save_dir>/best/`` with model.safetensors, optimizer.safetensors (if
the optimizer has state), ema.safetensors (the moving average of the weights, with --ema) and state.json.

A checkpoint is written under another name beside it, flushed to disk, then renamed, and renamed before it is removed:
whenever the process is killed, what stands under a checkpoint's name is whole. No pickle is ever written or read:
``paddle.load`` runs code from its file.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import logging
import math
import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle
import safetensors
from paddle import nn

# safetensors.paddle does not work with Paddle 2.6; the numpy interface serves every version.
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from src.checkpoint_files import EMA_FILE, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, no_checkpoint, of_another_program
from src.checkpoints.optimizer_state import check_optimizer, optimizer_state
from src.checkpoints.state_file import DamagedCheckpoint, one_line, read_state, reason_of, write_state
from src.config import LATER_FLAGS, Config, check_same_network
from src.errors import UserError, WriteError
from src.runtime.files import PARTIAL, flush_directory, free_name, write_flushed
from src.utils.weight_average import WeightAverage

FILES = {MODEL_FILE, OPTIMIZER_FILE, EMA_FILE, STATE_FILE, STATE_FILE + PARTIAL}
ITERATION = re.compile("[1-9][0-9]*")
BEST = "best"
EARLIER = "earlier"  # of another test set, or kept as it holds a user's files
PREVIOUS = ".previous"  # the best checkpoint, in the moment when its place is taken
NAMES_SHOWN = 4
OF_BROWSERS = {".ipynb_checkpoints", ".DS_Store"}  # which Jupyter and file browsers leave in folders that are looked at

logger = logging.getLogger("e3d_lstm")


class Checkpoint(NamedTuple):
    """What a checkpoint holds, read and verified."""

    path: str
    state: dict[str, Any]
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]  # empty where it has no state
    average: dict[str, np.ndarray]  # of the weights; empty without --ema


def checkpoints(save_dir: str) -> list[int]:
    """Iterations of the checkpoints in save_dir, oldest first; empty where there is none."""
    return [n for n in numbered(save_dir) if os.path.isfile(os.path.join(save_dir, str(n), MODEL_FILE))]


def numbered(save_dir: str) -> list[int]:
    """What has the name of a checkpoint in save_dir, one of ours or not, oldest first; empty where there is none."""
    return sorted(int(name) for name in _names(save_dir) if ITERATION.fullmatch(name))


def ours(save_dir: str) -> list[int]:
    """Those that hold a file of a checkpoint of this program, whole or not, oldest first."""
    files = {MODEL_FILE, OPTIMIZER_FILE, STATE_FILE}
    return [number for number in numbered(save_dir) if files & set(_names(os.path.join(save_dir, str(number))))]


def foreign_files(directory: str) -> list[str]:
    """What a folder holds beside files of a checkpoint: where that is anything, the folder is a user's."""
    names = set(_names(directory)) - OF_BROWSERS
    return sorted(name for name in names if name not in FILES or os.path.isdir(os.path.join(directory, name)))


def is_removable(directory: str) -> bool:
    """Whether a folder is a checkpoint of this program with nothing else in it; any other is never removed.

    What marks it is a state.json with the flags and checksums that this program writes.
    """
    try:
        state = {} if foreign_files(directory) else read_state(directory, directory)
    except UserError:
        return False
    return {"iteration", "config", "sha256"} <= state.keys()


def save_checkpoint(
    config: Config,
    iteration: int,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    record: Mapping[str, Any] | None = None,
    average: WeightAverage | None = None,
) -> str:
    """Write ``<save_dir>/<iteration>/`` and return its path.

    Args:
        config: settings of the run; kept in state.json.
        iteration: iterations done.
        model: network; its state_dict is saved.
        optimizer: its state is saved where it has one (SGD has none).
        record: what else to keep in state.json: ``best``, the figures of the best test so far; ``tested``, the
            iteration of the last one; ``train_clips``, the size of the training set; ``ranks``, the processes of
            the job; ``loss_scale``, of a training in float16.
        average: of the weights, where the run keeps one.

    Raises:
        WriteError: the disk is full, save_dir cannot be written, or the checkpoint is there; what is there stays.
    """
    path = os.path.join(config.save_dir, str(iteration))
    if os.path.lexists(path):
        raise WriteError(f"--save_dir {config.save_dir}: {path} is there already; give another folder")
    try:
        os.rename(_write_partial(path, config, iteration, model, optimizer, record or {}, average), path)
        flush_directory(config.save_dir)
    except OSError as error:
        raise _unwritable(config, f"checkpoint {iteration}", error) from None
    return path


def save_best(
    config: Config,
    iteration: int,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    record: Mapping[str, Any],
    average: WeightAverage | None = None,
) -> str | None:
    """Put a checkpoint in the place of ``<save_dir>/best/`` unless what stands there is better.

    A run that went on from an older checkpoint may find a better one there, of iterations it has not reached again.

    Returns:
        its path, None where the one that stands there stays.

    Raises:
        WriteError: as from save_checkpoint.
    """
    path = os.path.join(config.save_dir, BEST)
    try:
        restore_best(config.save_dir)
        present = _best_of(path) if os.path.isdir(path) else None
        if present is not None and present.get("clips") != record["best"].get("clips"):
            move_aside(path, EARLIER)  # the best of other tests
        elif present is not None and is_better(present, record["best"]):
            return None
        partial = _write_partial(path, config, iteration, model, optimizer, record, average)
        if os.path.lexists(path) and not is_removable(path):
            move_aside(path, EARLIER)  # a user's files are in it
        # Two renames, as no system call in reach swaps folders; restore_best mends what a kill leaves between them.
        if os.path.lexists(path):
            os.rename(path, path + PREVIOUS)
        os.rename(partial, path)
        flush_directory(config.save_dir)
        shutil.rmtree(path + PREVIOUS, ignore_errors=True)
    except OSError as error:
        raise _unwritable(config, "the best checkpoint", error) from None
    return path


def move_aside(path: str, mark: str) -> str:
    """Rename a folder to ``<path>.<mark>-1`` (or a higher number that is free) and return that."""
    aside = free_name(path, mark)
    os.rename(path, aside)
    return aside


def is_better(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether a test's mean PSNR is above another's; None stands for a forecast without any error."""
    return _psnr(first) > _psnr(second)


def _psnr(figures: Mapping[str, Any]) -> float:
    return math.inf if figures["psnr"] is None else figures["psnr"]


def restore_best(save_dir: str) -> None:
    """Bring the best checkpoint back to its name where a kill came while its place was taken.

    Where the place is taken, the one before gets a name of its own: it may as well be a user's copy.
    """
    path = os.path.join(save_dir, BEST)
    if os.path.isdir(path + PREVIOUS):
        os.rename(path + PREVIOUS, free_name(path, EARLIER) if os.path.isdir(path) else path)


def remove_old(config: Config) -> None:
    """Remove all but the newest --keep_checkpoints checkpoints; the best is another folder and stays.

    Checkpoints of other programs, and those that hold a user's files too, stay and do not count.
    """
    if not config.keep_checkpoints:
        return
    try:
        paths = [os.path.join(config.save_dir, str(iteration)) for iteration in checkpoints(config.save_dir)]
        for path in [path for path in paths if is_removable(path)][: -config.keep_checkpoints]:
            if os.path.islink(path):  # kept elsewhere by the user: only the link goes
                os.remove(path)
                continue
            os.rename(path, path + PARTIAL)
            shutil.rmtree(path + PARTIAL)
    except OSError as error:
        logger.warning("old checkpoints cannot be removed (%s)", error)


def partial_folders(save_dir: str) -> list[str]:
    """What has the name of a checkpoint that is being written or removed."""
    names = [name for name in _names(save_dir) if name.endswith(PARTIAL)]
    stems = [name.removesuffix(PARTIAL) for name in sorted(names)]
    return [os.path.join(save_dir, stem + PARTIAL) for stem in stems if ITERATION.fullmatch(stem) or stem == BEST]


def check_not_foreign(save_dir: str) -> None:
    """Look for folders of a user where checkpoints are written and replaced.

    Raises:
        UserError: one of them.
    """
    best = os.path.join(save_dir, BEST)
    taken = [best] if os.path.isdir(best) and STATE_FILE not in _names(best) else []
    for path in [*partial_folders(save_dir), best + PREVIOUS, *taken]:
        if foreign_files(path):
            raise UserError(f"--save_dir {save_dir}: {_holds(path)}; move it away, or give another --save_dir")


def _holds(directory: str) -> str:
    return f"{directory} holds {', '.join(foreign_files(directory)[:NAMES_SHOWN])}, which is not of a checkpoint"


def remove_partial(save_dir: str, but: str = "") -> None:
    """Remove what a killed process left of checkpoints that it wrote or removed, ``but`` the one a user has named."""
    for path in partial_folders(save_dir):
        if path != os.path.normpath(but) and not foreign_files(path):
            shutil.rmtree(path, ignore_errors=True)


def record_test(directory: str, record: Mapping[str, Any]) -> None:
    """Write ``best`` and ``tested`` into a checkpoint saved before its test; state.json is old or new, never half.

    Raises:
        WriteError: the checkpoint's state.json cannot be written.
    """
    flag = f"--save_dir {directory}"
    try:
        state = read_state(flag, directory)
        if not state:
            raise WriteError(f"{flag}: {STATE_FILE} has gone")
        write_state(directory, {**state, **record})
    except OSError as error:
        raise WriteError(f"{flag}: {STATE_FILE} cannot be written ({reason_of(error)})") from None
    except UserError as error:
        raise WriteError(str(error)) from None


def read_checkpoint(flag: str, directory: str) -> Checkpoint:
    """Read and verify all that is needed to continue a run; ``flag`` begins the messages.

    Raises:
        UserError: no checkpoint there, or one that is damaged.
    """
    _check_directory(flag, directory)
    state = read_state(flag, directory)
    missing = [key for key in ("iteration", "config", "sha256") if key not in state]
    if missing:
        what = f"has no {missing[0]}" if state else "is missing"
        raise DamagedCheckpoint(f"{flag}: {STATE_FILE} {what}, so it cannot be continued; give another checkpoint")
    known = {field.name for field in dataclasses.fields(Config)}
    saved = {name: value for name, value in state["config"].items() if name in known}
    try:
        checked = dataclasses.asdict(Config(**saved))
    except UserError as error:
        raise DamagedCheckpoint(f"{flag}: {STATE_FILE} is damaged ({error}); give another checkpoint") from None
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
    parameters = dict(model.named_parameters())
    state: dict[str, Any] = {key: value for key, value in optimizer.state_dict().items() if key == "LR_Scheduler"}
    for name, array in checkpoint.optimizer.items():
        owner, _, accumulator = name.partition(":")
        if owner not in parameters:
            raise UserError(f"--resume {checkpoint.path}: {OPTIMIZER_FILE} has {name}, which is not in the network")
        state[f"{parameters[owner].name}_{accumulator}"] = paddle.to_tensor(array)
    flag = f"--resume {checkpoint.path}"
    check_optimizer(f"{flag}: {OPTIMIZER_FILE}", checkpoint.optimizer, checkpoint.state, parameters, optimizer)
    if average and checkpoint.average:
        _check_weights(f"{flag}: {EMA_FILE}", model, checkpoint.average)
    _check_weights(flag, model, checkpoint.weights)
    _set_weights(model, checkpoint.weights)
    optimizer.set_state_dict(state)
    if average and checkpoint.average:
        average.restore(checkpoint.average)
    elif average:
        average.restart()


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


def _set_weights(model: nn.Layer, arrays: Mapping[str, np.ndarray]) -> None:
    for name, parameter in model.state_dict().items():
        parameter.set_value(arrays[name])


def _check_weights(flag: str, model: nn.Layer, arrays: Mapping[str, np.ndarray]) -> None:
    mismatches = _mismatches(model, arrays)
    if mismatches:
        raise UserError(f"{flag}: does not fit the network: {'; '.join(mismatches)}")


def _not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """The name of the first array that holds NaN or infinity; None where there is none."""
    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    return next((name for name, array in floats.items() if not np.isfinite(array).all()), None)


def _write_partial(
    path: str,
    config: Config,
    iteration: int,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    record: Mapping[str, Any],
    average: WeightAverage | None,
) -> str:
    """Write a checkpoint's files to ``<path>.partial``, flushed to disk, and return that; a failure leaves nothing."""
    partial = path + PARTIAL
    tensors = optimizer_state(model, optimizer)
    contents = {MODEL_FILE: to_bytes(_arrays(model.state_dict()))}
    if tensors:
        contents[OPTIMIZER_FILE] = to_bytes(tensors)
    if average:
        contents[EMA_FILE] = to_bytes(average.state())
    state = {
        "iteration": iteration,
        "config": dataclasses.asdict(config),
        **record,
        # No random state: weights aside, every draw is a function of the seed and the iteration.
        "versions": {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    if foreign_files(partial):
        raise FileExistsError(errno.EEXIST, _holds(partial))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)
        for name, content in contents.items():
            write_flushed(os.path.join(partial, name), content)
        write_state(partial, state)
        flush_directory(partial)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return partial


def _best_of(directory: str) -> Mapping[str, Any] | None:
    """The figures of the checkpoint in best/; None where they cannot be read."""
    try:
        return read_state(directory, directory).get("best")
    except UserError:
        return None


def _unwritable(config: Config, what: str, error: OSError) -> WriteError:
    return WriteError(
        f"--save_dir {config.save_dir}: {what} cannot be written ({reason_of(error)}); "
        "make room, or give another folder; older checkpoints are untouched"
    )


def _arrays(state_dict: Mapping[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in state_dict.items()}


def _check_directory(flag: str, directory: str) -> None:
    if not os.path.isdir(directory):
        raise UserError(f"{flag}: {no_checkpoint(directory, 'checkpoints/500')}")
    names = _names(directory, flag)
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
    if not FILES & set(names) and of_another_program(names):
        raise UserError(f"{flag}: {of_another_program(names)}")
    content = ", ".join(sorted(names)[:NAMES_SHOWN]) or "nothing"
    raise DamagedCheckpoint(f"{flag}: no {MODEL_FILE} in it (it holds {content}); give a checkpoint's directory")


def _read_tensors(flag: str, directory: str, name: str, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    try:
        with open(os.path.join(directory, name), "rb") as file:
            content = file.read()
        expected = state.get("sha256", {}).get(name)
        if expected is not None and hashlib.sha256(content).hexdigest() != expected:
            raise ValueError("its content is not what was written")
        return from_bytes(content)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{flag}: {name} is missing; give another checkpoint") from None
    except OSError as error:  # a permission, a network: the file may be whole
        raise UserError(f"{flag}: {name} cannot be read ({reason_of(error)})") from None
    # safetensors' own errors, and those of numpy on a header that lies about types and shapes.
    except (ValueError, KeyError, TypeError, MemoryError, safetensors.SafetensorError) as error:
        raise DamagedCheckpoint(f"{flag}: {name} is damaged ({one_line(error)}); give another checkpoint") from None


def _mismatches(model: nn.Layer, found: Mapping[str, np.ndarray]) -> list[str]:
    """What differs, a line for each flag that decides it, with one parameter as the example."""
    expected = model.state_dict()
    if len(_kinds(found) - _kinds(expected)) > len(_kinds(found)) / 2:  # no flag of one model makes so many
        unknown = sorted(found.keys() - expected.keys())
        return [f"--model_name differs ({unknown[0]} is not in the network, and {len(unknown) - 1} more)"]
    deciding_flag = getattr(model, "deciding_flag", lambda *_: "the network")
    by_flag: dict[str, list[str]] = {}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            by_flag.setdefault(deciding_flag(name), []).append(f"{name} is missing")
        elif name not in expected:
            by_flag.setdefault(deciding_flag(name), []).append(f"{name} is not in the network")
        elif list(found[name].shape) != list(expected[name].shape):
            there, here = list(found[name].shape), list(expected[name].shape)
            by_flag.setdefault(deciding_flag(name, there, here), []).append(f"{name} is {there} there, {here} here")
        elif found[name].dtype != np.float32:
            by_flag.setdefault("the type", []).append(f"{name} is {found[name].dtype}, expected float32")
    return [
        f"{flag} differs ({examples[0]}" + (f", and {len(examples) - 1} more)" if len(examples) > 1 else ")")
        for flag, examples in by_flag.items()
    ]


def _kinds(names: Iterable[str]) -> set[str]:
    """Names of parameters without the numbers of their layers."""
    return {re.sub(r"\d+", "", name) for name in names}


def _names(directory: str, flag: str = "") -> list[str]:
    """What a directory holds; nothing where there is none."""
    try:
        return os.listdir(directory) if os.path.isdir(directory) else []
    except OSError as error:
        raise UserError(f"{flag or directory}: cannot be read ({reason_of(error)}); check its permissions") from None
