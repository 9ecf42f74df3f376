"""state.json of a checkpoint: its iteration, flags, checksums, and what is known of tests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from src.checkpoint_files import STATE_FILE
from src.errors import UserError
from src.runtime.files import PARTIAL, write_flushed
from src.utils.loss_scale import is_scale

LARGEST = 2**63  # of numbers: those beyond are no counts and no figures, and overflow


class DamagedCheckpoint(UserError):
    """A checkpoint whose files are not what was written."""


def read_state(flag: str, directory: str) -> dict[str, Any]:
    """What a checkpoint's state.json holds, any part of which may be missing; empty where there is no such file.

    Raises:
        DamagedCheckpoint: the file does not hold a state. The message begins with ``flag``.
        UserError: it cannot be read.
    """
    path = os.path.join(directory, STATE_FILE)
    if not os.path.exists(path):  # weights that were converted from elsewhere
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file, parse_constant=_refuse_constant)
        if not _is_state(state):
            raise ValueError("not a checkpoint's state")
        return state
    except OSError as error:  # a permission, a network: the file may be whole
        raise UserError(f"{flag}: {STATE_FILE} cannot be read ({reason_of(error)})") from None
    except (ValueError, RecursionError) as error:
        what = f"{STATE_FILE} is damaged ({one_line(error)})"
        raise DamagedCheckpoint(f"{flag}: {what}; give another checkpoint") from None


def write_state(directory: str, state: Mapping[str, Any]) -> None:
    """Write state.json, which is the old one or the new one at any moment.

    Raises:
        OSError: it cannot be written.
    """
    path = os.path.join(directory, STATE_FILE)
    try:
        write_flushed(path + PARTIAL, json.dumps(state, indent=1, allow_nan=False).encode())
        os.replace(path + PARTIAL, path)
    except OSError:
        if os.path.exists(path + PARTIAL):
            os.remove(path + PARTIAL)
        raise


def _is_state(state: Any) -> bool:
    """Whether JSON that was read has the form of a checkpoint's state; any of its parts may be missing."""
    if not isinstance(state, dict):
        return False
    best = state.get("best")
    if not all(_is_flat(state.get(key, {})) for key in ("config", "sha256", "versions")):
        return False
    if not all(_is_count(state.get(key, 1)) for key in ("iteration", "tested", "train_clips", "ranks")):
        return False
    if state.get("loss_scale") is not None and not _is_loss_scale(state["loss_scale"]):
        return False
    return best is None or (
        _is_flat(best)
        and _is_count(best.get("iteration"))
        and _is_count(best.get("clips", 0))
        and "psnr" in best
        and all(value is None or _is_number(value) for value in best.values())
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")  # which Python reads, and which is no JSON


def _is_flat(value: Any) -> bool:
    """Whether it is a dictionary without others or lists in it."""
    return isinstance(value, dict) and not any(isinstance(inner, (dict, list)) for inner in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= LARGEST


def _is_loss_scale(value: Any) -> bool:
    counts = {"good_steps", "bad_steps", "skipped"}
    return (
        isinstance(value, dict)
        and value.keys() == {"value", *counts}
        and is_scale(value["value"])
        and all(_is_count(value[name]) for name in counts)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def reason_of(error: OSError) -> str:
    """Why a file cannot be read or written, in the system's words."""
    return error.strerror or one_line(error)


def one_line(error: Exception) -> str:
    """An error's message on one line; its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
