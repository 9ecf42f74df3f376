"""Which folders of results are the program's own: it writes, replaces and removes in these alone.

A folder that the program makes holds a small file, MARK, with what is in it: ``test`` or ``film``. Folders of earlier
versions have none; they are known by what a test or a forecast leaves. --log_dir has such a file too, LOG_MARK, with
the save_dir of the run whose curves are there.
"""

from __future__ import annotations

import os
import re

from src.config import Config
from src.errors import UserError, WriteError, reason_of
from src.reports.figures import METRICS_FILE, read_metrics
from src.reports.pictures import ANIMATION_FILE, SHEET_FILE, VIDEO_FILE
from src.runtime.files import write_whole

MARK, LOG_MARK = ".e3d_lstm", ".e3d_lstm_run"
TEST, FILM = "test", "film"
WHAT = {TEST: "a test", FILM: "the forecast of a film"}
NAMES_SHOWN = 4


def kind_of(directory: str) -> str:
    """What a folder of this program holds; empty where it is another's, or none at all."""
    try:
        with open(os.path.join(directory, MARK), encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, ValueError):
        pass
    if all(os.path.exists(os.path.join(directory, name)) for name in (SHEET_FILE, ANIMATION_FILE, VIDEO_FILE)):
        return FILM
    try:
        return TEST if "sequences" in read_metrics(os.path.join(directory, METRICS_FILE)) else FILM
    except UserError:
        return ""


def check_own(directory: str, kind: str) -> None:
    """Check that results may go to a folder: it is empty, or of this program and of the same kind.

    Args:
        directory: under --gen_frm_dir; there may be none.
        kind: TEST or FILM.

    Raises:
        WriteError: the folder is another's, or holds the other kind.
    """
    try:
        # Hidden files are never touched, and may be a file browser's.
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(directory, error) from None
    found = kind_of(directory) if names else kind
    if found != kind:
        what = ", ".join(names[:NAMES_SHOWN])
        raise WriteError(
            f"--gen_frm_dir {os.path.dirname(directory)}: {WHAT[kind]} would go to {directory}, which holds "
            f"{WHAT.get(found, f'{what}, which this program did not write')}; move that away, or give another "
            "--gen_frm_dir"
        )


def take_folder(directory: str, kind: str) -> None:
    """Make a folder for results, and mark it.

    Raises:
        WriteError: as from :func:`check_own`, or it cannot be written.
    """
    check_own(directory, kind)
    try:
        os.makedirs(directory, exist_ok=True)
        write_whole(os.path.join(directory, MARK), f"{kind}\n")
    except OSError as error:
        raise _unwritable(directory, error) from None


def _unwritable(directory: str, error: OSError) -> WriteError:
    return WriteError(f"{directory}: cannot be written ({reason_of(error)}); make room, or give another --gen_frm_dir")


def check_test_folders(config: Config, finished: int) -> None:
    """Check the folders that are there already for the tests of a training that has ``finished`` iterations.

    Raises:
        UserError: as from :func:`check_own`, or the folder that they are in cannot be read.
    """
    try:
        names = os.listdir(config.gen_frm_dir) if os.path.isdir(config.gen_frm_dir) else []
    except OSError as error:
        raise UserError(f"--gen_frm_dir {config.gen_frm_dir}: cannot be read ({reason_of(error)})") from None
    for iteration in sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)):
        if iteration % config.test_interval == 0 and finished <= iteration <= config.max_iterations:
            check_own(os.path.join(config.gen_frm_dir, str(iteration)), TEST)


def take_log_dir(config: Config) -> None:
    """Mark --log_dir as that of the run in save_dir: of a folder that two runs share VisualDL shows the curves of one.

    Raises:
        UserError: it is that of another run, whose save_dir is still there.
    """
    mark, own = os.path.join(config.log_dir, LOG_MARK), os.path.realpath(config.save_dir)
    try:
        os.makedirs(config.log_dir, exist_ok=True)
        if os.path.exists(mark):
            with open(mark, encoding="utf-8", errors="surrogateescape") as file:
                other = file.read().strip()
            if other != own and os.path.isdir(other):
                raise UserError(
                    f"--log_dir {config.log_dir}: holds the curves of the run in {other}; give another folder"
                )
        write_whole(mark, os.fsencode(f"{own}\n"))
    except OSError as error:
        raise UserError(f"--log_dir {config.log_dir}: {mark} cannot be written ({reason_of(error)})") from None
