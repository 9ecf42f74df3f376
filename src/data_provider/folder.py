"""FolderClips: clips of a user's own films.

    root/train/<anything>/frame_0001.png ...    a folder of numbered pictures is one recording
    root/train/<anything>.mp4                   a video or GIF is one recording
    root/test/...                               the same, to test on
    root/valid/...                              the same, for the tests during a training

valid/ need not be there.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from src.config import Config
from src.data_provider.clips import (
    DEFAULT_CACHE,
    ClipDataset,
    Recording,
    nearby_root,
    numbered_pictures,
    read_picture,
    recording_of_video,
)
from src.data_provider.kth_sequences import PICTURE_SUFFIXES
from src.data_provider.videos import frames_of, is_video, resized
from src.errors import UserError
from src.runtime.files import refuse_pipe
from src.utils.preprocess import to_unit_range

FRAME_NAME = re.compile(rf".*?(\d+)\.({'|'.join(PICTURE_SUFFIXES)})", re.IGNORECASE)  # the last number counts
MODES = ("train", "valid", "test")


class FolderClips(ClipDataset):
    """Clips of the films below ``root/<mode>``, cut by the rule of KTH with no overlap.

    Args:
        root: folder that holds train/ and test/, and perhaps valid/.
        mode: "train", "valid" or "test".
        seq_length: frames of a clip.
        img_width: frames are resized to img_width x img_width pixels.
        channels: 1 (luminance) or 3 (RGB).
        cache_bytes: memory for decoded videos.

    Raises:
        UserError: no such folder, no films in it, no clip long enough; and what :class:`ClipDataset` raises.
    """

    def __init__(
        self,
        root: str,
        mode: str,
        seq_length: int,
        img_width: int,
        channels: int = 1,
        cache_bytes: int = DEFAULT_CACHE,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be train, valid or test, got {mode!r}")
        folder = os.path.join(root, mode)
        right = None if os.path.isdir(folder) else nearby_root(root, MODES)
        if right:
            raise UserError(f"{root}: there is no {mode}/ in it, but {right} holds it; give {right}")
        recordings = find_recordings(folder)
        super().__init__(recordings, seq_length, img_width, channels, cache_bytes=cache_bytes)
        if not recordings:
            raise UserError(
                f"{folder}: no film in it, expected videos (.mp4, .avi, .gif ...) or folders of numbered pictures "
                "(frame_0001.png ...); check the tree"
            )
        if not self.clips:
            longest, path = self.longest_run()
            raise UserError(
                f"{folder}: no clip of {seq_length} consecutive frames; the longest run is {longest}, in {path}; "
                "lower --total_length, or check that the pictures are numbered without gaps"
            )

    @classmethod
    def from_config(cls, config: Config, paths: str, mode: str) -> FolderClips:
        """The clips of a run's flags; ``paths`` is the root."""
        return cls(paths, mode, config.total_length, config.img_width, config.img_channel, config.cache_bytes)


def find_recordings(folder: str) -> list[Recording]:
    """The films of a folder and of those below it, by path; hidden folders and files are left out.

    Links are followed, to each folder once: one may lead back to a folder that it is in.

    Raises:
        UserError: there is no such folder, it cannot be read, or a video in it cannot be.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder; expected train/ and test/ with your films")

    def stop(error: OSError) -> None:
        raise error

    recordings = []
    seen = set()
    try:
        for path, folders, names in os.walk(folder, onerror=stop, followlinks=True):
            real = os.path.realpath(path)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            pictures = numbered_pictures(path, os.path.relpath(path, folder), FRAME_NAME)
            if pictures.frames:
                recordings.append(pictures)
            recordings += [
                recording_of_video(os.path.join(path, name), os.path.relpath(path, folder))
                for name in sorted(names)
                if is_video(name) and not name.startswith(".")
            ]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check the data set's folder") from None
    return sorted(recordings, key=lambda recording: recording.path)


class Film(NamedTuple):
    """A piece of a user's film: the frames that are given, and how it really went on."""

    given: np.ndarray  # float32 [input_length, W, W, C] in [0, 1]
    truth: np.ndarray  # the same for the frames after them, [0 .. steps, W, W, C]
    first_number: int  # of the first given frame in the film


def film_name(path: str) -> str:
    """The name of a film: of its folder, or of its file without the suffix."""
    base = os.path.basename(os.path.abspath(path))
    return base if os.path.isdir(path) else os.path.splitext(base)[0]


def read_film(path: str, start: int, input_length: int, steps: int, img_width: int, channels: int) -> Film:
    """Frames to forecast from, of a video, a GIF or a folder of numbered pictures.

    Args:
        path: the film.
        start: number of the first given frame, in a video from 1; 0: the last frames are given.
        input_length: frames given.
        steps: frames to forecast; so many true ones follow, or fewer where the film ends.
        img_width: frames are resized to img_width x img_width pixels.
        channels: 1 (luminance) or 3 (RGB).

    Raises:
        UserError: no film, or one without input_length consecutive frames there.
    """
    frames: Iterable[tuple[int, np.ndarray]]
    if os.path.isdir(path):
        folder = numbered_pictures(path, "", FRAME_NAME)
        first = 0 if start else max(0, len(folder.frames) - input_length)  # those before need not be decoded
        frames = (
            (int(number), read_picture(os.path.join(path, name), channels))
            for number, name in zip(folder.numbers[first:], folder.frames[first:])
            if number >= start
        )
    else:
        refuse_pipe(path)
        frames = enumerate(frames_of(path, channels), start=1)

    kept: deque[tuple[int, np.ndarray]] = deque(maxlen=None if start else input_length)
    for number, picture in frames:
        if number < start:
            continue
        if start and number >= start + input_length + steps:
            break
        kept.append((number, to_unit_range(resized(picture, img_width, channels))))
    numbers = [number for number, _ in kept]
    run = next((at for at in range(1, len(numbers)) if numbers[at] != numbers[0] + at), len(numbers))
    if run < input_length or (start and numbers[0] != start):
        wanted = f"from number {start} on" if start else "at the end"
        found = f"{run}, numbers {numbers[0]} to {numbers[run - 1]}" if numbers else "none that can be read"
        raise UserError(
            f"{path}: expected {input_length} consecutive frames {wanted}, found {found}; "
            "give a longer film or another --predict_start"
        )
    pictures = np.stack([picture for _, picture in kept])
    return Film(pictures[:input_length], pictures[input_length:run], numbers[0])
