"""The clips that a test has saved as pictures, read again and packed for a page."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from src.data_provider.videos import PICTURE_ERRORS

FRAME_NAME = re.compile(r"(gt|pd)(\d+)\.png")


@dataclass
class SavedClip:
    """Frames of one clip, uint8 ``[H, W]`` grey or ``[H, W, 3]`` BGR, all of one shape."""

    number: int  # of the test batch
    given: int  # frames
    truth: list[np.ndarray]  # the given frames first
    forecast: list[np.ndarray]  # of the frames after the given ones

    @property
    def key(self) -> str:
        """The same for the same truth, whichever test has saved it."""
        digest = hashlib.sha256(f"{self.given} {len(self.forecast)} {self.truth[0].shape}".encode())
        for frame in self.truth:
            digest.update(np.ascontiguousarray(frame).tobytes())
        return digest.hexdigest()


def clip_numbers(directory: str) -> list[int]:
    """The numbers of the clips that a test's folder has pictures of."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(int(name) for name in names if name.isdecimal() and os.path.isdir(os.path.join(directory, name)))


def read_clip(directory: str, number: int) -> SavedClip | None:
    """A clip of a test's folder; None if its pictures are incomplete or damaged."""
    folder = os.path.join(directory, str(number))
    found: dict[str, dict[int, str]] = {"gt": {}, "pd": {}}
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if match := FRAME_NAME.fullmatch(name):
            found[match[1]][int(match[2])] = os.path.join(folder, name)
    truth, forecast = ([paths[place] for place in sorted(paths)] for paths in found.values())
    if not truth or not forecast:
        return None
    given = min(found["pd"]) - 1
    end = given + len(forecast)
    whole = found["gt"].keys() == {*range(1, len(truth) + 1)} and found["pd"].keys() == {*range(given + 1, end + 1)}
    if not whole or not 1 <= given <= len(truth) <= end:
        return None
    frames = [_read_picture(path) for path in (*truth, *forecast)]
    if any(frame is None or frame.dtype != np.uint8 or frame.shape != frames[0].shape for frame in frames):
        return None
    return SavedClip(number, given, frames[: len(truth)], frames[len(truth) :])


def _read_picture(path: str) -> np.ndarray | None:
    try:
        with Image.open(path, formats=["PNG"]) as picture:  # OpenCV prints lines about one that is damaged
            pixels = np.asarray(picture)
    except PICTURE_ERRORS:
        return None
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, ::-1])


def columns_of(clip: SavedClip) -> int:
    """Frames beside one another in a :func:`strip` of the clip: about as many as below one another."""
    return math.ceil(math.sqrt(clip.given + len(clip.forecast)))


def strip(frames: list[np.ndarray], columns: int) -> str:
    """Frames as one PNG, row by row, written as a data URI."""
    blank = np.zeros_like(frames[0])
    filled = frames + [blank] * (-len(frames) % columns)
    rows = [np.concatenate(filled[first : first + columns], axis=1) for first in range(0, len(filled), columns)]
    content = cv2.imencode(".png", np.concatenate(rows))[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()
