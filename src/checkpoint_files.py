"""The folder of a checkpoint without its tensors: names of files, state.json, and what is wrong with a path.

It does not import paddle: the command line reads a checkpoint's flags before anything else is loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from safetensors import SafetensorError

from src.errors import UserError, reason_of

MODEL_FILE, OPTIMIZER_FILE, EMA_FILE = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
STATE_FILE = "state.json"  # iteration, settings, checksums, tests
PADDLE_SUFFIXES = (".pdparams", ".pdopt")  # as paddle.save's users name its files
INDEX = ".index"  # what tf.train.Saver writes beside <prefix>.data-00000-of-00001
TENSORFLOW_FILE = re.compile(r"checkpoint|.+\.(index|data-\d+-of-\d+)")
LARGEST = 2**63  # of numbers: those beyond are no counts and no figures, and overflow


class DamagedCheckpoint(UserError):
    """A checkpoint whose files are not what was written."""


@contextlib.contextmanager
def reading(flag: str, name: str) -> Iterator[None]:
    """Turn what goes wrong with a file of a checkpoint into one line that begins with ``flag`` and names the file.

    Raises:
        DamagedCheckpoint: the file is missing, or does not hold what was written.
        UserError: the system does not let it be read; the file may be whole.
    """
    try:
        yield
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{flag}: {name} is missing; give another checkpoint") from None
    except OSError as error:
        raise UserError(f"{flag}: {name} cannot be read ({reason_of(error)})") from None
    # What json, safetensors, numpy and the checks of flags raise on a file that lies about types and shapes.
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{flag}: {name} is damaged ({reason_of(error)}); give another checkpoint") from None


def read_state(flag: str, directory: str) -> dict[str, Any]:
    """What a checkpoint's state.json holds, any part of which may be missing; empty where there is no such file.

    Raises:
        DamagedCheckpoint: the file does not hold a state. The message begins with ``flag``.
        UserError: it cannot be read.
    """
    path = os.path.join(directory, STATE_FILE)
    if not os.path.exists(path):  # weights that were converted from elsewhere
        return {}
    with reading(flag, STATE_FILE), open(path, encoding="utf-8") as file:
        state = json.load(file, parse_constant=_refuse_constant)
        wrong = [key for key, fits in _PARTS.items() if key in state and not fits(state[key])]
        if wrong or not isinstance(state, dict):
            raise ValueError(f"not a checkpoint's {', '.join(wrong) or 'state'}")
    return state


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")  # which Python reads, and which is no JSON


def is_count(value: Any) -> bool:
    """Whether a value of state.json can count something."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and abs(value) <= LARGEST)


def _is_flat(value: Any) -> bool:
    """Whether it is a dictionary without others or lists in it."""
    return isinstance(value, dict) and not any(isinstance(inner, (dict, list)) for inner in value.values())


def _is_best(value: Any) -> bool:
    return value is None or (
        _is_flat(value)
        and is_count(value.get("iteration"))
        and is_count(value.get("clips", 0))
        and "psnr" in value
        and all(map(_is_figure, value.values()))
    )


_PARTS = {
    **dict.fromkeys(("iteration", "tested", "train_clips", "ranks"), is_count),
    **dict.fromkeys(("config", "sha256", "versions"), _is_flat),
    "best": _is_best,
}


def no_checkpoint(path: str, example: str) -> str:
    """What is wrong with a path that is no directory, and what to give in its place; ``example`` is a checkpoint's."""
    folder, name = os.path.split(path)
    if os.path.isfile(path) and name in (MODEL_FILE, OPTIMIZER_FILE, EMA_FILE, STATE_FILE):
        return f"is a file of a checkpoint; give its folder, {folder or os.curdir}"
    # A path without its suffix is what TensorFlow calls a checkpoint, and many programs of Paddle too.
    names = [name + suffix for suffix in ("", *PADDLE_SUFFIXES, INDEX) if os.path.isfile(path + suffix)]
    found = "is a file" if os.path.exists(path) else "there is no such directory"
    return of_another_program(names) or f"{found}; give a checkpoint's directory, as {example}"


def of_another_program(names: Collection[str]) -> str:
    """What can be done with weights of the old Paddle port or of TensorFlow among these files; empty without any."""
    pickles = [name for name in names if name.endswith(PADDLE_SUFFIXES)]
    if pickles:
        return (
            f"{max(pickles)} is a pickle of paddle.save, which could run code and is never loaded; weights of the "
            "older Paddle port would not fit this network either (it made new ones at every step); train here, or use "
            "the weights in pretrained/"
        )
    tensorflow = sorted(name for name in names if TENSORFLOW_FILE.fullmatch(name))
    if not tensorflow:
        return ""
    return (
        f"{tensorflow[0]} is a file of a TensorFlow checkpoint, which is not read: the official network forecasts "
        'otherwise (see "The model, and where it differs" in README.md); train here, or use the weights in pretrained/'
    )
