"""MovingMNIST: the .npz files of the PredRNN family, and mnist_test_seq.npy.

scripts/make_moving_mnist.py makes both.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np
import paddle

from src.config import Config
from src.data_provider.npz_frames import NpzFrames, open_array
from src.errors import LostFile, UserError
from src.flag_values import split_paths
from src.runtime.files import refuse_pipe
from src.utils.preprocess import to_unit_range

LONGEST = 1000  # frames of a clip in an .npy; more are clips, in a file whose first two axes are the wrong way round
ROUNDING = 1e-4  # by which float frames may leave [0, 1]


class MovingMNIST(paddle.io.Dataset):
    """Clips of digits moving in a square. Frames are read from the disk when their clip is asked for.

    An .npz holds ``clips`` ``[2, N, 2]`` (first frame and number of frames of the input and of the output part of each
    clip), ``dims`` ``[1, 3]`` (channels, rows, columns), ``input_raw_data`` ``[frames, 1, H, W]`` in [0, 1] and maybe
    ``output_raw_data`` (else the output part is in ``input_raw_data`` too). An .npy holds ``[T, N, H, W]`` uint8.

    Args:
        paths: files; their clips follow one another.
        seq_length: frames of a clip; of longer clips the first seq_length frames are taken.
        img_width: expected width and height of the frames, in pixels.

    ``dataset[i]`` is float32 ``[T, H, W, 1]`` in [0, 1].

    Raises:
        UserError: a file that cannot be read, lacks an array, holds shorter clips or frames of another size; from
            ``dataset[i]`` frames that are not in [0, 1].
        LostFile: (a UserError) from ``dataset[i]``, a file that went or broke after the dataset was made.
    """

    def __init__(self, paths: Sequence[str], seq_length: int, img_width: int) -> None:
        super().__init__()
        self.seq_length, self.img_width = seq_length, img_width
        self.paths = [str(path) for path in paths]
        for path in self.paths:
            refuse_pipe(path)
        self.files = [_read_npy(path) if path.endswith(".npy") else _read_npz(path) for path in self.paths]
        for path, file in zip(self.paths, self.files):
            self._check(path, file)
        self.ends = np.cumsum([len(file) for file in self.files])

    @classmethod
    def from_config(cls, config: Config, paths: str, mode: str) -> MovingMNIST:
        """The clips of a run's flags; ``paths`` are files with commas between. Each mode has files of its own."""
        return cls(split_paths(paths), config.total_length, config.img_width)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self.ends, index, side="right"))
        offset = self.ends[which - 1] if which else 0
        frames = self.files[which].frames(index - int(offset), self.seq_length)
        if frames.dtype == np.uint8:
            return to_unit_range(frames)[..., np.newaxis]
        if not (frames.min() >= -ROUNDING and frames.max() <= 1 + ROUNDING):  # nan compares as False
            raise UserError(
                f"{self.paths[which]}: {frames.dtype} frames with values from {frames.min():g} to {frames.max():g}, "
                "expected 0 to 1; divide them, or store them as uint8"
            )
        return np.clip(frames.astype(np.float32), 0, 1)[..., np.newaxis]

    def _check(self, path: str, file: _NpzClips | _NpyClips) -> None:
        if len(file) == 0:
            raise UserError(f"{path}: holds no clip")
        if file.shortest() < self.seq_length:
            raise UserError(
                f"{path}: holds clips of {file.shortest()} frames, --total_length is {self.seq_length}; lower it"
            )
        if file.size() != (self.img_width, self.img_width):
            rows, columns = file.size()
            raise UserError(f"{path}: holds frames of {columns} x {rows} pixels, --img_width is {self.img_width}")


class _NpzClips:
    def __init__(self, spans: np.ndarray, parts: Sequence[NpzFrames | np.ndarray]) -> None:
        self.spans = spans  # (2, N, 2): first frame and number of frames, of the input and of the output part
        self.parts = parts  # what holds the two parts, (frames, 1, H, W) each

    def __len__(self) -> int:
        return self.spans.shape[1]

    def size(self) -> tuple[int, int]:
        return self.parts[0].shape[2:]

    def shortest(self) -> int:
        return int(self.spans[:, :, 1].sum(axis=0).min())

    def frames(self, index: int, length: int) -> np.ndarray:
        (first, given), (second, following) = self.spans[:, index].tolist()
        given = min(given, length)
        following = min(following, length - given)
        if self.parts[0] is self.parts[1] and second == first + given:  # as a rule: one piece to read, not two
            return self.parts[0][first : second + following][:, 0]
        pieces = self.parts[0][first : first + given], self.parts[1][second : second + following]
        return np.concatenate(pieces)[:, 0]


class _NpyClips:
    """Read frame by frame, not mapped into memory: where a mapped file is cut, the system kills the process."""

    def __init__(self, path: str, shape: tuple[int, ...], start: int) -> None:
        self.path, self.shape, self.start = path, shape, start  # (T, N, H, W); place of the first number in the file

    def __len__(self) -> int:
        return self.shape[1]

    def size(self) -> tuple[int, int]:
        return self.shape[2:]

    def shortest(self) -> int:
        return self.shape[0]

    def frames(self, index: int, length: int) -> np.ndarray:
        frames = np.empty([min(length, self.shape[0]), *self.size()], np.uint8)
        try:
            with open(self.path, "rb") as file:  # anew each time: threads that read must not share a position
                for step, frame in enumerate(frames):
                    file.seek(self.start + (step * len(self) + index) * frame.nbytes)
                    if file.readinto(frame) != frame.nbytes:
                        raise LostFile(f"{self.path}: is shorter than it was at the start; copy it again")
        except OSError as error:
            raise LostFile(f"{self.path}: cannot be read any more ({error}); copy it again") from None
        return frames


def _read_npy(path: str) -> _NpyClips | _NpzClips:
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)  # its header is read, and its size checked
    except Exception as error:  # numpy raises a dozen kinds on a damaged header
        raise _unreadable(path, error) from None
    if frames.ndim != 4 or frames.dtype != np.uint8:
        raise UserError(f"{path}: an array {frames.dtype} {list(frames.shape)}, expected uint8 [T, N, H, W]")
    if frames.shape[0] > LONGEST:
        raise UserError(
            f"{path}: clips of {frames.shape[0]} frames in an array {list(frames.shape)}, expected [T, N, H, W]; "
            "is it [N, T, H, W]? then save array.swapaxes(0, 1)"
        )
    if not frames.flags.c_contiguous:
        return _whole(np.array(frames))
    return _NpyClips(path, frames.shape, frames.offset)


def _whole(frames: np.ndarray) -> _NpzClips:
    """The clips of an array [T, N, H, W] in memory: in Fortran order, which is rare, no frame is in one piece."""
    length, count, *size = frames.shape
    spans = np.zeros([2, count, 2], np.int64)
    spans[0, :, 0], spans[0, :, 1] = np.arange(count) * length, length
    return _NpzClips(spans, [frames.swapaxes(0, 1).reshape([-1, 1, *size])] * 2)


def _read_npz(path: str) -> _NpzClips:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name[: -len(".npy")] for name in archive.namelist() if name.endswith(".npy")]
            wanted = [name for name in ("clips", "input_raw_data", "output_raw_data") if name in names]
            arrays = {name: open_array(path, archive, name) for name in wanted}
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damaged bytes
        raise _unreadable(path, error) from None
    missing = [name for name in ("clips", "input_raw_data") if name not in arrays]
    if missing:
        raise UserError(f"{path}: has no array {', '.join(missing)} (it has {', '.join(names) or 'none'})")
    spans = arrays["clips"]
    given = arrays["input_raw_data"]
    following = arrays.get("output_raw_data", given)
    if len(spans.shape) != 3 or spans.shape[0] != 2 or spans.shape[2] != 2 or not _are_frames(given):
        raise UserError(
            f"{path}: clips {list(spans.shape)} and input_raw_data {list(given.shape)}, "
            "expected [2, N, 2] and [frames, 1, H, W]"
        )
    if spans.shape[1] > len(given):  # each begins at a frame of its own; so many are not read
        raise UserError(f"{path}: {spans.shape[1]} clips of {len(given)} frames; make the file again")
    spans = spans[:]
    for part in (given, following):
        if spans.dtype.kind not in "iu" or not (part.dtype.kind == "f" or part.dtype == np.uint8):
            raise UserError(
                f"{path}: clips of {spans.dtype} and frames of {part.dtype}, "
                "expected whole numbers and float or uint8 frames"
            )
    if following.shape[1:] != given.shape[1:]:
        raise UserError(f"{path}: frames of output_raw_data {following.shape} and input_raw_data {given.shape} differ")
    for part_spans, part in zip(spans, (given, following)):
        if (part_spans < 0).any() or (part_spans > len(part)).any() or (part_spans.sum(axis=1) > len(part)).any():
            raise UserError(f"{path}: clips name frames that the file does not hold; make the file again")
    return _NpzClips(spans, [given, following])


def _are_frames(part: NpzFrames | np.ndarray) -> bool:
    return len(part.shape) == 4 and part.shape[1] == 1


def _unreadable(path: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{path}: cannot be read as a Moving MNIST file ({reason}); expected .npz or .npy")
