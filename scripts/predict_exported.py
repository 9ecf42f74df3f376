"""Predict the next frames of a clip with an exported program: numpy, OpenCV and Paddle, nothing of this project.

    python scripts/predict_exported.py --model exported --frames FOLDER --out forecast
    python scripts/predict_exported.py --model exported --frames clip.npy --out forecast

--model is what scripts/export_model.py wrote. --frames is a folder of pictures, whose first ones in the order of the
numbers in their names are taken, or an .npy [T, H, W] or [T, H, W, C], uint8 or floats in [0, 1]. --out is a new folder
for pd11.png ..., numbered on from the frames given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
SIZES = ("input_length", "total_length", "img_width", "img_channel")  # of forecast.json
LARGEST = 2**28  # numbers of a frame, or of the frames given: 1 GB as float32


class UsageError(Exception):
    """One line for the user."""


def predict(model: Path, frames: np.ndarray) -> np.ndarray:
    """Run the program in the folder ``model``: float32 ``[B, input_length, H, W, C]`` -> ``[B, steps, H, W, C]``."""
    if is_amd():  # MKL takes a slow path there: three times the time
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    warnings.filterwarnings("ignore", message="No ccache found")  # paddle's advice at every import; nothing compiles
    from paddle import inference

    config = inference.Config(str(model / "model.json"), str(model / "model.pdiparams"))
    config.disable_mkldnn()  # Paddle 3.3's oneDNN kernels crash inside a program's loop
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(os.cpu_count() or 1)
    predictor = inference.create_predictor(config)
    given = predictor.get_input_handle(predictor.get_input_names()[0])
    given.reshape(frames.shape)
    given.copy_from_cpu(np.ascontiguousarray(frames))
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


def is_amd() -> bool:
    """Whether this is Linux on an AMD processor."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def read_sizes(model: Path) -> dict[str, int]:
    """forecast.json of an exported program, whose files are all there."""
    files = ("forecast.json", "model.json", "model.pdiparams")
    missing = [name for name in files if not (model / name).is_file()]
    if missing:
        raise UsageError(f"--model {model}: no {missing[0]} in it; give a folder that export_model.py wrote")
    flag = f"--model {model}: forecast.json"
    try:
        found = json.loads((model / "forecast.json").read_text(encoding="utf-8"))
        sizes = {name: found[name] for name in SIZES}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{flag} is damaged; export the checkpoint again") from None
    for name, value in sizes.items():
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise UsageError(f"{flag} is damaged ({name} is {value!r:.20}); export the checkpoint again")
    if sizes["input_length"] * sizes["img_width"] ** 2 * sizes["img_channel"] > LARGEST:
        raise UsageError(f"{flag} is damaged (its frames would fill the memory); export the checkpoint again")
    return sizes


def read_frames(path: Path, sizes: dict[str, int]) -> np.ndarray:
    """The first input_length frames of a folder or an .npy, float32 ``[1, input_length, H, W, C]`` in [0, 1]."""
    length, width, channels = sizes["input_length"], sizes["img_width"], sizes["img_channel"]
    resized = []
    # One frame at a time, as they are larger before.
    for frame in islice(read_folder(path, channels) if path.is_dir() else read_array(path), length):
        found = 1 if frame.ndim == 2 else frame.shape[2]
        if found != channels:
            raise UsageError(f"--frames {path}: frames have {found} channels, the program takes {channels}")
        resized.append(cv2.resize(to_unit(path, frame), (width, width), interpolation=cv2.INTER_LINEAR))
    if len(resized) < length:
        raise UsageError(f"--frames {path}: holds {len(resized)} frames, the program takes {length}; give more")
    return np.stack(resized).reshape([1, length, width, width, channels])


def to_unit(path: Path, frame: np.ndarray) -> np.ndarray:
    """A frame of uint8, or of floats in [0, 1], as float32 in [0, 1]."""
    if frame.size > LARGEST:
        raise UsageError(f"--frames {path}: a frame of {frame.size} numbers is too large; make it smaller")
    if frame.dtype == np.uint8:
        return frame / np.float32(255)
    if frame.dtype.kind != "f" or not (frame.min() >= 0 and frame.max() <= 1):
        raise UsageError(f"--frames {path}: is neither uint8 nor floats in [0, 1]; convert it")
    return frame.astype(np.float32)


def read_folder(folder: Path, channels: int) -> Iterator[np.ndarray]:
    """The pictures of a folder in the order of the numbers in their names, uint8, grey or RGB."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
    files.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    for path in files:
        # Not cv2.imread: it dies of a path that is not UTF-8. imdecode raises where there is no byte at all.
        content = np.frombuffer(path.read_bytes() or b"\0", np.uint8)
        try:
            picture = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
        except cv2.error:  # it claims to be larger than OpenCV decodes
            picture = None
        if picture is None:
            raise UsageError(f"--frames {folder}: {path.name} is not a picture that can be read; make it again")
        yield picture if channels == 1 else picture[:, :, ::-1]


def read_array(path: Path) -> np.ndarray:
    """An .npy of frames ``[T, H, W]`` or ``[T, H, W, C]``; it is mapped, so that its size takes no memory."""
    if not path.exists():
        raise UsageError(f"--frames {path}: there is no such folder or file; check the path")
    try:
        frames = np.lib.format.open_memmap(path, mode="r") if path.is_file() else None  # a pipe would wait for good
    except (ValueError, EOFError, OverflowError):  # its header claims more than there is, say
        frames = None
    if frames is None:
        raise UsageError(f"--frames {path}: is not an .npy of numbers; give one, or a folder of pictures")
    if frames.ndim not in (3, 4) or 0 in frames.shape:
        raise UsageError(f"--frames {path}: has the shape {list(frames.shape)}; expected [T, H, W] or [T, H, W, C]")
    return frames


def write_pictures(frames: np.ndarray, out: Path, first_number: int) -> None:
    """Frames ``[steps, H, W, C]`` in [0, 1] as pdNN.png in a new folder, which appears when all are written."""
    partial = out.resolve().with_name(f".{out.resolve().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for number, frame in enumerate((frames * 255).astype(np.uint8), first_number):
            picture = cv2.imencode(".png", frame[:, :, ::-1])[1]  # RGB to OpenCV's BGR; grey is the same
            (partial / f"pd{number:02d}.png").write_bytes(picture.tobytes())
        partial.rename(out.resolve())
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UsageError(f"{message}; see --help")


def main() -> int:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="folder that export_model.py wrote")
    parser.add_argument("--frames", type=Path, required=True, help="folder of pictures, or an .npy")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the predicted frames")
    try:
        arguments = parser.parse_args()
        out = arguments.out
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UsageError(f"--out {out}: is there and not an empty folder; give a new one")
        sizes = read_sizes(arguments.model)
        frames = read_frames(arguments.frames, sizes)
        try:
            predicted = predict(arguments.model, frames)[0]
        except (RuntimeError, ValueError, OSError) as error:  # Paddle's own, on files that are damaged
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise UsageError(f"--model {arguments.model}: cannot be run ({reason}); export it again") from None
        write_pictures(predicted, out, sizes["input_length"] + 1)
    except UsageError as error:
        print(f"predict_exported.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"predict_exported.py: {error.filename}: {error.strerror}; check it", file=sys.stderr)
        return 2
    except MemoryError:
        print("predict_exported.py: out of memory; free some, or give smaller frames", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("predict_exported.py: stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {len(predicted)} frames to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
