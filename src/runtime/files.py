"""Files and folders that are there whole or not at all, removed by the names that the program gave them.

A file or a folder is written beside its place and renamed. A folder is never removed as a tree: the program removes the
files that it has written, by name, and then the folder if it is empty. So a user's file survives wherever it lies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
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
    partial = partial_name(path)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def partial_name(path: str | os.PathLike[str]) -> str:
    """The temporary name beside a file that :func:`replacing` writes."""
    stem, suffix = os.path.splitext(os.fspath(path))
    return stem + PARTIAL + suffix


def write_whole(path: str | os.PathLike[str], content: str | bytes, flush: bool = False) -> None:
    """Write a file (text as UTF-8), whole or not at all.

    Args:
        path: file; the old one stays until the new one is complete.
        content: all of it.
        flush: wait until it is on the disk, so that a power cut too leaves the old one or the new one. That takes
            milliseconds a file: nothing for a checkpoint, seconds for the pictures of a test.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if flush:
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a folder with a temporary name beside ``path`` to write to; at the end it is renamed to ``path``.

    The temporary name is hidden, and no other process has it. An exception on the way leaves nothing of the folder.

    Raises:
        OSError: the folder cannot be made, or not be renamed: at ``path`` is a file, or a folder that is not empty.
    """
    parent, name = os.path.split(os.path.abspath(path))
    partial = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    os.makedirs(partial)
    try:
        yield partial
        _flush_names(partial)
        os.rename(partial, path)
        _flush_names(parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_files(folder: str, names: Iterable[str]) -> None:
    """Remove the files of these names, in this order, and the folder if that leaves it empty.

    Nothing else is ever touched: what a user has put there stays, and so does the folder then.

    Raises:
        OSError: a file cannot be removed.
    """
    for name in names:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.remove(os.path.join(folder, name))
    with contextlib.suppress(OSError):
        os.rmdir(folder)


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
    """Write a file of a :func:`new_folder` and wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_names(folder: str) -> None:
    """Have the names in a folder reach the disk before what follows, where the file system can."""
    with contextlib.suppress(OSError):  # some network and FUSE mounts cannot; the files themselves are flushed
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
