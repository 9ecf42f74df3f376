"""What the cells of aistudio_kth.ipynb share: running a command, finding KTH and a film in it.

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

from scripts.find_kth import Found, ai_studio, find
from src.data_provider.kth_sequences import FRAME_NAME, recording_of
from src.errors import UserError

FIRST_TEST_PERSON = 17
STOPPED = 128 + signal.SIGINT


class CommandFailed(Exception):
    """A command failed, or a path is wrong. Jupyter shows the message alone and runs no further cell."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def run(*arguments: object, stop_after: int | None = None) -> int:
    """Run ``python`` with the arguments, show the command and its output line by line, and return its exit status.

    The stop button of the notebook asks the command to stop, as Ctrl-C does, and waits for its end.

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
        [sys.executable, "-u", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    last_line, expected, button, running = "", 0, "", True
    with process:
        while running:
            try:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    last_line = line.strip() or last_line
                    done = re.match(r"iteration (\d+)/", line)
                    if stop_after is not None and not expected and done and int(done[1]) >= stop_after:
                        expected = STOPPED
                        process.send_signal(signal.SIGINT)
                process.wait()
                running = False
            except KeyboardInterrupt:
                button = ", stopped by the stop button"
                process.send_signal(signal.SIGINT)
    if button or process.returncode not in (0, expected):
        raise CommandFailed(f"{flags[0]}: exit status {process.returncode}{button}: {last_line}")
    return process.returncode


def find_data(data: str) -> Found | None:
    """Where KTH is: in ``data``, or if that is empty in AI Studio's folders (see find_kth.py).

    None: it is nowhere, which is said, or ``data`` is "sample".

    Raises:
        CommandFailed: ``data`` is given, or AI Studio has a data set, and nothing of KTH is in it.
    """
    if data == "sample":
        return None
    try:
        found = find(data)
    except UserError as error:
        raise CommandFailed(f'{error}; "sample" as DATA for drawn recordings') from None
    if found is None:
        print(f"KTH 没有找到，改用示例数据 / KTH was not found, sample data take its place: {ai_studio()}")
    return found


def example_film(data: Path) -> tuple[Path, int]:
    """A recording that no training sees (persons 17 to 25), and the number of its first frame.

    Raises:
        CommandFailed: there is none.
    """
    # Walking first: it is the easiest to see.
    for path in sorted(data.glob("*/person*"), key=lambda path: (path.parent.name != "walking", path)):
        if recording_of(path.stem) and int(path.name[6:8]) >= FIRST_TEST_PERSON:
            names = os.listdir(path) if path.is_dir() else ["image1.jpg"]
            numbers = [int(match[1]) for match in map(FRAME_NAME.fullmatch, names) if match]
            if numbers:
                return path, min(numbers)
    raise CommandFailed(f"{data}: no recording of the persons 17 to 25; set FILM to a film of your own")
