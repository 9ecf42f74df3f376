"""Videos as frames: decoding them, and keeping decoded ones in a bounded part of memory. Imports no paddle."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageSequence

from src.errors import UserError

GIF_SUFFIX = ".gif"
GIF_FORMATS = ("GIF",)  # Pillow tells the format by the content, and for some of them it runs other programs
SMALLEST_FRAME = 16  # bytes of a file; a header that counts more frames lies
VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", GIF_SUFFIX)

# Pillow's decoders raise any of these on damaged bytes.
PICTURE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

# What FFmpeg, OpenCV and Pillow say of a damaged file is silenced: our line says what is wrong and what to do.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
if "OPENCV_LOG_LEVEL" not in os.environ:  # OpenCV reads it when it is imported
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
    set_log_level(0)
warnings.filterwarnings("ignore", module=r"PIL\.")
# Where OpenCV has FFmpeg, no other reader is tried: that of AVI prints lines, that of pictures goes on to the film's
# neighbours.
BACKEND = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends() else cv2.CAP_ANY


def is_video(name: str) -> bool:
    """Whether a file's name is that of a video."""
    return name.lower().endswith(VIDEO_SUFFIXES)


@contextlib.contextmanager
def opencv_path(path: str) -> Iterator[str]:
    """The path of a file as OpenCV can take it: one that is not UTF-8, as of a disk of another system, kills it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        suffix = os.path.splitext(path)[1].encode("ascii", "ignore").decode()
        with tempfile.TemporaryDirectory() as folder:
            link = os.path.join(folder, f"film{suffix}")
            os.symlink(os.path.abspath(path), link)
            yield link
    else:
        yield path


def frames_of(path: str, channels: int = 1) -> Iterator[np.ndarray]:
    """Each frame of a video or GIF from its first, uint8 ``[H, W]`` (luminance), or ``[H, W, 3]`` (RGB) for 3 channels.

    A damaged video ends where nothing more can be decoded, which may be before the first frame.
    """
    if path.lower().endswith(GIF_SUFFIX):
        yield from _gif_frames(path, channels)
        return
    with _capture(path) as capture:
        while True:
            there, picture = capture.read()
            if not there:
                return
            yield cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def _capture(path: str) -> Iterator[cv2.VideoCapture]:
    with opencv_path(path) as plain:
        capture = cv2.VideoCapture(plain, BACKEND)
    try:
        yield capture
    finally:
        capture.release()


def _gif_frames(path: str, channels: int) -> Iterator[np.ndarray]:
    try:
        with Image.open(path, formats=GIF_FORMATS) as animation:
            for picture in ImageSequence.Iterator(animation):
                yield np.array(picture.convert("L" if channels == 1 else "RGB"))
    except PICTURE_ERRORS:
        return


def resized(picture: np.ndarray, img_width: int, channels: int) -> np.ndarray:
    """A picture ``[H, W]`` or ``[H, W, C]`` as ``[img_width, img_width, C]``, bilinear, of the same dtype."""
    square = cv2.resize(picture, (img_width, img_width), interpolation=cv2.INTER_LINEAR)
    return square.reshape([img_width, img_width, channels])


def count_frames(path: str) -> int:
    """The number of frames, from the container's header where it has a likely one; 0 for what is no video."""
    if path.lower().endswith(GIF_SUFFIX):
        try:
            with Image.open(path, formats=GIF_FORMATS) as animation:
                return getattr(animation, "n_frames", 1)
        except PICTURE_ERRORS:
            return 0
    with _capture(path) as capture:
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    if 0 < frames <= os.path.getsize(path) // SMALLEST_FRAME:
        return frames
    return sum(1 for _ in frames_of(path))


class VideoCache:
    """Decoded videos, resized to img_width x img_width, the ones used last in at most ``limit`` bytes.

    All the threads that read share it: one of them decodes a video, the others wait for it. A video is decoded from its
    first frame: seeking is not exact in all containers.

    Args:
        img_width: pixels, of both sides.
        channels: 1 (luminance) or 3 (RGB).
        limit: bytes; no video may need more by itself.
    """

    def __init__(self, img_width: int, channels: int, limit: int) -> None:
        self.img_width, self.channels, self.limit = img_width, channels, limit
        self.videos: OrderedDict[str, np.ndarray] = OrderedDict()
        self.decoding: dict[str, int] = {}  # bytes that each will take
        self.changed = threading.Condition()

    def size_of(self, frames: int) -> int:
        """Bytes of a decoded video with so many frames."""
        return frames * self.img_width**2 * self.channels

    def get(self, path: str, frames: int) -> np.ndarray:
        """The first ``frames`` frames of a video, uint8 ``[frames, W, W, C]``.

        Raises:
            UserError: the video has fewer that can be decoded.
        """
        size = self.size_of(frames)
        with self.changed:
            while path not in self.videos and (path in self.decoding or not self._make_room(size)):
                self.changed.wait()
            if path in self.videos:
                self.videos.move_to_end(path)
                return self.videos[path]
            self.decoding[path] = size
        video = None
        try:
            video = self._decode(path, frames)
        finally:
            with self.changed:
                del self.decoding[path]
                if video is not None:
                    self.videos[path] = video
                self.changed.notify_all()
        return video

    def _make_room(self, size: int) -> bool:
        """Whether another video of this size may be decoded: where they need it, the ones used longest ago go."""
        taken = sum(self.decoding.values()) + sum(video.nbytes for video in self.videos.values())
        while self.videos and taken + size > self.limit:
            taken -= self.videos.popitem(last=False)[1].nbytes
        return not self.decoding or taken + size <= self.limit

    def _decode(self, path: str, frames: int) -> np.ndarray:
        video = np.empty([frames, self.img_width, self.img_width, self.channels], np.uint8)
        found = 0
        for picture in frames_of(path, self.channels):
            if not threading.main_thread().is_alive():
                raise SystemExit  # at the end of the program a thread that is in OpenCV's code would abort it
            video[found] = resized(picture, self.img_width, self.channels)
            found += 1
            if found == frames:
                break
        if found < frames:
            raise UserError(f"{path}: only {found} frames can be read, expected {frames}; replace or remove the file")
        return video
