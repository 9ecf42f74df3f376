"""KTHAction: clips of the KTH Actions data set, read from a tree of frames.

    root/<action>/personNN_<action>_dD_uncomp/image_0001.jpg ...

Persons 01-16 train, 17-25 test. Only file names are read at the start; a frame is decoded when its clip is asked for.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import paddle
from PIL import Image, UnidentifiedImageError

from src.errors import LostFile, UserError

# Frames from the end of one clip of a recording back to the end of the next. A person crosses the picture in a few
# frames when jogging or running, so clips of these overlap. The order of the actions is the official loader's.
CLIP_STRIDE = {"boxing": None, "handclapping": None, "handwaving": None, "walking": None, "jogging": 3, "running": 3}
PERSONS = {"train": range(1, 17), "test": range(17, 26)}
FRAME_NAME = re.compile(r"image.*?(\d+)\.(jpg|jpeg|png|bmp)", re.IGNORECASE)
PERSON_DIGITS = slice(6, 8)  # personNN_...
VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg")
DEVICE_ERRORS = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)  # the disk or the network, not the file
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's names


class Clip(NamedTuple):
    """seq_length consecutive frames of one recording."""

    category: str  # action
    clip: str  # name of the recording's folder
    first_frame: str  # file name
    recording: int  # index into KTHAction.recordings
    start: int  # index of the first frame in the recording


class Recording(NamedTuple):
    """The frames of one folder, sorted by number."""

    path: str
    category: str
    frames: list[str]  # file names
    numbers: np.ndarray  # int64, strictly rising


class KTHAction(paddle.io.Dataset):
    """Clips of seq_length frames whose numbers have no gap.

    Clips are taken from each recording's end backwards: after a clip the next candidate ends seq_length frames earlier
    (3 frames earlier for jogging and running); after a gap, 1 frame earlier. The last recording comes first. This is
    the official loader's rule and order.

    Args:
        root: folder that holds the folders of the six actions (some may be missing).
        mode: "train" (persons 01-16) or "test" (persons 17-25).
        seq_length: frames of a clip.
        img_width: frames are resized to img_width x img_width pixels.

    ``dataset[i]`` is float32 ``[T, H, W, 1]``, luminance in [0, 1]. ``dataset.clips[i]`` tells where it comes from.

    Raises:
        UserError: no KTH folders in root, no recordings of the mode's persons, no clip long enough; and from
            ``dataset[i]`` an image that cannot be read or frames of different sizes, with the file's name.
        LostFile: (a UserError) from ``dataset[i]`` where that came to be after the dataset was made.
    """

    def __init__(self, root: str, mode: str, seq_length: int, img_width: int) -> None:
        super().__init__()
        if mode not in PERSONS:
            raise ValueError(f"mode must be train or test, got {mode!r}")
        self.root, self.mode, self.seq_length, self.img_width = str(root), mode, seq_length, img_width
        self.listed = time.time()
        self.recordings = _find_recordings(self.root, mode)
        self.clips: list[Clip] = []
        for index in reversed(range(len(self.recordings))):
            recording = self.recordings[index]
            self.clips += [
                Clip(recording.category, os.path.basename(recording.path), recording.frames[start], index, start)
                for start in clip_starts(recording.numbers, seq_length, CLIP_STRIDE[recording.category])
            ]
        if not self.clips:
            raise UserError(self._why_no_clip())

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> np.ndarray:
        clip = self.clips[index]
        recording = self.recordings[clip.recording]
        frames = np.empty([self.seq_length, self.img_width, self.img_width, 1], dtype=np.float32)
        first_size = None
        for step, name in enumerate(recording.frames[clip.start : clip.start + self.seq_length]):
            path = os.path.join(recording.path, name)
            try:
                picture = read_grey(path)
                first_size = first_size or picture.shape
                if picture.shape != first_size:
                    raise UserError(
                        f"{path}: {_size(picture.shape)} pixels, but the clip's first frame {clip.first_frame} has "
                        f"{_size(first_size)}; make the frames of {recording.path} again with one size"
                    )
            except UserError as error:
                if _changed_since(self.listed, path):
                    raise LostFile(str(error)) from None
                raise
            resized = cv2.resize(picture, (self.img_width, self.img_width), interpolation=cv2.INTER_LINEAR)
            frames[step, :, :, 0] = resized / np.float32(255)
        return frames

    def _why_no_clip(self) -> str:
        if not self.recordings:
            first, last = PERSONS[self.mode][0], PERSONS[self.mode][-1]
            return (
                f"{self.root}: no folder of the persons {first:02d} to {last:02d} that {self.mode} uses "
                f"(personNN_<action>_dD*, with frames image_0001.jpg ...); check the tree"
            )
        longest, path = max((longest_run(recording.numbers), recording.path) for recording in self.recordings)
        return (
            f"{self.root}: no clip of {self.seq_length} consecutive frames for {self.mode}; the longest run is "
            f"{longest}, in {path}; lower --total_length or prepare longer recordings"
        )


def clip_starts(numbers: np.ndarray, seq_length: int, stride: int | None) -> list[int]:
    """Where the clips of one recording start, the last one first.

    Args:
        numbers: frame numbers of the recording, strictly rising.
        seq_length: frames of a clip.
        stride: frames back to the next candidate after a clip; None for seq_length.
    """
    starts = []
    start = len(numbers) - seq_length
    while start >= 0:
        if numbers[start + seq_length - 1] - numbers[start] == seq_length - 1:
            starts.append(start)
            start -= stride or seq_length
        else:
            start -= 1
    return starts


def longest_run(numbers: np.ndarray) -> int:
    """The most frames in a row whose numbers have no gap."""
    gaps = np.flatnonzero(np.diff(numbers) != 1)
    edges = np.concatenate([[-1], gaps, [len(numbers) - 1]])
    return int(np.diff(edges).max())


def read_grey(path: str) -> np.ndarray:
    """Decode an image file to its luminance, float32 ``[H, W]`` in 0 .. 255.

    Raises:
        UserError: the file is missing, unreadable, truncated or not an 8-bit picture.
    """
    try:
        # Pillow refuses a truncated file; OpenCV fills the rest with grey and goes on.
        with Image.open(path) as image:
            if image.mode not in EIGHT_BIT_MODES:
                raise UserError(f"{path}: pixels of kind {image.mode}, expected 8 bits; convert the file")
            return np.asarray(image.convert("L"), dtype=np.float32)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: not a picture that can be read; make the file again or remove it") from None
    # Pillow's decoders raise any of these on damaged bytes.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        kind = LostFile if getattr(error, "errno", None) in DEVICE_ERRORS else UserError
        raise kind(f"{path}: cannot be read ({reason}); make the file again or remove it") from None


def _changed_since(moment: float, path: str) -> bool:
    """Whether a file that was there has gone, or was written or replaced, after the moment (in seconds of time())."""
    try:
        return os.stat(path).st_ctime >= moment
    except OSError:
        return True


def _find_recordings(root: str, mode: str) -> list[Recording]:
    try:
        actions = [action for action in CLIP_STRIDE if os.path.isdir(os.path.join(root, action))]
        if not actions:
            raise UserError(_why_no_action(root))
        recordings = []
        for action in actions:
            folder = os.path.join(root, action)
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                person = name[PERSON_DIGITS]
                if person.isdecimal() and int(person) in PERSONS[mode] and os.path.isdir(path):
                    recording = _read_names(path, action)
                    if recording.frames:
                        recordings.append(recording)
        if not recordings:
            _refuse_videos([os.path.join(root, action) for action in actions])
        return recordings
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check the data set's folder") from None


def _read_names(path: str, action: str) -> Recording:
    numbered = {}
    for name in sorted(os.listdir(path)):
        match = FRAME_NAME.fullmatch(name)
        if match:
            numbered.setdefault(int(match[1]), name)  # image_0001.jpg beside image_0001.png: the first one counts
    numbers = sorted(numbered)
    return Recording(path, action, [numbered[number] for number in numbers], np.array(numbers, dtype=np.int64))


def _why_no_action(root: str) -> str:
    if not os.path.isdir(root):
        return f"{root}: not a folder; give the folder that holds {', '.join(CLIP_STRIDE)}"
    _refuse_videos([root])
    return (
        f"{root}: none of the folders {', '.join(CLIP_STRIDE)} is in it; give the root of the KTH frame tree "
        "(scripts/make_sample_data.py makes a small one)"
    )


def _refuse_videos(folders: Sequence[str]) -> None:
    for folder in folders:
        videos = sorted(name for name in os.listdir(folder) if name.lower().endswith(VIDEO_SUFFIXES))
        if videos:
            raise UserError(
                f"{folder}: holds videos ({videos[0]}), expected folders of frames; "
                "make them with scripts/prepare_kth.py --videos DIR --out DIR (see README.md)"
            )


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
