"""Files that are there whole or not at all, and what is no file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO

from src.errors import UserError

PARTIAL = ".partial"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a temporary name beside ``path`` to write to; at the end it takes the place of ``path``.

    An exception on the way leaves ``path`` as it was and removes the temporary file. The temporary name keeps the
    suffix, by which writers of videos choose the format.

    Raises:
        OSError: the temporary file cannot take the place of ``path``.
    """
    stem, suffix = os.path.splitext(os.fspath(path))
    partial = stem + PARTIAL + suffix
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def refuse_pipe(path: str | os.PathLike[str]) -> None:
    """To be called before a file is opened that is to be read: of a named pipe that would wait for good.

    Raises:
        UserError: it is neither a file nor a folder. What is not there is left to the one who opens it.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
        raise UserError(f"{path}: is {kind}, expected a file; replace or remove it")


def free_name(path: str | os.PathLike[str], mark: str) -> str:
    """``<path>.<mark>-1``, the mark before the suffix of a file, or with a higher number where that is taken."""
    stem, suffix = (os.fspath(path), "") if os.path.isdir(path) else os.path.splitext(os.fspath(path))
    number = 1
    while os.path.lexists(f"{stem}.{mark}-{number}{suffix}"):
        number += 1
    return f"{stem}.{mark}-{number}{suffix}"


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file (text as UTF-8), whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def lock(file: IO | int, kind: Callable[[IO | int, int], object] = fcntl.lockf) -> bool:
    """Lock a file that is open for writing until it is closed or this process ends; False where locks do not exist.

    Args:
        file: or its descriptor; with ``fcntl.flock`` also that of a folder.
        kind: the children of this process do not inherit the lock of ``fcntl.lockf``, but they do flock's.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        kind(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False
    return True


def write_flushed(path: str, content: bytes) -> None:
    """Write a file and wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush_directory(path: str) -> None:
    """Have the names in a directory reach the disk before what follows, where the file system can."""
    with contextlib.suppress(OSError):  # some network and FUSE mounts cannot; the files themselves are flushed
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
