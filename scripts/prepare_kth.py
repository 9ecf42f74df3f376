"""Make the tree of frames that training reads from the KTH videos.

    python scripts/prepare_kth.py --videos DIR --out DIR --sequences 00sequences.txt

Looks in --videos and its folders for personNN_<action>_dD_uncomp.avi (or another container that OpenCV opens), also
inside zip files as they are downloaded, and writes <out>/<action>/personNN_<action>_dD_uncomp/image_0001.jpg ..., grey,
numbered as in the video. With --sequences, the list that comes with KTH, only the frames in which the person acts are
written; gaps between them end clips.

A recording is written under another name and renamed when it is whole, so the script can be stopped, or killed, and run
again: recordings that are there are kept. While it runs it locks --out: a second one there is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2  # noqa: E402
from tqdm import tqdm  # noqa: E402

from src.data_provider.kth_sequences import (  # noqa: E402
    MISSING_IN_KTH,
    Ranges,
    all_recordings,
    read_sequences,
    recording_of,
)
from src.data_provider.videos import frames_of, is_video  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.runtime.files import PARTIAL, lock, new_folder, write_whole  # noqa: E402
from src.runtime.process_env import usable_cores  # noqa: E402
from src.runtime.signals import die_with_parent  # noqa: E402

SETTINGS_FILE = "prepared.json"  # in --out: what its recordings were made with
LOCK_FILE = ".prepared.lock"  # in --out: stays there, locked by the run that prepares it
BLOCK = 2**20  # bytes taken out of a zip file at a time
NAMES_SHOWN = 3


class Video(NamedTuple):
    """One recording to prepare."""

    name: str  # personNN_<action>_dD
    action: str
    path: Path  # of the video, or of the zip file that holds it
    member: str  # its name in the zip file; empty outside of one

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)


def find_videos(folder: Path) -> tuple[list[Video], list[str]]:
    """Videos in the folder, below it and in its zip files whose names are KTH's, by name; the first of each name.

    Returns:
        the videos, and a line for each zip file that cannot be opened.

    Raises:
        UserError: there is no video.
    """
    if not folder.is_dir():
        raise UserError(f"--videos {folder}: there is no such folder; give the one with the .avi or .zip files")
    found: dict[str, Video] = {}
    problems: list[str] = []
    archives = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".zip" and path.is_file():
            archives += 1
            try:
                members = _members(path)
            except UserError as error:
                members = []
                problems.append(str(error))
        else:
            members = [""] if is_video(path.name) and path.is_file() else []
        for member in members:
            recording = recording_of(Path(member or path).stem)
            if recording:
                found.setdefault(recording[0], Video(*recording, path, member))
    if not found and problems:
        raise UserError(problems[0])
    if not found:
        looked = f"no video named personNN_<action>_dD_uncomp.avi in it or in its {archives} zip files"
        raise UserError(f"--videos {folder}: {looked}; check the folder (frames in archives: scripts/find_kth.py)")
    return sorted(found.values()), problems


def _members(path: Path) -> list[str]:
    """The names of the videos in a zip file.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(name for name in archive.namelist() if is_video(name))
    except Exception as error:  # zipfile raises many kinds on damaged bytes
        raise UserError(
            f"--videos {path}: no whole zip file ({_reason(error)}); download it again, or unpack it and remove it"
        ) from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unpacked(video: Video) -> Iterator[bytes]:
    """The bytes of a video in a zip file, in blocks.

    Raises:
        UserError: it is damaged, encrypted or packed in a way that Python does not read.
    """
    try:
        with zipfile.ZipFile(video.path) as archive, archive.open(video.member) as source:
            while block := source.read(BLOCK):
                yield block
    except Exception as error:  # zipfile and what it decompresses with raise many kinds
        raise UserError(f"{video}: cannot be taken out of the zip file ({_reason(error)})") from None


@contextlib.contextmanager
def _as_file(video: Video, folder: Path) -> Iterator[str]:
    """The path of the video, taken out of its zip file into the folder for as long as it is needed."""
    if not video.member:
        yield str(video.path)
        return
    with tempfile.NamedTemporaryFile(dir=folder, suffix=Path(video.member).suffix) as file:
        for block in _unpacked(video):
            file.write(block)
        file.flush()
        yield file.name


def write_recording(video: Video, folder: Path, ranges: Ranges | None, quality: int) -> int:
    """Write the frames of one video, all of them or those in the ranges; return how many. Nothing is left of a failure.

    Raises:
        UserError: the video has no frame that can be read, or ends before the ranges do.
        OSError: a frame cannot be written.
    """
    written = number = 0
    try:
        with new_folder(folder) as partial:
            with _as_file(video, Path(partial)) as path:
                for number, picture in enumerate(frames_of(path), start=1):
                    if ranges is None or any(first <= number <= last for first, last in ranges):
                        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
                        Path(partial, f"image_{number:04d}.jpg").write_bytes(jpeg)
                        written += 1
            expected = max((last for _, last in ranges), default=0) if ranges else 1
            if number < expected:
                raise UserError(f"{video}: only {number} frames can be read, expected {expected}")
    except OSError:
        if not folder.exists():  # on a file system without locks another run may have written the same recording
            raise
    return written


def _start_process(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one decides
    die_with_parent(parent)
    cv2.setNumThreads(0)  # not 1: a forked process waits for good where it has to end a pool that the main one used


def prepare(videos: Path, out: Path, sequences: Path | None, quality: int, processes: int) -> list[str]:
    """Prepare every video and print a report; return a line for each one that could not be."""
    ranges = read_sequences(sequences) if sequences else None
    found, problems = find_videos(videos)
    with _locked(out):
        _check_settings(out, quality, ranges)
        try:
            return sorted(problems + _prepare(found, out, ranges, quality, processes))
        except BrokenProcessPool:
            raise UserError(
                f"--processes {processes}: one was killed (out of memory?); run again with fewer, finished videos stay"
            ) from None


def _prepare(
    found: list[Video], out: Path, ranges: dict[str, Ranges] | None, quality: int, processes: int
) -> list[str]:
    frames, done, kept, problems = 0, 0, 0, []
    with ProcessPoolExecutor(processes, initializer=_start_process, initargs=(os.getpid(),)) as pool:
        running = {}
        for video in found:
            folder = out / video.action / f"{video.name}_uncomp"
            if folder.exists():
                kept += 1
            elif ranges is not None and not ranges.get(video.name):
                problems.append(f"{video}: {video.name} has no frame ranges in --sequences; skipped")
            else:
                own = ranges[video.name] if ranges else None
                running[pool.submit(write_recording, video, folder, own, quality)] = video
        try:
            for future in tqdm(as_completed(running), "videos", len(running), unit="video", disable=None):
                try:
                    frames += future.result()
                    done += 1
                except UserError as error:
                    problems.append(f"{error}; skipped, replace it and run again")
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the ones that are being written are finished
            raise
    print(
        f"{done} videos made {frames} frames under {out}; {kept} kept as they were; {len(problems)} skipped\n"
        + _missing({video.name for video in found})
    )
    return problems


def _missing(found: set[str]) -> str:
    everything = all_recordings()
    missing = [name for name in everything if name not in found]
    known = f"{', '.join(MISSING_IN_KTH)} is missing in KTH itself"
    if not missing:
        return f"all {len(everything)} recordings of KTH are here ({known})"
    names = ", ".join(missing[:NAMES_SHOWN]) + (", ..." if len(missing) > NAMES_SHOWN else "")
    return f"not among the videos: {len(missing)} of KTH's {len(everything)} ({names}); {known}"


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Have --out for this run alone, and remove what one that was killed left half written.

    Raises:
        UserError: another run prepares it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK_FILE, "a", encoding="utf-8") as file:
        try:
            is_alone = lock(file)
        except BlockingIOError:
            raise UserError(
                f"--out {out}: another prepare_kth.py is writing there; wait for it, or give another folder"
            ) from None
        for partial in out.glob(f"*/.*{PARTIAL}") if is_alone else ():
            shutil.rmtree(partial, ignore_errors=True)
        yield


def _check_settings(out: Path, quality: int, ranges: dict[str, Ranges] | None) -> None:
    """Note in --out what its recordings are made with, or refuse to add ones that are made otherwise.

    Raises:
        UserError: --out was begun with another --quality or --sequences, or its note is damaged.
    """
    listed = hashlib.sha256(json.dumps(ranges, sort_keys=True).encode()).hexdigest() if ranges else "whole videos"
    wanted = {"quality": quality, "sequences": listed}
    path = out / SETTINGS_FILE
    if not path.exists():
        write_whole(path, json.dumps(wanted))
        return
    try:
        before = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        before = None
    if not isinstance(before, dict):
        raise UserError(f"{path}: does not say what {out} was begun with; remove that folder, or give another --out")
    differs = [key for key in wanted if before.get(key) != wanted[key]]
    if differs:
        flags = " and ".join(f"--{flag}" for flag in differs)
        raise UserError(f"--out {out}: was begun with another {flags}; give the same, or another --out")


def main() -> int:
    parser = OneLineParser(prog="scripts/prepare_kth.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--videos", type=Path, required=True, help="folder with the videos or zip files, in folders or flat"
    )
    parser.add_argument("--out", type=Path, required=True, help="root of the tree of frames to write")
    parser.add_argument("--sequences", type=Path, help="KTH's 00sequences.txt; without it whole videos are taken")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 100 (default: 95)")
    parser.add_argument(
        "--processes", type=int, default=usable_cores(), help="videos at a time (default: one for each core)"
    )
    sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be Unicode
    try:
        arguments = parser.parse_args()
        if not 1 <= arguments.quality <= 100:
            raise UserError(f"--quality {arguments.quality}: expected 1 to 100")
        if arguments.processes < 1:
            raise UserError(f"--processes {arguments.processes}: expected 1 or more")
        problems = prepare(**vars(arguments))
    except UserError as error:
        print(f"prepare_kth.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = error.filename or arguments.out
        print(f"prepare_kth.py: {where}: {error.strerror}; make room, or give another --out", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare_kth.py: stopped; finished videos stay, run again for the rest", file=sys.stderr)
        return 130
    for problem in problems:
        print(f"prepare_kth.py: {' '.join(problem.split())}", file=sys.stderr)  # names in a zip file hold anything
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
