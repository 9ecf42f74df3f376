"""Make a Moving MNIST data set: digits that move in straight lines and bounce off the edges of the frame.

    python scripts/make_moving_mnist.py --split train --out data/mm_train.npz
    python scripts/make_moving_mnist.py --split test --clips 1000 --out data/mm_test.npy
    python scripts/make_moving_mnist.py --source digits --split train --digits 1 --size 32 --out data/small.npz

The digits are MNIST's, which Paddle downloads once and keeps. With --source digits they are scikit-learn's (1797
handwritten digits that come with the package, no download), enlarged from 8 x 8 pixels; with --images those of an IDX
file of MNIST, gzip or not. --split train and test share no digit.

The suffix of --out chooses the format: .npz as the PredRNN family reads it (clips, dims and input_raw_data, float32
frames in [0, 1]; the first half of a clip is its input), .npy as in mnist_test_seq.npy (frames x clips x rows x
columns, uint8). The same flags give the same bytes, and a clip depends only on the flags and its number: a longer set
begins with the shorter one.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import math
import os
import re
import signal
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.command import command  # noqa: E402, I001  before the packages: one may be missing

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.utils.preprocess import to_unit_range  # noqa: E402

GZIP_MAGIC = b"\x1f\x8b"
IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801  # uint8 with 3 axes, with 1 axis
MNIST_SIDE, MNIST_BOX = 28, 20  # pixels: MNIST's digits fill a box of 20 x 20 in a field of 28 x 28
LARGEST_SIDE, LONGEST, MOST_DIGITS = 512, 1000, 9
SPLITS = ("all", "train", "test")
MNIST_MODES = {"train": ["train"], "test": ["test"], "all": ["train", "test"]}  # Paddle's names of its two files
SPLIT_SEED, TEST_PART = 1797, 7  # the split of the digits is the same for every --seed; one in 7 tests, as in MNIST
SPEED = 0.1  # of the way a digit has in the frame, each frame: the original set's
CHUNK = 64  # clips drawn before they are written


@dataclass(frozen=True)
class Motion:
    """What the clips look like: pixels, frames and pixels a frame."""

    digits: int = 2
    size: int = 64
    length: int = 20
    digit_size: int = MNIST_SIDE
    speed: float = SPEED * (64 - MNIST_SIDE)


# ---- digits


def read_idx(path: Path) -> np.ndarray:
    """The pictures of an IDX file, gzip or not: uint8 ``[N, rows, columns]``.

    Raises:
        UserError: the file cannot be read, holds something else, or its size does not fit its header.
    """
    expected = "expected MNIST's pictures, as train-images-idx3-ubyte.gz"
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
    except OSError as error:  # gzip.BadGzipFile too
        raise UserError(f"--images {path}: cannot be read ({error.strerror or error}); {expected}") from None
    except Exception as error:  # zlib and gzip raise several kinds on damaged bytes
        raise UserError(f"--images {path}: damaged ({error}); {expected}; download it again") from None
    if len(content) < 16:
        raise UserError(f"--images {path}: {len(content)} bytes; {expected}")
    magic, count, rows, columns = struct.unpack(">IIII", content[:16])
    if magic == IDX_LABELS:
        raise UserError(f"--images {path}: holds labels; {expected}")
    if magic != IDX_IMAGES:
        raise UserError(f"--images {path}: begins with {content[:4].hex()}, not 00000803; {expected}")
    if len(content) != 16 + count * rows * columns:
        raise UserError(
            f"--images {path}: its header tells of {count} pictures of {rows} x {columns} pixels, "
            f"but {len(content) - 16} bytes follow; download it again"
        )
    if not count or rows != columns or not rows:
        raise UserError(f"--images {path}: {count} pictures of {rows} x {columns} pixels; expected some square ones")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, rows, columns)


def downloaded_digits(split: str) -> np.ndarray:
    """MNIST's own pictures of a split, uint8 ``[60000, 28, 28]`` or ``[10000, 28, 28]``, or all of them.

    Paddle downloads the files once and keeps them (``~/.cache/paddle/dataset/mnist``).

    Raises:
        UserError: they are not there and cannot be downloaded.
    """
    from paddle.vision.datasets import MNIST

    pictures = []
    for mode in MNIST_MODES[split]:
        said = io.StringIO()  # Paddle tells of each of its tries
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                path = MNIST(mode=mode).image_path
        except Exception as error:  # RuntimeError after three tries; what a damaged or unwritable file brings
            raise UserError(
                f"--source mnist: MNIST cannot be downloaded ({str(error).splitlines()[0] if str(error) else error}); "
                "give its files as --images train-images-idx3-ubyte.gz, or --source digits for scikit-learn's digits"
            ) from None
        pictures.append(read_idx(Path(path)))
    return np.concatenate(pictures)


def bundled_digits() -> np.ndarray:
    """scikit-learn's 1797 digits in the form of MNIST's: uint8 ``[1797, 28, 28]``.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "--source digits: scikit-learn, whose digits are taken, is not installed; pip install -r "
            "requirements/digits.txt, or give MNIST's file as --images train-images-idx3-ubyte.gz"
        ) from None
    small = load_digits().images.astype(np.float32) / 16  # (1797, 8, 8) in [0, 1]
    margin = (MNIST_SIDE - MNIST_BOX) // 2
    digits = np.zeros([len(small), MNIST_SIDE, MNIST_SIDE], np.uint8)
    for digit, picture in zip(digits, small):
        large = cv2.resize(picture, (MNIST_BOX, MNIST_BOX), interpolation=cv2.INTER_CUBIC)
        # Steeper edges: MNIST's strokes are white with a narrow grey edge, those of an enlarged picture are a blur.
        sharp = np.clip((large - 0.5) * 2 + 0.5, 0, 1)
        digit[margin:-margin, margin:-margin] = np.rint(sharp * 255)
    return digits


def digits_of(images: np.ndarray, split: str, digit_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The digits that a split draws from, resized: uint8 ``[n, digit_size, digit_size]``, and their numbers ``[n]``.

    The digits of "train" and "test" are disjoint, whatever the seed of the motion is; "all" takes every one.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    tests = math.ceil(len(images) / TEST_PART)
    chosen = np.sort({"all": order, "train": order[tests:], "test": order[:tests]}[split])
    if not len(chosen):
        raise UserError(f"--split {split}: no digit is left of {len(images)}; leave the flag out for all")
    if images.shape[1] == digit_size:
        return images[chosen], chosen
    # Area averaging when digits shrink: no jagged strokes.
    way = cv2.INTER_AREA if digit_size < images.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(images[n], (digit_size, digit_size), interpolation=way) for n in chosen]), chosen


# ---- motion


def bounce(places: np.ndarray, room: float) -> np.ndarray:
    """Places on an endless line, folded to [0, room]: a wall turns a digit back without a loss of way."""
    if room == 0:
        return np.zeros_like(places)
    return room - np.abs(places % (2 * room) - room)


def trajectories(rng: np.random.Generator, motion: Motion) -> np.ndarray:
    """Top and left of each digit in each frame, in pixels: float64 ``[digits, length, 2]``."""
    room = motion.size - motion.digit_size
    start = rng.uniform(0, room, [motion.digits, 1, 2])
    angle = rng.uniform(0, 2 * np.pi, [motion.digits, 1])
    velocity = motion.speed * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return bounce(start + velocity * np.arange(motion.length)[:, np.newaxis], room)


def draw_clip(digits: np.ndarray, seed: int, split: str, number: int, motion: Motion) -> np.ndarray:
    """Clip ``number`` of a set: uint8 ``[length, size, size]``. Where digits overlap the brighter pixel is seen."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    chosen = rng.integers(0, len(digits), motion.digits)
    places = np.rint(trajectories(rng, motion)).astype(int)  # whole pixels, as in the original set
    clip = np.zeros([motion.length, motion.size, motion.size], np.uint8)
    for digit, track in zip(digits[chosen], places):
        for frame, (top, left) in zip(clip, track):
            spot = frame[top : top + motion.digit_size, left : left + motion.digit_size]
            np.maximum(spot, digit, out=spot)
    return clip


# ---- files


def write_npy(path: Path, chunks: Iterator[np.ndarray], clips: int, motion: Motion) -> None:
    """uint8 ``[length, clips, size, size]``; a chunk's frames of one time step go to their place in one piece."""
    frame = motion.size**2
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (motion.length, clips, motion.size, motion.size)}
        np.lib.format.write_array_header_1_0(file, header)
        start, written = file.tell(), 0
        for chunk in chunks:  # (n, length, size, size)
            for step in range(motion.length):
                file.seek(start + (step * clips + written) * frame)
                file.write(np.ascontiguousarray(chunk[:, step]))
            written += len(chunk)
        file.flush()
        os.fsync(file.fileno())


def write_npz(path: Path, chunks: Iterator[np.ndarray], clips: int, motion: Motion) -> None:
    """clips ``[2, N, 2]``, dims ``[1, 3]`` and input_raw_data, float32 ``[N * length, 1, size, size]`` in [0, 1]."""
    given = motion.length // 2
    first = np.arange(clips) * motion.length
    spans = np.stack(
        [
            np.stack([first, np.full(clips, given)], axis=1),
            np.stack([first + given, np.full(clips, motion.length - given)], axis=1),
        ]
    ).astype(np.int32)
    dims = np.array([[1, motion.size, motion.size]], np.int32)
    shape = (clips * motion.length, 1, motion.size, motion.size)
    with open(path, "wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in (("clips", spans), ("dims", dims)):
                content = io.BytesIO()
                np.save(content, array)
                archive.writestr(_member(name), content.getvalue())
            # force_zip64: its size is not known when its header is written, and 2 GB are soon reached.
            with archive.open(_member("input_raw_data"), "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for chunk in chunks:
                    member.write(to_unit_range(chunk).astype("<f4").tobytes())
        file.flush()
        os.fsync(file.fileno())


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980-01-01: the same bytes whenever it is written
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # Unix, wherever it is written
    return info


FORMATS: dict[str, Callable[[Path, Iterator[np.ndarray], int, Motion], None]] = {".npz": write_npz, ".npy": write_npy}


def refuse_existing(out: Path) -> None:
    """Raises UserError where there is something already."""
    if out.exists():
        raise UserError(f"--out {out}: is there already; remove it or give another name")


def make_set(
    out: Path, images: np.ndarray, clips: int, motion: Motion, seed: int = 0, split: str = "all", is_split: bool = False
) -> int:
    """Write a set of clips; return how many digits it draws from. A few chunks are in memory at a time, no more.

    Args:
        images: uint8 ``[n, side, side]``, light digits on black.
        is_split: whether they are those of the split alone.

    Raises:
        UserError: out exists, or a setting that cannot be drawn.
        OSError: out cannot be written. Nothing is left of it.
    """
    refuse_existing(out)
    digits, _ = digits_of(images, "all" if is_split else split, motion.digit_size)

    def chunks() -> Iterator[np.ndarray]:
        with tqdm(total=clips, desc="clips", unit="clip", disable=None) as bar:
            for first in range(0, clips, CHUNK):
                numbers = range(first, min(first + CHUNK, clips))
                yield np.stack([draw_clip(digits, seed, split, number, motion) for number in numbers])
                bar.update(len(numbers))

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        FORMATS[out.suffix](partial, chunks(), clips, motion)
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return len(digits)


# ---- command line


def whole_number(flag: str, text: str, low: int, high: int) -> int:
    """A whole number within bounds, from text."""
    number = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1
    if not low <= number <= high:
        raise UserError(f"{flag} {text}: expected a whole number from {low} to {high}")
    return number


def motion_of(options: argparse.Namespace) -> Motion:
    """The flags that say what the clips look like, checked."""
    size = whole_number("--size", options.size, 8, LARGEST_SIDE)
    digit_size = whole_number("--digit_size", options.digit_size, 4, LARGEST_SIDE)
    if digit_size > size:
        raise UserError(f"--digit_size {digit_size}: larger than the frame, --size {size}; give a smaller one")
    try:
        speed = SPEED * (size - digit_size) if options.speed is None else float(options.speed)
    except ValueError:
        speed = math.nan
    if not 0 <= speed <= size:
        raise UserError(f"--speed {options.speed}: expected pixels a frame, from 0 to --size {size}")
    return Motion(
        digits=whole_number("--digits", options.digits, 1, MOST_DIGITS),
        size=size,
        length=whole_number("--length", options.length, 2, LONGEST),
        digit_size=digit_size,
        speed=speed,
    )


def build_parser() -> argparse.ArgumentParser:
    """The flags; numbers are checked afterwards, so that all messages read alike."""
    parser = OneLineParser(
        prog="scripts/make_moving_mnist.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write, .npz or .npy")
    parser.add_argument(
        "--source",
        choices=("mnist", "digits"),
        help="mnist: MNIST's digits, downloaded once (default); digits: scikit-learn's, no download",
    )
    parser.add_argument("--images", type=Path, help="IDX file of MNIST's pictures, in place of --source")
    parser.add_argument("--clips", default="10000", metavar="N", help="clips to make (default: %(default)s)")
    parser.add_argument("--digits", default="2", metavar="N", help="digits on one frame (default: %(default)s)")
    parser.add_argument("--size", default="64", metavar="PIXELS", help="rows and columns (default: %(default)s)")
    parser.add_argument("--length", default="20", metavar="N", help="frames of a clip (default: %(default)s)")
    parser.add_argument("--speed", metavar="PIXELS", help="pixels a frame (default: a tenth of size - digit_size)")
    parser.add_argument("--digit_size", default=str(MNIST_SIDE), metavar="PIXELS", help="(default: %(default)s)")
    parser.add_argument("--seed", default="0", metavar="N", help="other digits and motions (default: %(default)s)")
    parser.add_argument(
        "--split",
        default="all",
        choices=SPLITS,
        help="digits to draw from: train and test share none; MNIST's own split with --source mnist (default: all)",
    )
    return parser


@command("nothing is left of the unfinished file")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    out = options.out
    if out.suffix not in FORMATS:
        raise UserError(f"--out {out}: expected a name that ends in {' or '.join(FORMATS)}")
    refuse_existing(out)  # before anything is downloaded
    motion = motion_of(options)
    clips = whole_number("--clips", options.clips, 1, 10**6)
    seed = whole_number("--seed", options.seed, 0, 2**32 - 1)
    if options.images and options.source:
        raise UserError(f"--images {options.images} and --source {options.source}: expected one of them")
    is_split = not options.images and options.source != "digits"
    if is_split:
        images = downloaded_digits(options.split)
    else:
        images = read_idx(options.images) if options.images else bundled_digits()
    count = make_set(out, images, clips, motion, seed, options.split, is_split)
    what = f"{motion.digits} of {count} digits, {motion.length} frames of {motion.size} x {motion.size} pixels"
    print(f"wrote {out}: {clips} clips of {what}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    cv2.setNumThreads(1)
    sys.exit(main())
