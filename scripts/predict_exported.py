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
from pathlib import Path

import cv2
import numpy as np

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


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
    try:
        sizes = json.loads((model / "forecast.json").read_text(encoding="utf-8"))
        return {name: int(sizes[name]) for name in ("input_length", "total_length", "img_width", "img_channel")}
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--model {model}: forecast.json is damaged; export the checkpoint again") from None


def read_frames(path: Path, sizes: dict[str, int]) -> np.ndarray:
    """The first input_length frames of a folder or an .npy, float32 ``[1, input_length, H, W, C]`` in [0, 1]."""
    length, width, channels = sizes["input_length"], sizes["img_width"], sizes["img_channel"]
    frames = list(read_folder(path, length, channels) if path.is_dir() else read_array(path))[:length]
    if len(frames) < length:
        raise UsageError(f"--frames {path}: holds {len(frames)} frames, the program takes {length}; give more")
    resized = [cv2.resize(frame, (width, width), interpolation=cv2.INTER_LINEAR) for frame in frames]
    clip = np.stack(resized).reshape([1, length, width, width, -1])
    if clip.shape[-1] != channels:
        raise UsageError(f"--frames {path}: frames have {clip.shape[-1]} channels, the program takes {channels}")
    return clip


def read_folder(folder: Path, length: int, channels: int) -> list[np.ndarray]:
    """The first pictures of a folder in the order of the numbers in their names, grey or RGB, float32 in [0, 1]."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
    files.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    frames = []
    for path in files[:length]:
        # Not cv2.imread: it dies of a path that is not UTF-8. imdecode raises where there is no byte at all.
        content = np.frombuffer(path.read_bytes() or b"\0", np.uint8)
        picture = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
        if picture is None:
            raise UsageError(f"--frames {folder}: {path.name} is not a picture that can be read; make it again")
        frames.append(picture / np.float32(255) if channels == 1 else picture[:, :, ::-1] / np.float32(255))
    return frames


def read_array(path: Path) -> np.ndarray:
    """An .npy of frames ``[T, H, W]`` or ``[T, H, W, C]`` as float32 in [0, 1]."""
    try:
        frames = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"--frames {path}: there is no such folder or file; check the path") from None
    except (ValueError, EOFError):
        raise UsageError(f"--frames {path}: is not an .npy of numbers; give one, or a folder of pictures") from None
    if not isinstance(frames, np.ndarray) or frames.ndim not in (3, 4) or 0 in frames.shape:
        shape = list(getattr(frames, "shape", []))
        raise UsageError(f"--frames {path}: has the shape {shape}; expected [T, H, W] or [T, H, W, C]")
    if frames.dtype == np.uint8:
        return frames / np.float32(255)
    if frames.dtype.kind != "f" or not (frames.min() >= 0 and frames.max() <= 1):
        raise UsageError(f"--frames {path}: is neither uint8 nor floats in [0, 1]; convert it")
    return frames.astype(np.float32)


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
    except KeyboardInterrupt:
        print("predict_exported.py: stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {len(predicted)} frames to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
