"""Archives of KTH's frames: what is in them, and unpacking them.

A .zip or .tar file (also .tar.gz, .tgz, .tar.bz2, .tar.xz) with .../personNN_<action>_dD*/image_0001.jpg ... One from
elsewhere can be damaged or hostile: nothing is written outside of the given folder, and no more than pictures take.
"""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import gzip
import json
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from src.data_provider.kth_sequences import FRAME_NAME, recording_of
from src.errors import UserError

TAR_SUFFIXES = {
    ".tar": open,
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)
# Pictures are compressed already; a bomb unpacks to a thousand times its size.
LARGEST_RATIO, ALWAYS_ALLOWED = 100, 2**30  # times the archive's size; bytes
LARGEST_FRAME = 2**26  # bytes
LOOKED_THROUGH = 2**28  # bytes of a tar archive, unpacked, in which the first frame has to come
UNPACKED_FILE = "unpacked.json"  # beside the folders of the actions: the archives that they are from
ZERO_BLOCK = bytes(tarfile.BLOCKSIZE)  # ends a tar archive
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # a password
)


class TooLarge(UserError):
    """More comes out of an archive than is allowed."""


class Frame(NamedTuple):
    """Where a frame of an archive goes: <action>/<recording>/<name>."""

    action: str
    recording: str  # name of its folder
    name: str


def frame_of(path: str) -> Frame | None:
    """The frame that a path in an archive stands for; None where it is none of KTH, or leads out of the archive."""
    parts = PurePosixPath(path.replace("\\", "/")).parts  # archives made on Windows
    if len(parts) < 2 or parts[0] == "/" or ".." in parts:
        return None
    folder, name = parts[-2:]
    recording = recording_of(PurePosixPath(folder).stem)
    if recording is None or not FRAME_NAME.fullmatch(name) or not (folder + name).isprintable():
        return None
    return Frame(recording[1], folder, name)


def is_archive(name: str) -> bool:
    """Whether a file's name is that of an archive which can be read here."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def kind_of(path: Path) -> str:
    """ "frames" or "videos" of KTH, "" for something else. Of a tar archive only the beginning is looked at.

    Raises:
        UserError: it is damaged.
    """
    from src.data_provider.videos import is_video  # wants OpenCV, which a notebook installs in a later cell

    videos = False
    with contextlib.suppress(TooLarge):
        for name, _ in _files(path, LOOKED_THROUGH, read=False):
            if frame_of(name):
                return "frames"
            videos = videos or (is_video(name) and recording_of(PurePosixPath(name).stem) is not None)
    return "videos" if videos else ""


def unpack(archives: Sequence[Path], out: Path) -> int:
    """Write the frames in the archives to out/<action>/<recording>/, all of them or nothing; return how many.

    Each path is made from the names of recording and frame alone, so none leads out of ``out``. Another process that
    unpacks to ``out`` is waited for.

    Raises:
        UserError: an archive is damaged or too large, or two of them hold the same recording.
        OSError: a frame cannot be written.
    """
    from tqdm import tqdm

    out.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(out.parent):
        if out.exists():
            return 0  # by the process that was waited for
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        owners: dict[str, Path] = {}
        frames = 0
        try:
            for archive in archives:
                limit = max(ALWAYS_ALLOWED, LARGEST_RATIO * archive.stat().st_size)
                for path, content in tqdm(_files(archive, limit), archive.name, unit=" files", disable=None):
                    frame = frame_of(path)
                    if frame is None:
                        continue
                    folder = partial / frame.action / frame.recording
                    owner = owners.get(frame.recording)
                    if owner is None:
                        owners[frame.recording] = archive
                        folder.mkdir(parents=True)
                    elif owner != archive:
                        raise UserError(f"{owner} and {archive}: both hold {frame.recording}; give one of them as DATA")
                    (folder / frame.name).write_bytes(content)
                    frames += 1
            if frames == 0:
                raise UserError(f"{', '.join(map(str, archives))}: no frame in it can be found; get it again")
            (partial / UNPACKED_FILE).write_text(_sizes(archives), encoding="utf-8")
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return frames


def is_unpacked(archives: Sequence[Path], out: Path) -> bool:
    """Whether ``out`` is what unpack made of these archives: of so many, of these names and sizes."""
    try:
        return (out / UNPACKED_FILE).read_text(encoding="utf-8") == _sizes(archives)
    except (OSError, UnicodeDecodeError):
        return False


def _sizes(archives: Sequence[Path]) -> str:
    return json.dumps({archive.name: archive.stat().st_size for archive in archives})


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here with this folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _files(path: Path, limit: int, read: bool = True) -> Iterator[tuple[str, bytes]]:
    """The path of each file in an archive, links left out, and of frames the content if they are to be read.

    Raises:
        TooLarge: it unpacks to more than ``limit`` bytes.
        UserError: it is damaged.
    """
    try:
        yield from (_zip_files if path.suffix.lower() == ".zip" else _tar_files)(path, limit, read)
    except UserError:
        raise
    except DAMAGED as error:
        why = str(error) or type(error).__name__
        raise UserError(f"{path}: damaged, or no archive ({why}); get it again or remove it") from None


def _zip_files(path: Path, limit: int, read: bool) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = [one for one in archive.infolist() if not (one.is_dir() or stat.S_ISLNK(one.external_attr >> 16))]
        if read:
            _check_size(path, sum(member.file_size for member in members), limit)
        for member in members:
            wanted = read and _is_frame(path, member.filename, member.file_size)
            yield member.filename, archive.read(member) if wanted else b""


def _tar_files(path: Path, limit: int, read: bool) -> Iterator[tuple[str, bytes]]:
    unpacked = next(TAR_SUFFIXES[suffix] for suffix in TAR_SUFFIXES if path.name.lower().endswith(suffix))
    with unpacked(path, "rb") as file:
        archive = tarfile.open(fileobj=_Bounded(path, file, limit), mode="r:")
        while (member := archive.next()) is not None:
            if member.isreg():
                wanted = read and _is_frame(path, member.name, member.size)
                yield member.name, archive.extractfile(member).read() if wanted else b""
            archive.members.clear()  # it would keep them all: over 100 MB for the whole of KTH
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != ZERO_BLOCK:  # tarfile takes a cut or broken header for the end
            raise tarfile.ReadError("it ends within a file")
        while file.read(2**20):  # to the checksum at the end
            _check_size(path, file.tell(), limit)


def _is_frame(archive: Path, path: str, size: int) -> bool:
    if frame_of(path) is None:
        return False
    if size > LARGEST_FRAME:
        raise TooLarge(f"{archive}: {path} has {size} bytes, expected the picture of a frame; get the archive again")
    return True


def _check_size(archive: Path, size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"{archive}: unpacks to more than {limit} bytes, expected pictures; get it again or remove it")


class _Bounded:
    """A file of which ``limit`` bytes are read at most: tarfile itself would unpack whatever a header asks for."""

    def __init__(self, path: Path, file: IO[bytes], limit: int) -> None:
        self.path, self.file, self.limit = path, file, limit

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, position: int) -> int:
        _check_size(self.path, position, self.limit)
        return self.file.seek(position)

    def read(self, size: int) -> bytes:
        _check_size(self.path, self.file.tell() + size, self.limit)
        return self.file.read(size)
