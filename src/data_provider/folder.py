"""FolderClips: clips of a user's own films.

    root/train/<anything>/frame_0001.png ...    a folder of numbered pictures is one recording
    root/train/<anything>.mp4                   a video or GIF is one recording
    root/test/...                               the same, to test on
"""

from __future__ import annotations

import os
import re

from src.data_provider.clips import (
    DEFAULT_CACHE,
    PICTURE_SUFFIXES,
    ClipDataset,
    Recording,
    numbered_pictures,
    recording_of_video,
)
from src.data_provider.videos import is_video
from src.errors import UserError

FRAME_NAME = re.compile(rf".*?(\d+)\.({'|'.join(PICTURE_SUFFIXES)})", re.IGNORECASE)  # the last number counts
MODES = ("train", "test")


class FolderClips(ClipDataset):
    """Clips of the films below ``root/<mode>``, cut by the rule of KTH with no overlap.

    Args:
        root: folder that holds train/ and test/.
        mode: "train" or "test".
        seq_length: frames of a clip.
        img_width: frames are resized to img_width x img_width pixels.
        channels: 1 (luminance) or 3 (RGB).
        cache_bytes: memory for decoded videos, of each process that reads.

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
            raise ValueError(f"mode must be train or test, got {mode!r}")
        folder = os.path.join(root, mode)
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


def find_recordings(folder: str) -> list[Recording]:
    """The films of a folder and of those below it, by path; hidden folders and files are left out.

    Raises:
        UserError: there is no such folder, it cannot be read, or a video in it cannot be.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder; expected train/ and test/ with your films")

    def stop(error: OSError) -> None:
        raise error

    recordings = []
    try:
        for path, folders, names in os.walk(folder, onerror=stop, followlinks=True):
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
