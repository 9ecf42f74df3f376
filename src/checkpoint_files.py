"""The files of a checkpoint, and what is said of a path that holds none: names alone tell, no file is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

MODEL_FILE, OPTIMIZER_FILE, EMA_FILE = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
STATE_FILE = "state.json"  # iteration, settings, checksums
PADDLE_SUFFIXES = (".pdparams", ".pdopt")  # as paddle.save's users name its files
TENSORFLOW_FILE = re.compile(r"checkpoint|.+\.(index|data-\d+-of-\d+)")  # of tf.train.Saver


def no_checkpoint(path: str, example: str) -> str:
    """What is wrong with a path that is no directory, and what to give in its place; ``example`` is a checkpoint's."""
    folder, name = os.path.split(path)
    if os.path.isfile(path) and name in (MODEL_FILE, OPTIMIZER_FILE, EMA_FILE, STATE_FILE):
        return f"is a file of a checkpoint; give its folder, {folder or os.curdir}"
    # A path without its suffix is what TensorFlow calls a checkpoint, and many programs of Paddle too.
    names = [name + suffix for suffix in ("", *PADDLE_SUFFIXES, ".index") if os.path.isfile(path + suffix)]
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
