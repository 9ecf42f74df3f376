"""Make the tree of frames that training reads from the KTH videos.

    python scripts/prepare_kth.py --videos DIR --out DIR
    python scripts/prepare_kth.py --videos DIR --out DIR --sequences 00sequences.txt

Looks in --videos and its folders for personNN_<action>_dD_uncomp.avi (or another container that OpenCV opens) and
writes <out>/<action>/personNN_<action>_dD_uncomp/image_0001.jpg ..., grey, numbered as in the video. With --sequences,
the list that comes with KTH, only the frames in which the person acts are written; the gaps between them end clips.

A recording is written under another name and renamed when it is whole, so the script can be stopped and run again:
recordings that are there are kept.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
from tqdm import tqdm

ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".mpg", ".mpeg", ".webm")
VIDEO_NAME = re.compile(rf"(person\d\d_({'|'.join(ACTIONS)})_d\d)\w*", re.IGNORECASE)
SEQUENCE_LINE = re.compile(r"\s*(person\d\d_[a-z]+_d\d)\s+frames\s+(.*)")
Ranges = list[tuple[int, int]]


class UsageError(Exception):
    """One line for the user."""


def find_videos(folder: Path) -> list[Path]:
    """Videos in the folder and below it whose names are KTH's, sorted by name."""
    if not folder.is_dir():
        raise UsageError(f"--videos {folder}: there is no such folder; give the one with the .avi files")
    videos = [
        path for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and VIDEO_NAME.fullmatch(path.stem)
    ]  # fmt: skip
    if not videos:
        raise UsageError(f"--videos {folder}: no video named personNN_<action>_dD_uncomp.avi in it; check the folder")
    return sorted(videos, key=lambda path: path.name)


def read_sequences(path: Path) -> dict[str, Ranges]:
    """The frame ranges, first and last frame from 1, of each recording in 00sequences.txt; other lines are skipped."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise UsageError(f"--sequences {path}: cannot be read ({error.strerror}); check the path") from None
    sequences = {}
    for line in text.splitlines():
        match = SEQUENCE_LINE.match(line)
        if match:
            sequences[match[1]] = [(int(a), int(b)) for a, b in re.findall(r"(\d+)\s*-\s*(\d+)", match[2])]
    if not sequences:
        raise UsageError(f"--sequences {path}: no line as 'person01_boxing_d1  frames  1-95, 96-185' in it")
    return sequences


def frames_of(video: Path) -> Iterator[tuple[int, object]]:
    """Number from 1 and picture of each frame."""
    capture = cv2.VideoCapture(str(video))
    try:
        number = 0
        while True:
            there, picture = capture.read()
            if not there:
                return
            number += 1
            yield number, picture
    finally:
        capture.release()


def write_recording(video: Path, folder: Path, ranges: Ranges | None, quality: int) -> int:
    """Write the frames of one video, all of them or those in the ranges; return how many. Nothing is left of a failure.

    Raises:
        UsageError: the video has no frame that can be read, or ends before the ranges do.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        written, number = 0, 0
        for number, picture in frames_of(video):
            if ranges is None or any(first <= number <= last for first, last in ranges):
                grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
                path = partial / f"image_{number:04d}.jpg"
                if not cv2.imwrite(str(path), grey, [cv2.IMWRITE_JPEG_QUALITY, quality]):
                    raise OSError(28, "a picture could not be written, is the disk full?")
                written += 1
        expected = max((last for _, last in ranges), default=0) if ranges else 1
        if number < expected:
            raise UsageError(f"{video}: only {number} frames can be read, expected {expected}")
        partial.rename(folder)
        return written
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def prepare(videos: Path, out: Path, sequences: Path | None, quality: int) -> list[str]:
    """Prepare every video; return a line for each one that could not be."""
    ranges = read_sequences(sequences) if sequences else None
    found = find_videos(videos)
    frames, kept, problems = 0, 0, []
    for video in tqdm(found, desc="videos", unit="video", disable=None):
        match = VIDEO_NAME.fullmatch(video.stem)
        name, action = match[1].lower(), match[2].lower()
        folder = out / action / f"{name}_uncomp"
        if folder.exists():
            kept += 1
        elif ranges is not None and not ranges.get(name):
            problems.append(f"{video}: {name} has no frame ranges in {sequences}; skipped")
        else:
            try:
                frames += write_recording(video, folder, ranges and ranges[name], quality)
            except UsageError as error:
                problems.append(f"{error}; skipped")
    done = len(found) - kept - len(problems)
    print(f"{done} videos made {frames} frames under {out}; {kept} kept as they were; {len(problems)} skipped")
    return problems


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UsageError(f"{message}; see --help")


def main() -> int:
    parser = _Parser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--videos", type=Path, required=True, help="folder with the videos, in folders or flat")
    parser.add_argument("--out", type=Path, required=True, help="root of the tree of frames to write")
    parser.add_argument("--sequences", type=Path, help="KTH's 00sequences.txt; without it whole videos are taken")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 100 (default: 95)")
    try:
        arguments = parser.parse_args()
        if not 1 <= arguments.quality <= 100:
            raise UsageError(f"--quality {arguments.quality}: expected 1 to 100")
        problems = prepare(arguments.videos, arguments.out, arguments.sequences, arguments.quality)
    except UsageError as error:
        print(f"prepare_kth.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = error.filename or arguments.out
        print(f"prepare_kth.py: {where}: {error.strerror}; give another --out", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare_kth.py: stopped; finished videos stay, run again for the rest", file=sys.stderr)
        return 130
    for problem in problems:
        print(f"prepare_kth.py: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")  # fatal only: our own line says what is wrong with a video
    sys.exit(main())
