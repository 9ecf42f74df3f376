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
from pathlib import Path

from scripts.find_kth import Found, ai_studio, find, is_recording
from src.data_provider.kth_sequences import ACTIONS
from src.errors import UserError

SAMPLE = "sample"  # as DATA: the drawn recordings, whatever else is there
ITERATION_LINE = re.compile(r"iteration (\d+)/")
FRAME_NUMBER = re.compile(r"(\d+)\.(?:jpe?g|png|bmp)$", re.IGNORECASE)
FIRST_TEST_PERSON = 17
STOPPED = 128 + signal.SIGINT


class CommandFailed(Exception):
    """A command failed, or a path is wrong. Jupyter shows the message alone and runs no further cell."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


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
        [sys.executable, *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
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
    lasting = ai_studio() / "work"
    default = lasting / "e3d_lstm" if os.access(lasting, os.W_OK) else root / "results" / "notebook"
    folder = Path(work).expanduser() if work else default
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"WORK {folder}: cannot be made ({error.strerror}); set WORK to another folder") from None
    return folder.resolve()


def find_data(data: str) -> Found | None:
    """Where KTH is: in ``data``, or if that is empty in AI Studio's folders (see find_kth.py).

    None: it is nowhere, which is said, or ``data`` is "sample".

    Raises:
        CommandFailed: ``data`` is given, or AI Studio has a data set, and nothing of KTH is in it.
    """
    if data == SAMPLE:
        return None
    try:
        found = find(data)
    except UserError as error:
        raise CommandFailed(f'{error}; "{SAMPLE}" as DATA for drawn recordings') from None
    if found is None:
        print(f"KTH 没有找到，改用示例数据 / KTH was not found, sample data take its place: {ai_studio()}")
    return found


def example_film(data: Path) -> tuple[Path, int]:
    """A recording that no training sees (persons 17 to 25), and the number of its first frame.

    Raises:
        CommandFailed: there is none.
    """
    for action in sorted(ACTIONS, reverse=True):  # walking first: it is the easiest to see
        for path in sorted((data / action).glob("person*")):
            if is_recording(path.name) and int(path.name[6:8]) >= FIRST_TEST_PERSON:
                numbers = [1]
                if path.is_dir():
                    numbers = [int(match[1]) for name in os.listdir(path) if (match := FRAME_NUMBER.search(name))]
                if numbers:
                    return path, min(numbers)
    raise CommandFailed(f"{data}: no recording of the persons 17 to 25; set FILM to a film of your own")
