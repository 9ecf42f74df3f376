"""NpzFrames: an array inside an .npz, of which a few frames are read at a time.

``np.load`` reads an array of an .npz whole: 3.3 GB for the 10,000 training clips of Moving MNIST. Here an array that is
stored as it is is read at its place in the file, and one that is compressed is inflated once when it is opened, with a
copy of the inflater kept every SPAN bytes, from which any frame can be reached.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from src.errors import LostFile

SPAN = 2 << 20  # inflated bytes between two points of entry: some 40 kB of memory each, milliseconds to inflate
STEP = 1 << 18  # inflated bytes at a time
INPUT = 1 << 16  # compressed bytes at a time
HEADER = 1 << 16  # bytes at the start of an array, in which its header ends; numpy's own have some 100
WHOLE = 1 << 30  # bytes of an array that can only be read whole
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field


class _Entry(NamedTuple):
    """Where the compressed bytes can be entered."""

    inflated: int  # bytes before it
    place: int  # of the compressed bytes that follow, in the file
    inflater: zlib._Decompress  # its state there


class NpzFrames:
    """``frames[first:last]`` reads these frames from the disk: an array ``[last - first, ...]``.

    Args:
        path: the .npz.
        info: its entry for the array, stored or deflated.
        shape, dtype: of the array, in C order.
        header: bytes before the array's numbers.

    Raises:
        ValueError: the array's bytes are not all there, or their checksum does not fit.
        LostFile: from ``frames[first:last]``, the file went or broke after it was opened.
    """

    def __init__(self, path: str, info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype, header: int) -> None:
        self.path, self.shape, self.dtype, self.header = path, shape, dtype, header
        self.frame_bytes = int(np.prod(shape[1:], dtype=object)) * dtype.itemsize
        if header + shape[0] * self.frame_bytes > info.file_size:
            raise ValueError(f"{info.filename} ends before its {shape[0]} frames do")
        self.entries: list[_Entry] = []  # none: the bytes are stored as they are
        with open(path, "rb") as file:
            self.start = _first_byte(file, info)
            if info.compress_type == zipfile.ZIP_DEFLATED:
                self._find_entries(file, info)
            elif self.start + header + shape[0] * self.frame_bytes > os.fstat(file.fileno()).st_size:
                raise ValueError(f"the file ends before the frames of {info.filename} do")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice) -> np.ndarray:
        first, last, _ = frames.indices(len(self))
        count = max(0, last - first)
        begin, size = self.header + first * self.frame_bytes, count * self.frame_bytes
        try:
            with open(self.path, "rb") as file:  # anew each time: threads that read must not share a position
                content = self._inflate(file, begin, size) if self.entries else _read(file, self.start + begin, size)
        except (OSError, zlib.error) as error:
            raise LostFile(f"{self.path}: cannot be read any more ({error}); copy it again") from None
        if len(content) != size:
            raise LostFile(f"{self.path}: is shorter than it was at the start; copy it again")
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def _find_entries(self, file: BinaryIO, info: zipfile.ZipInfo) -> None:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self.entries.append(_Entry(0, self.start, inflater.copy()))
        inflated = checksum = 0
        for piece, place in _pieces(file, self.start, inflater):
            inflated += len(piece)
            checksum = zlib.crc32(piece, checksum)
            if inflated - self.entries[-1].inflated >= SPAN and not inflater.eof:
                self.entries.append(_Entry(inflated, place, inflater.copy()))
        if inflated != info.file_size or checksum != info.CRC:
            raise ValueError(f"{info.filename} is damaged: its checksum does not fit")

    def _inflate(self, file: BinaryIO, begin: int, size: int) -> bytes:
        entry = max((entry for entry in self.entries if entry.inflated <= begin), key=lambda entry: entry.inflated)
        wanted, position = bytearray(), entry.inflated
        for piece, _ in _pieces(file, entry.place, entry.inflater.copy()):
            if position + len(piece) > begin:
                wanted += piece[max(0, begin - position) :]
            position += len(piece)
            if len(wanted) >= size:
                break
        return bytes(wanted[:size])


def open_array(path: str, archive: zipfile.ZipFile, name: str) -> NpzFrames | np.ndarray:
    """An array of an .npz, to be read frame by frame; one in Fortran order or packed in a rare way is read whole.

    Raises:
        ValueError, KeyError, OSError, zipfile.BadZipFile, ...: what numpy and zipfile raise on damaged bytes.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        member = io.BytesIO(file.read(HEADER))
        version = np.lib.format.read_magic(member)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if header is None:
            raise ValueError(f"{info.filename} has the unknown version {version}")
        shape, in_fortran_order, dtype = header(member)
        size = member.tell()
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"{info.filename} holds {dtype}, no numbers")
    known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if not known or in_fortran_order or not shape or any(side < 1 for side in shape):
        if info.file_size > WHOLE:
            raise ValueError(
                f"{info.filename} would take {info.file_size >> 20} MB of memory; save it in C order, "
                "with numpy.savez_compressed"
            )
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False)
    return NpzFrames(path, info, shape, dtype, size)


def _first_byte(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """The place of an entry's bytes: they follow its local header, whose name and extra field have any length."""
    header = _read(file, info.header_offset, LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size:
        raise ValueError(f"{info.filename} has no header")
    _, name, extra = LOCAL_HEADER.unpack(header)
    return info.header_offset + LOCAL_HEADER.size + name + extra


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _pieces(file: BinaryIO, place: int, inflater: zlib._Decompress) -> Iterator[tuple[bytes, int]]:
    """Inflated bytes, STEP at most, and the place in the file of the compressed bytes that are not used up yet."""
    file.seek(place)
    waiting = b""
    while not inflater.eof:
        waiting = waiting or file.read(INPUT)
        piece = inflater.decompress(waiting, STEP)
        if not piece and not waiting:  # the file ends before the array does
            return
        place += len(waiting) - len(inflater.unconsumed_tail)
        waiting = inflater.unconsumed_tail
        yield piece, place
