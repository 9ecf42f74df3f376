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
import signal
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.command import command  # noqa: E402, I001  before the packages: one may be missing

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.utils.preprocess import to_unit_range  # noqa: E402

IDX_IMAGES = 0x00000803  # uint8 with 3 axes
MNIST_SIDE, MNIST_BOX = 28, 20  # pixels: MNIST's digits fill a box of 20 x 20 in a field of 28 x 28
SPLITS = {"all": ["train", "test"], "train": ["train"], "test": ["test"]}  # and Paddle's names of MNIST's two files
SPLIT_SEED, TEST_PART = 1797, 7  # the split of the digits is the same for every --seed; one in 7 tests, as in MNIST
SPEED = 0.1  # of the way a digit has in the frame, each frame: the original set's
CHUNK = 64  # clips drawn before they are written


class Motion(NamedTuple):
    """What the clips look like: pixels, frames and pixels a frame."""

    digits: int
    size: int
    length: int
    speed: float


# ---- digits: uint8 [n, side, side], light on black


def read_idx(path: Path) -> np.ndarray:
    """The pictures of an IDX file, gzip or not.

    Raises:
        UserError: the file cannot be read, or holds anything else than square pictures.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        magic, count, rows, columns = struct.unpack_from(">IIII", content)
        if magic != IDX_IMAGES or not count or not rows or rows != columns:
            raise ValueError(f"type {magic:08x}, {count} x {rows} x {columns}")
        return np.frombuffer(content, np.uint8, offset=16).reshape(count, rows, columns)
    except Exception as error:  # zlib, gzip and struct raise several kinds on damaged bytes
        wanted = "MNIST's pictures, as train-images-idx3-ubyte.gz"
        raise UserError(f"--images {path}: cannot be read ({error}); expected {wanted}; download it again") from None


def downloaded_digits(split: str) -> np.ndarray:
    """MNIST's own pictures of a split. Paddle downloads the files once and keeps them (~/.cache/paddle/dataset/mnist).

    Raises:
        UserError: they are not there and cannot be downloaded.
    """
    from paddle.vision.datasets import MNIST

    pictures = []
    for mode in SPLITS[split]:
        said = io.StringIO()  # Paddle tells of each of its tries
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                path = MNIST(mode=mode).image_path
        except Exception as error:  # RuntimeError after three tries; what a damaged or unwritable file brings
            raise UserError(
                f"--source mnist: MNIST cannot be downloaded ({error}); give its files as "
                "--images train-images-idx3-ubyte.gz, or --source digits for scikit-learn's digits"
            ) from None
        pictures.append(read_idx(Path(path)))
    return np.concatenate(pictures)


def bundled_digits() -> np.ndarray:
    """scikit-learn's 1797 digits in the form of MNIST's.

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


def part_of(digits: np.ndarray, split: str) -> np.ndarray:
    """The digits that a split draws from. Those of "train" and "test" are disjoint, whatever the seed of the motion is.

    Raises:
        UserError: there is none.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(digits))
    tests = math.ceil(len(digits) / TEST_PART)
    chosen = np.sort({"all": order, "train": order[tests:], "test": order[:tests]}[split])
    if not len(chosen):
        raise UserError(f"--split {split}: no digit is left of {len(digits)}; leave the flag out for all")
    return digits[chosen]


def resized(digits: np.ndarray, side: int) -> np.ndarray:
    if digits.shape[1] == side:
        return digits
    # Area averaging when digits shrink: no jagged strokes.
    way = cv2.INTER_AREA if side < digits.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(digit, (side, side), interpolation=way) for digit in digits])


# ---- motion


def trajectories(rng: np.random.Generator, motion: Motion, room: int) -> np.ndarray:
    """Top and left of each digit in each frame, from 0 to room pixels: float64 ``[digits, length, 2]``."""
    start = rng.uniform(0, room, [motion.digits, 1, 2])
    angle = rng.uniform(0, 2 * np.pi, [motion.digits, 1])
    velocity = motion.speed * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    endless = start + velocity * np.arange(motion.length)[:, np.newaxis]
    # Folded to [0, room]: a wall turns a digit back without a loss of way.
    return room - np.abs(endless % (2 * room) - room) if room else np.zeros_like(endless)


def draw_clip(digits: np.ndarray, seed: int, split: str, number: int, motion: Motion) -> np.ndarray:
    """Clip ``number`` of a set: uint8 ``[length, size, size]``. Where digits overlap the brighter pixel is seen."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), number])
    chosen = rng.integers(0, len(digits), motion.digits)
    side = digits.shape[1]
    places = np.rint(trajectories(rng, motion, motion.size - side)).astype(int)  # whole pixels, as in the original set
    clip = np.zeros([motion.length, motion.size, motion.size], np.uint8)
    for digit, track in zip(digits[chosen], places):
        for frame, (top, left) in zip(clip, track):
            spot = frame[top : top + side, left : left + side]
            np.maximum(spot, digit, out=spot)
    return clip


# ---- files: a few chunks of clips [n, length, size, size] are in memory at a time, no more


def write_npy(file: BinaryIO, chunks: Iterator[np.ndarray], clips: int, motion: Motion) -> None:
    """uint8 ``[length, clips, size, size]``; a chunk's frames of one time step go to their place in one piece."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (motion.length, clips, motion.size, motion.size)}
    np.lib.format.write_array_header_1_0(file, header)
    start, written = file.tell(), 0
    for chunk in chunks:
        for step in range(motion.length):
            file.seek(start + (step * clips + written) * motion.size**2)
            file.write(np.ascontiguousarray(chunk[:, step]))
        written += len(chunk)


def write_npz(file: BinaryIO, chunks: Iterator[np.ndarray], clips: int, motion: Motion) -> None:
    """clips ``[2, N, 2]``, dims ``[1, 3]`` and input_raw_data, float32 ``[N * length, 1, size, size]`` in [0, 1]."""
    given = motion.length // 2
    first = np.arange(clips) * motion.length
    inputs, outputs = (first, np.full(clips, given)), (first + given, np.full(clips, motion.length - given))
    spans = np.array([inputs, outputs], np.int32).swapaxes(1, 2)
    header = {"descr": "<f4", "fortran_order": False, "shape": (clips * motion.length, 1, motion.size, motion.size)}

    def entry(name: str) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980-01-01: the same bytes whenever it is written
        info.compress_type = zipfile.ZIP_DEFLATED
        return info

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in (("clips", spans), ("dims", np.array([[1, motion.size, motion.size]], np.int32))):
            with archive.open(entry(name), "w") as member:
                np.save(member, np.ascontiguousarray(array))
        # force_zip64: its size is not known when its header is written, and 2 GB are soon reached.
        with archive.open(entry("input_raw_data"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for chunk in chunks:
                member.write(to_unit_range(chunk).astype("<f4").tobytes())


FORMATS = {".npz": write_npz, ".npy": write_npy}


def make_set(out: Path, digits: np.ndarray, clips: int, motion: Motion, seed: int = 0, split: str = "all") -> None:
    """Write a set of clips of these digits.

    Raises:
        OSError: out cannot be written. Nothing is left of it.
    """

    def chunks() -> Iterator[np.ndarray]:
        with tqdm(total=clips, desc="clips", unit="clip", disable=None) as bar:
            for first in range(0, clips, CHUNK):
                numbers = range(first, min(first + CHUNK, clips))
                yield np.stack([draw_clip(digits, seed, split, number, motion) for number in numbers])
                bar.update(len(numbers))

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")  # of this run alone: a second one may be at work
    try:
        with open(partial, "wb") as file:
            FORMATS[out.suffix](file, chunks(), clips, motion)
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)


# ---- command line


def from_to(low: int, high: int) -> Callable[[str], int]:
    """For argparse: a whole number within bounds."""

    def number(text: str) -> int:
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected {low} to {high}")
        return int(text)

    return number


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="scripts/make_moving_mnist.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="file to write, .npz or .npy")
    source = "mnist: MNIST's digits, downloaded once (default); digits: scikit-learn's, no download"
    add("--source", choices=("mnist", "digits"), help=source)
    add("--images", type=Path, help="IDX file of MNIST's pictures, in place of --source")
    add("--clips", type=from_to(1, 10**6), default=10000, metavar="N", help="clips to make (default: %(default)s)")
    add("--digits", type=from_to(1, 9), default=2, metavar="N", help="digits on one frame (default: %(default)s)")
    add("--size", type=from_to(8, 512), default=64, metavar="PIXELS", help="rows and columns (default: %(default)s)")
    add("--length", type=from_to(2, 1000), default=20, metavar="N", help="frames of a clip (default: %(default)s)")
    add("--speed", type=float, metavar="PIXELS", help="pixels a frame (default: a tenth of size - digit_size)")
    add("--digit_size", type=from_to(4, 512), default=MNIST_SIDE, metavar="PIXELS", help="(default: %(default)s)")
    add("--seed", type=from_to(0, 2**32 - 1), default=0, help="other digits and motions (default: %(default)s)")
    split = "digits to draw from: train and test share none; MNIST's own split with --source mnist (default: all)"
    add("--split", default="all", choices=SPLITS, help=split)
    return parser


@command("nothing is left of the unfinished file")
def main(arguments: Sequence[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    out, size, digit_size = options.out, options.size, options.digit_size
    if out.suffix not in FORMATS:
        raise UserError(f"--out {out}: expected a name that ends in {' or '.join(FORMATS)}")
    if out.exists():
        raise UserError(f"--out {out}: is there already; remove it or give another name")
    if digit_size > size:
        raise UserError(f"--digit_size {digit_size}: larger than the frame, --size {size}; give a smaller one")
    speed = SPEED * (size - digit_size) if options.speed is None else options.speed
    if not 0 <= speed <= size:
        raise UserError(f"--speed {speed}: expected pixels a frame, from 0 to --size {size}")
    if options.images and options.source:
        raise UserError(f"--images {options.images} and --source {options.source}: expected one of them")

    if options.images or options.source == "digits":
        digits = part_of(read_idx(options.images) if options.images else bundled_digits(), options.split)
    else:
        digits = downloaded_digits(options.split)
    motion = Motion(options.digits, size, options.length, speed)
    make_set(out, resized(digits, digit_size), options.clips, motion, options.seed, options.split)
    what = f"{motion.digits} of {len(digits)} digits, {motion.length} frames of {size} x {size} pixels"
    print(f"wrote {out}: {options.clips} clips of {what}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    cv2.setNumThreads(1)
    sys.exit(main())
