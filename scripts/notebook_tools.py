"""What the cells of aistudio_kth.ipynb share: running a command, finding KTH, choosing the folder for results.

Needs nothing but Python itself before the packages are installed.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

AI_STUDIO = Path("/home/aistudio")  # data sets are mounted in its data/, what lies in its work/ survives a restart
SAMPLE = "sample"  # as DATA: the drawn recordings, whatever else is there
SEARCH_DEPTH = 4  # folders below the one searched; AI Studio mounts data/dataNNNNN/
ITERATION_LINE = re.compile(r"iteration (\d+)/")
FRAME_NUMBER = re.compile(r"(\d+)\.(?:jpe?g|png|bmp)$", re.IGNORECASE)
FIRST_TEST_PERSON = 17
STOPPED = 128 + signal.SIGINT


class CommandFailed(Exception):
    """A command failed, or a path is wrong. Jupyter shows the message alone and runs no further cell."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Found(NamedTuple):
    """KTH on this machine."""

    folder: Path
    readable: bool  # holds the folders of the actions; False: videos or zip files that are to be prepared


def run(*arguments: object, stop_after: int | None = None) -> int:
    """Run ``python`` with the arguments, show the command and its output line by line, and return its exit status.

    The stop button of the notebook asks the command to stop, as Ctrl-C does; pressed again, it stops at once.

    Args:
        arguments: a script and its flags.
        stop_after: press Ctrl-C in the user's place when a training has done so many iterations.

    Raises:
        CommandFailed: the exit status is not 0, unless the command was to be stopped and was.
    """
    flags = [str(argument) for argument in arguments]
    print("$ python", shlex.join(flags), flush=True)
    # A session of its own: the stop button reaches this process alone, which hands it on once.
    process = subprocess.Popen(
        [sys.executable, *flags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
    )  # fmt: skip
    last_line, ours, users, running = "", False, False, True
    try:
        while running:
            try:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    last_line = line.strip() or last_line
                    done = ITERATION_LINE.match(line)
                    if stop_after is not None and not ours and done and int(done[1]) >= stop_after:
                        ours = True
                        process.send_signal(signal.SIGINT)
                process.wait()
                running = False
            except KeyboardInterrupt:
                users = True
                process.send_signal(signal.SIGINT)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
    status = process.returncode
    if users:
        raise CommandFailed(f"{flags[0]}: stopped by the stop button, exit status {status}: {last_line}")
    if status and not (ours and status == STOPPED):
        raise CommandFailed(f"{flags[0]}: failed with exit status {status}: {last_line}")
    return status


def work_folder(work: str, root: Path) -> Path:
    """The folder for results, made if missing: ``work``, else one that survives on AI Studio, else results/notebook.

    Raises:
        CommandFailed: it cannot be made.
    """
    lasting = AI_STUDIO / "work"
    default = lasting / "e3d_lstm" if os.access(lasting, os.W_OK) else root / "results" / "notebook"
    folder = Path(work).expanduser() if work else default
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"WORK {folder}: cannot be made ({error.strerror}); set WORK to another folder") from None
    return folder.resolve()


def find_data(data: str) -> Found | None:
    """Where KTH is: in ``data``, or if that is empty in AI Studio's data folder.

    None: it is nowhere, or ``data`` is "sample".

    A folder with the folders of the actions (frames or videos in them) goes before videos and zip files.

    Raises:
        CommandFailed: ``data`` is given and holds nothing of KTH.
    """
    if data == SAMPLE:
        return None
    folder = Path(data).expanduser() if data else AI_STUDIO / "data"
    found = _find_kth(folder.resolve())
    if found is None and data:
        what = "nothing of KTH in it" if folder.is_dir() else "there is no such folder"
        raise CommandFailed(
            f"DATA {folder}: {what}; give the folder with boxing, handclapping, ... (frames or videos named "
            'personNN_<action>_dD), or with the zip files of the videos; "sample" for drawn recordings'
        )
    return found


def sequences_file(folder: Path) -> Path | None:
    """KTH's 00sequences.txt in the folder or below it, None where it is not there."""
    from src.data_provider.kth_sequences import SEQUENCES_FILE

    return next((Path(path) / SEQUENCES_FILE for path, _, names in _walk(folder) if SEQUENCES_FILE in names), None)


def example_film(data: Path) -> tuple[Path, int]:
    """A recording that no training sees (persons 17 to 25), and the number of its first frame.

    Raises:
        CommandFailed: there is none.
    """
    from src.data_provider.kth_sequences import ACTIONS

    for action in sorted(ACTIONS, reverse=True):  # walking first: it is the easiest to see
        for path in sorted((data / action).glob("person*")):
            if _is_recording(path.name) and int(path.name[6:8]) >= FIRST_TEST_PERSON:
                numbers = [1]
                if path.is_dir():
                    numbers = [int(match[1]) for name in os.listdir(path) if (match := FRAME_NUMBER.search(name))]
                if numbers:
                    return path, min(numbers)
    raise CommandFailed(f"{data}: no recording of the persons 17 to 25; set FILM to a film of your own")


def _find_kth(folder: Path) -> Found | None:
    # Not at the top: these want packages that a later cell than the first installs.
    from src.data_provider.kth_sequences import ACTIONS
    from src.data_provider.videos import is_video

    to_prepare = False
    for path, folders, names in _walk(folder):
        for action in set(ACTIONS) & set(folders):
            entries = os.scandir(os.path.join(path, action))
            if any(_is_recording(entry.name) and (entry.is_dir() or is_video(entry.name)) for entry in entries):
                return Found(Path(path), True)
        to_prepare = to_prepare or any(
            _is_recording(name) and is_video(name) or _holds_videos(os.path.join(path, name)) for name in names
        )
    return Found(folder, False) if to_prepare else None


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk to SEARCH_DEPTH, in order, without the folders of single recordings: they hold frames by the thousand."""
    for path, folders, names in os.walk(folder, followlinks=True):
        depth = len(Path(path).relative_to(folder).parts)
        searched = [name for name in folders if not (name.startswith(".") or _is_recording(name))]
        folders[:] = sorted(searched) if depth < SEARCH_DEPTH else []
        yield path, folders, names


def _is_recording(name: str) -> bool:
    from src.data_provider.kth_sequences import recording_of

    return recording_of(Path(name).stem) is not None


def _holds_videos(path: str) -> bool:
    """Whether a file is a zip file with KTH's videos."""
    from src.data_provider.videos import is_video

    if not path.lower().endswith(".zip"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(is_video(name) and _is_recording(name) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
