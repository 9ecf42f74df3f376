"""Clips of consecutive frames, cut from recordings: folders of pictures or videos.

What data sets of films share; kth_action.py and folder.py say where their recordings are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import paddle
from PIL import Image, UnidentifiedImageError

from src.data_provider.videos import PICTURE_ERRORS, VideoCache, count_frames, resized
from src.errors import LostFile, UserError
from src.runtime.files import refuse_pipe
from src.utils.preprocess import to_unit_range

DEVICE_ERRORS = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)  # the disk or the network, not the file
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's names
PICTURE_FORMATS = ("JPEG", "PNG", "BMP")  # no other: Pillow runs Ghostscript for an EPS, whatever its suffix
LARGEST_NUMBER = 2**63 - 1  # of a picture: numbers are int64
DEFAULT_CACHE = 2**30  # bytes of decoded videos


class Clip(NamedTuple):
    """seq_length consecutive frames of one recording."""

    category: str  # action, or folder
    clip: str  # name of the recording
    first_frame: str  # file name
    recording: int  # index into the dataset's recordings
    start: int  # index of the first frame in the recording


class Recording(NamedTuple):
    """The frames of one folder or one video, sorted by number."""

    path: str
    category: str
    frames: list[str]  # file names; of a video those that its frames would have in a folder
    numbers: np.ndarray  # int64, strictly rising; of a video from 1
    is_video: bool = False

    @property
    def name(self) -> str:
        base = os.path.basename(self.path)
        return os.path.splitext(base)[0] if self.is_video else base


def recording_of_video(path: str, category: str, numbers: Sequence[int] | None = None) -> Recording:
    """A video's frames, all of them or those of the numbers.

    Raises:
        UserError: it is no video, or ends before the numbers do.
    """
    refuse_pipe(path)
    count = count_frames(path)
    last = numbers[-1] if numbers else 1
    if count < last:
        raise UserError(f"{path}: {count} frames can be read, expected {last} or more; replace or remove the file")
    numbers = numbers or range(1, count + 1)
    names = [f"image_{number:04d}.jpg" for number in numbers]
    return Recording(path, category, names, np.array(numbers, dtype=np.int64), is_video=True)


class ClipDataset(paddle.io.Dataset):
    """Clips of seq_length frames whose numbers have no gap.

    Clips are taken from each recording's end backwards: after a clip the next candidate ends seq_length frames earlier
    (or the recording's own stride), after a gap, 1 frame earlier. The last recording comes first. This is the rule and
    the order of the official KTH loader.

    Args:
        recordings: where the frames are.
        seq_length: frames of a clip.
        img_width: frames are resized to img_width x img_width pixels.
        channels: 1 (luminance) or 3 (RGB).
        strides: frames from the end of one clip back to the end of the next, by category; seq_length where it has none.
        cache_bytes: memory for decoded videos.

    ``dataset[i]`` is float32 ``[T, H, W, C]`` in [0, 1]. ``dataset.clips[i]`` tells where it comes from. There may be
    no clip at all: the caller knows what to say then.

    Raises:
        UserError: a video larger than cache_bytes; and from ``dataset[i]`` a picture or video that cannot be read or
            frames of different sizes, with the file's name.
        LostFile: (a UserError) from ``dataset[i]`` where that came to be after the dataset was made.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        seq_length: int,
        img_width: int,
        channels: int = 1,
        strides: dict[str, int] | None = None,
        cache_bytes: int = DEFAULT_CACHE,
    ) -> None:
        super().__init__()
        self.seq_length, self.img_width, self.channels = seq_length, img_width, channels
        self.listed = time.time()
        self.recordings = recordings
        self.videos = VideoCache(img_width, channels, cache_bytes)
        self.clips: list[Clip] = []
        for index in reversed(range(len(recordings))):
            recording = recordings[index]
            if recording.is_video:
                self._check_size(recording)
            stride = (strides or {}).get(recording.category, seq_length)
            self.clips += [
                Clip(recording.category, recording.name, recording.frames[start], index, start)
                for start in clip_starts(recording.numbers, seq_length, stride)
            ]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> np.ndarray:
        clip = self.clips[index]
        recording = self.recordings[clip.recording]
        positions = slice(clip.start, clip.start + self.seq_length)
        if recording.is_video:
            with _lost_if_changed_since(self.listed, recording.path):
                video = self.videos.get(recording.path, int(recording.numbers[-1]))
            return to_unit_range(video[recording.numbers[positions] - 1])
        frames = np.empty([self.seq_length, self.img_width, self.img_width, self.channels], dtype=np.float32)
        first_size = None
        for step, name in enumerate(recording.frames[positions]):
            path = os.path.join(recording.path, name)
            with _lost_if_changed_since(self.listed, path):
                picture = read_picture(path, self.channels)
                first_size = first_size or picture.shape
                if picture.shape != first_size:
                    raise UserError(
                        f"{path}: {_size(picture.shape)} pixels, but the clip's first frame {clip.first_frame} has "
                        f"{_size(first_size)}; make the frames of {recording.path} again with one size"
                    )
            frames[step] = resized(picture, self.img_width, self.channels)
        return to_unit_range(frames)

    def _check_size(self, recording: Recording) -> None:
        need, limit = self.videos.size_of(int(recording.numbers[-1])), self.videos.limit
        if need > limit:
            raise UserError(
                f"{recording.path}: decoded it needs {need / 2**20:.0f} MB, --video_cache_mb is {limit / 2**20:.0f}; "
                "raise it or cut the video into shorter ones"
            )

    def longest_run(self) -> tuple[int, str]:
        """The most consecutive frames of a recording, and its path."""
        return max((longest_run(recording.numbers), recording.path) for recording in self.recordings)


def nearby_root(root: str, expected: Collection[str]) -> str | None:
    """The folder that holds the expected folders, where ``root`` is the one above it, one of the expected, or a
    recording in one of these; None where it is none of that."""
    try:
        for name in sorted(os.listdir(root)):
            if any(os.path.isdir(os.path.join(root, name, inner)) for inner in expected):
                return os.path.join(root, name)
    except OSError:  # no folder, or one that may not be read: those above it may be the right one all the same
        pass
    path = os.path.abspath(root)
    for folder in (path, os.path.dirname(path)):
        if os.path.basename(folder) in expected:
            right = os.path.dirname(folder)
            return right if os.path.isabs(root) else os.path.relpath(right)
    return None


def clip_starts(numbers: np.ndarray, seq_length: int, stride: int) -> list[int]:
    """Where the clips of one recording start, the last one first.

    Args:
        numbers: frame numbers of the recording, strictly rising.
        seq_length: frames of a clip.
        stride: frames back to the next candidate after a clip.
    """
    starts = []
    start = len(numbers) - seq_length
    while start >= 0:
        if numbers[start + seq_length - 1] - numbers[start] == seq_length - 1:
            starts.append(start)
            start -= stride
        else:
            start -= 1
    return starts


def longest_run(numbers: np.ndarray) -> int:
    """The most frames in a row whose numbers have no gap."""
    gaps = np.flatnonzero(np.diff(numbers) != 1)
    edges = np.concatenate([[-1], gaps, [len(numbers) - 1]])
    return int(np.diff(edges).max())


def read_picture(path: str, channels: int = 1) -> np.ndarray:
    """Decode an image file, float32 in 0 .. 255: ``[H, W]`` (luminance), or ``[H, W, 3]`` (RGB) for 3 channels.

    Raises:
        UserError: the file is missing, unreadable, truncated or not an 8-bit picture.
    """
    refuse_pipe(path)
    try:
        # Pillow refuses a truncated file; OpenCV fills the rest with grey and goes on.
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            if image.mode not in EIGHT_BIT_MODES:
                raise UserError(f"{path}: pixels of kind {image.mode}, expected 8 bits; convert the file")
            return np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: not a picture that can be read; make the file again or remove it") from None
    except PICTURE_ERRORS as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        number = getattr(error, "errno", None)
        kind = LostFile if number in DEVICE_ERRORS else UserError
        advice = "raise ulimit -n" if number in (errno.EMFILE, errno.ENFILE) else "make the file again or remove it"
        raise kind(f"{path}: cannot be read ({reason}); {advice}") from None


@contextlib.contextmanager
def _lost_if_changed_since(moment: float, path: str) -> Iterator[None]:
    """A UserError becomes a LostFile if the file has gone, or was written or replaced, after the moment (in seconds of
    time()): it could be read at the start."""
    try:
        yield
    except UserError as error:
        try:
            changed = os.stat(path).st_ctime >= moment
        except OSError:
            changed = True
        if changed:
            raise LostFile(str(error)) from None
        raise


def numbered_pictures(path: str, category: str, name_pattern: re.Pattern[str]) -> Recording:
    """The pictures of a folder whose names match, by the number in the pattern's first group.

    Raises:
        UserError: a number that does not fit into 64 bits.
    """
    numbered: dict[int, str] = {}
    for name in sorted(os.listdir(path)):
        match = name_pattern.fullmatch(name)
        if match:
            numbered.setdefault(int(match[1]), name)  # image_0001.jpg beside image_0001.png: the first one counts
    numbers = sorted(numbered)
    if numbers and numbers[-1] > LARGEST_NUMBER:
        name = os.path.join(path, numbered[numbers[-1]])
        raise UserError(f"{name}: its number is too large, expected {LARGEST_NUMBER} at most; number the pictures anew")
    return Recording(path, category, [numbered[number] for number in numbers], np.array(numbers, dtype=np.int64))


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
