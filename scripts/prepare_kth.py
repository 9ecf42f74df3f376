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
from pathlib import Path, PurePosixPath
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.command import command  # noqa: E402, I001  before the packages: one may be missing

import cv2  # noqa: E402
from tqdm import tqdm  # noqa: E402

from src.data_provider.kth_sequences import Ranges, all_recordings, read_sequences, recording_of  # noqa: E402
from src.data_provider.videos import frames_of, is_video  # noqa: E402
from src.errors import UserError, reason_of  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.runtime.files import PARTIAL, lock, new_folder, write_whole  # noqa: E402
from src.runtime.process_env import usable_cores  # noqa: E402
from src.runtime.signals import die_with_parent  # noqa: E402

SETTINGS_FILE = "prepared.json"  # in --out: what its recordings were made with
LOCK_FILE = ".prepared.lock"  # in --out: stays there, locked by the run that prepares it
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
    found: dict[str, Video] = {}
    problems = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        members = [""]
        if path.suffix.lower() == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    members = sorted(archive.namelist())
            except Exception as error:  # zipfile raises many kinds on damaged bytes
                problems.append(
                    f"--videos {path}: no whole zip file ({reason_of(error)}); download it again, or remove it"
                )
                continue
        for member in members:
            name = PurePosixPath(member.replace("\\", "/") or path)  # Windows writes backslashes
            recording = recording_of(name.stem)
            if recording and is_video(name.name):
                found.setdefault(recording[0], Video(*recording, path, member))
    if not found:
        nothing = "no video named personNN_<action>_dD_uncomp.avi in it or in its zip files; check the folder"
        raise UserError(problems[0] if problems else f"--videos {folder}: {nothing}")
    return sorted(found.values()), problems


@contextlib.contextmanager
def as_file(video: Video) -> Iterator[str]:
    """The path of the video, taken out of its zip file for as long as it is needed.

    Raises:
        UserError: it is damaged, encrypted or packed in a way that Python does not read.
    """
    if not video.member:
        yield str(video.path)
        return
    with tempfile.NamedTemporaryFile(suffix=Path(video.member).suffix) as file:
        try:
            with zipfile.ZipFile(video.path) as archive, archive.open(video.member) as packed:
                shutil.copyfileobj(packed, file)
            file.flush()
        except Exception as error:  # zipfile and what it decompresses with raise many kinds
            if isinstance(error, OSError) and error.errno:  # the disk
                raise
            raise UserError(f"{video}: cannot be taken out of the zip file ({reason_of(error)})") from None
        yield file.name


def write_recording(video: Video, folder: Path, ranges: Ranges | None, quality: int) -> int:
    """Write the frames of one video, all of them or those in the ranges; return how many. Nothing is left of a failure.

    Raises:
        UserError: the video has no frame that can be read, or ends before the ranges do.
        OSError: a frame cannot be written.
    """
    written = number = 0
    with as_file(video) as path, new_folder(folder) as partial:
        for number, picture in enumerate(frames_of(path), start=1):
            if ranges is None or any(first <= number <= last for first, last in ranges):
                _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
                Path(partial, f"image_{number:04d}.jpg").write_bytes(jpeg)
                written += 1
        expected = max((last for _, last in ranges), default=0) if ranges else 1
        if number < expected:
            raise UserError(f"{video}: only {number} frames can be read, expected {expected}")
    return written


def start_process(parent: int) -> None:
    """The beginning of a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one decides
    die_with_parent(parent)
    cv2.setNumThreads(0)  # not 1: a forked process waits for good where it has to end a pool that the main one used


def prepare(videos: Path, out: Path, sequences: Path | None, quality: int, processes: int) -> list[str]:
    """Prepare every video and print a report; return a line for each one that could not be.

    Raises:
        UserError: no video, a wrong list, another run prepares ``out``, ``out`` was begun otherwise, or a process was
            killed.
        OSError: a frame cannot be written.
    """
    ranges = read_sequences(sequences) if sequences else None
    found, problems = find_videos(videos)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK_FILE, "a", encoding="utf-8") as file:
        try:
            is_alone = lock(file)
        except BlockingIOError:
            raise UserError(f"--out {out}: another prepare_kth.py is writing there; wait for it") from None
        for partial in out.glob(f"*/.*{PARTIAL}") if is_alone else ():  # of a run that was killed
            shutil.rmtree(partial, ignore_errors=True)
        check_settings(out, quality, ranges)

        frames, kept, done, running = 0, 0, 0, {}
        with ProcessPoolExecutor(processes, initializer=start_process, initargs=(os.getpid(),)) as pool:
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
            except BaseException as error:
                pool.shutdown(cancel_futures=True)  # the ones that are being written are finished
                if isinstance(error, BrokenProcessPool):
                    advice = "one was killed (out of memory?); run again with fewer, finished videos stay"
                    raise UserError(f"--processes {processes}: {advice}") from None
                raise
    print(f"{done} videos made {frames} frames under {out}; {kept} kept as they were; {len(problems)} skipped")
    missing = sorted(set(all_recordings()) - {video.name for video in found})
    names = f" ({', '.join(missing[:NAMES_SHOWN])}, ...)" if missing else ""
    print(f"not among the videos: {len(missing)} of KTH's {len(all_recordings())}{names}")
    return sorted(problems)


def check_settings(out: Path, quality: int, ranges: dict[str, Ranges] | None) -> None:
    """Note in --out what its recordings are made with, or refuse to add ones that are made otherwise.

    Raises:
        UserError: --out was begun with another --quality or --sequences, or its note is damaged.
    """
    listed = hashlib.sha256(json.dumps(ranges, sort_keys=True).encode()).hexdigest() if ranges else "whole videos"
    wanted = {"quality": quality, "sequences": listed}
    path = out / SETTINGS_FILE
    if not path.exists():
        write_whole(path, json.dumps(wanted))
    try:
        begun = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{path}: does not say what {out} was begun with; remove it, or give another --out") from None
    differs = " and ".join(f"--{key}" for key in wanted if begun.get(key) != wanted[key])
    if differs:
        raise UserError(f"--out {out}: was begun with another {differs}; give the same, or another --out")


@command("finished videos stay, run again for the rest")
def main() -> int:
    parser = OneLineParser(prog="scripts/prepare_kth.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--videos", type=Path, required=True, help="folder with the videos or zip files")
    parser.add_argument("--out", type=Path, required=True, help="root of the tree of frames to write")
    parser.add_argument("--sequences", type=Path, help="KTH's 00sequences.txt; without it whole videos are taken")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 100 (default: 95)")
    parser.add_argument(
        "--processes", type=int, default=usable_cores(), help="videos at a time (default: one for each core)"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.quality <= 100:
        raise UserError(f"--quality {arguments.quality}: expected 1 to 100")
    if arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes}: expected 1 or more")
    problems = prepare(**vars(arguments))
    for problem in problems:
        print(f"prepare_kth.py: {' '.join(problem.split())}", file=sys.stderr)  # names in a zip file hold anything
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
