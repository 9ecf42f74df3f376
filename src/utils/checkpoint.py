"""Checkpoints: ``<save_dir>/<iteration>/`` with model.safetensors, optimizer.safetensors and state.json.

A checkpoint is written under another name beside it, flushed to disk, then renamed: whenever the process is killed,
what stands under a checkpoint's name is whole. No pickle is ever written or read: ``paddle.load`` runs code from its
file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
import safetensors
from paddle import nn

# safetensors.paddle does not work with Paddle 2.6; the numpy interface serves every version.
from safetensors.numpy import load_file, save_file

from src.config import Config
from src.errors import UserError

MODEL_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.json"
# The flags that decide which parameters a network has, and their meaning.
NETWORK_FLAGS = ("model_name", "num_hidden", "filter_size", "layer_norm", "patch_size", "img_channel")
NAMES_SHOWN = 4


def checkpoints(save_dir: str) -> list[int]:
    """Iterations of the checkpoints in save_dir, oldest first; empty where there is none."""
    if not os.path.isdir(save_dir):
        return []
    return sorted(
        int(name) for name in os.listdir(save_dir)
        if name.isdecimal() and os.path.isfile(os.path.join(save_dir, name, MODEL_FILE))
    )  # fmt: skip


def save_checkpoint(
    config: Config,
    iteration: int,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    best: Mapping[str, float] | None = None,
) -> str:
    """Write ``<save_dir>/<iteration>/`` and return its path.

    Args:
        config: settings of the run; kept in state.json.
        iteration: iterations done.
        model: network; its state_dict is saved.
        optimizer: its state is saved where it has one (SGD has none).
        best: figures of the best test so far.

    Raises:
        UserError: the disk is full, save_dir cannot be written or the checkpoint is there already; what is there stays.
    """
    path = os.path.join(config.save_dir, str(iteration))
    partial = f"{path}.partial"
    if os.path.lexists(path):
        raise UserError(f"--save_dir {config.save_dir}: {path} is there already; give another folder")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)
        tensors, scalars = _optimizer_state(model, optimizer)
        save_file(_arrays(model.state_dict()), os.path.join(partial, MODEL_FILE))
        if tensors:
            save_file(tensors, os.path.join(partial, OPTIMIZER_FILE))
        state = {
            "iteration": iteration,
            "config": dataclasses.asdict(config),
            "best": best,
            "optimizer": scalars,
            # No random state: weights aside, every draw is a function of the seed and the iteration.
            "versions": {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__},
            "sha256": {name: _sha256(os.path.join(partial, name)) for name in sorted(os.listdir(partial))},
        }
        _write_state(partial, state)
        for name in os.listdir(partial):
            _flush(os.path.join(partial, name))
        _flush(partial)
        os.rename(partial, path)
        _flush(config.save_dir)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--save_dir {config.save_dir}: checkpoint {iteration} cannot be written ({reason}); "
            "make room, or give another folder; older checkpoints are untouched"
        ) from None
    return path


def record_best(directory: str, best: Mapping[str, float]) -> None:
    """Write the best test so far into a checkpoint that was saved before its test; the file is old or new, never half.

    Raises:
        UserError: the checkpoint's state.json cannot be read or written.
    """
    state = _read_state(f"--save_dir {os.path.dirname(directory)}", directory)
    state["best"] = best
    try:
        _write_state(directory, state)
    except OSError as error:
        raise UserError(f"--save_dir {directory}: {STATE_FILE} cannot be written ({error.strerror})") from None


def load_weights(model: nn.Layer, directory: str, config: Config) -> dict[str, Any]:
    """Load a checkpoint's weights into the network.

    Args:
        model: network built from config.
        directory: ``<save_dir>/<iteration>``; a folder with model.safetensors alone will do.
        config: settings of this run, to name the flags that differ.

    Returns:
        the checkpoint's state.json, empty where it has none.

    Raises:
        UserError: no checkpoint there, a file that is damaged, or weights of another network (what differs, and the
            flag that decides it, are listed). The network is unchanged.
    """
    flag = f"--pretrained_model {directory}"
    _check_directory(flag, directory)
    state = _read_state(flag, directory)
    saved = state.get("config", {})
    differing = [name for name in NETWORK_FLAGS if name in saved and saved[name] != getattr(config, name)]
    if differing:
        there = ", ".join(f"--{name} {saved[name]}" for name in differing)
        here = ", ".join(f"--{name} {getattr(config, name)}" for name in differing)
        raise UserError(f"{flag}: is of another network, made with {there}; this run has {here}; give the same")
    arrays = _read_tensors(flag, directory, MODEL_FILE, state)
    expected = model.state_dict()
    mismatches = _mismatches(expected, arrays)
    if mismatches:
        raise UserError(f"{flag}: does not fit the network: {'; '.join(mismatches)}")
    for name, parameter in expected.items():
        parameter.set_value(arrays[name])
    return state


def _write_state(directory: str, state: Mapping[str, Any]) -> None:
    path = os.path.join(directory, STATE_FILE)
    with open(f"{path}.partial", "w", encoding="utf-8") as file:
        json.dump(state, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.partial", path)


def _arrays(state_dict: Mapping[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in state_dict.items()}


def _optimizer_state(
    model: nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The optimizer's tensors and its other values, by the parameters' names in the network.

    Paddle names them after its own counters (conv3d_7.w_0_moment1_0), which depend on what was built before.
    """
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    tensors, scalars = {}, {}
    for key, value in optimizer.state_dict().items():
        owner = next((own for own in names if key.startswith(f"{own}_")), None)
        name = f"{names[owner]}:{key[len(owner) + 1:]}" if owner else key
        if isinstance(value, paddle.Tensor):
            tensors[name] = np.ascontiguousarray(value.numpy())
        else:
            scalars[name] = value
    return tensors, scalars


def _check_directory(flag: str, directory: str) -> None:
    if not os.path.isdir(directory):
        raise UserError(f"{flag}: there is no such directory; give a checkpoint's directory, as checkpoints/500")
    if os.path.exists(os.path.join(directory, MODEL_FILE)):
        return  # whether it can be read shows when it is
    inside = checkpoints(directory)
    if inside:
        raise UserError(
            f"{flag}: holds the checkpoints {', '.join(map(str, inside))}; give one of them, "
            f"as {os.path.join(directory, str(inside[-1]))}"
        )
    content = ", ".join(sorted(os.listdir(directory))[:NAMES_SHOWN]) or "nothing"
    raise UserError(f"{flag}: no {MODEL_FILE} in it (it holds {content}); give a checkpoint's directory")


def _read_state(flag: str, directory: str) -> dict[str, Any]:
    path = os.path.join(directory, STATE_FILE)
    if not os.path.exists(path):  # weights that were converted from elsewhere
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        if not isinstance(state, dict) or not all(isinstance(state.get(key, {}), dict) for key in ("config", "sha256")):
            raise ValueError("not a checkpoint's state")
        if not isinstance(state.get("iteration", 0), int):
            raise ValueError("not a checkpoint's state")
        return state
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{flag}: {STATE_FILE} is damaged ({_line(error)}); give another checkpoint") from None


def _read_tensors(flag: str, directory: str, name: str, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    path = os.path.join(directory, name)
    try:
        expected = state.get("sha256", {}).get(name)
        if expected is not None and _sha256(path) != expected:
            raise ValueError("its content is not what was written")
        return load_file(path)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(f"{flag}: {name} is damaged ({_line(error)}); give another checkpoint") from None


def _mismatches(expected: Mapping[str, paddle.Tensor], found: Mapping[str, np.ndarray]) -> list[str]:
    """What differs, a line for each flag that decides it, with one parameter as the example."""
    by_flag: dict[str, list[str]] = {}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            by_flag.setdefault(_deciding_flag(name), []).append(f"{name} is missing")
        elif name not in expected:
            by_flag.setdefault(_deciding_flag(name), []).append(f"{name} is not in the network")
        elif list(found[name].shape) != list(expected[name].shape):
            there, here = list(found[name].shape), list(expected[name].shape)
            by_flag.setdefault(_deciding_flag(name, there, here), []).append(f"{name} is {there} there, {here} here")
        elif found[name].dtype != np.float32:
            by_flag.setdefault("the type", []).append(f"{name} is {found[name].dtype}, expected float32")
    return [
        f"{flag} differs ({examples[0]}" + (f", and {len(examples) - 1} more)" if len(examples) > 1 else ")")
        for flag, examples in by_flag.items()
    ]


def _deciding_flag(name: str, there: list[int] | None = None, here: list[int] | None = None) -> str:
    """The flag behind a parameter that is missing, unknown or of another shape."""
    if there is None:
        is_norm = ".norm_" in name or name.endswith(("conv_h.bias", "conv_x.bias", "conv_m.bias"))
        return "--layer_norm, or the number of layers in --num_hidden" if is_norm else "--num_hidden"
    if len(there) == 5 and there[3:] != here[3:]:
        return "--filter_size"
    if name.startswith("decoder") or (name == "cells.0.conv_x.weight" and there[0] == here[0]):
        return "--patch_size, --img_channel or --num_hidden"
    return "--num_hidden"


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: str) -> None:
    """Have the file's (or directory's) content reach the disk before what follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
