"""Predict the next frames of a clip with an exported program: an example with numpy, OpenCV and Paddle alone.

    python scripts/predict_exported.py --model exported --frames FOLDER --out forecast

--model is what scripts/export_model.py wrote. --frames is a folder of pictures, whose first ones in the order of the
numbers in their names are taken, or an .npy [T, H, W] or [T, H, W, C], uint8 or floats in [0, 1]. --out is a new folder
for pd11.png ..., numbered on from the frames given.
"""

import argparse
import itertools
import json
import os
import re
import warnings
from pathlib import Path

parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=__doc__.split("\n")[0], allow_abbrev=False)
parser.add_argument("--model", type=Path, required=True, help="folder that export_model.py wrote")
parser.add_argument("--frames", type=Path, required=True, help="folder of pictures, or an .npy")
parser.add_argument("--out", type=Path, required=True, help="new folder for the predicted frames")

if os.path.exists("/proc/cpuinfo") and b"AuthenticAMD" in Path("/proc/cpuinfo").read_bytes():
    os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")  # before Paddle is loaded; else it takes three times the time
warnings.filterwarnings("ignore", message="No ccache found")  # Paddle's advice at every import; nothing compiles
try:
    import cv2
    import numpy as np
    from paddle import inference
except ModuleNotFoundError as error:
    parser.error(f"the package {error.name} is not installed: pip install numpy opencv-python-headless paddlepaddle")


def predict(model: Path, frames: np.ndarray) -> np.ndarray:
    """Run the program in the folder ``model``: float32 ``[B, input_length, H, W, C]`` -> ``[B, steps, H, W, C]``."""
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


def read_folder(folder: Path, channels: int):
    """The pictures of a folder in the order of the numbers in their names, uint8, grey or RGB."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp")]
    for path in sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)]):
        # Not cv2.imread: it dies of a path that is not UTF-8.
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"{path.name} is not a picture that can be read")
        yield picture if channels == 1 else picture[:, :, ::-1]


def read_frames(path: Path, length: int, width: int, channels: int) -> np.ndarray:
    """The first frames of a folder or an .npy, float32 ``[1, length, width, width, channels]`` in [0, 1]."""
    source = read_folder(path, channels) if path.is_dir() else np.load(path, mmap_mode="r")
    frames = list(itertools.islice(source, length))
    if len(frames) < length:
        raise ValueError(f"it holds {len(frames)} frames, the program takes {length}")
    if np.ndim(frames[0]) not in (2, 3):
        raise ValueError("expected frames [T, H, W] or [T, H, W, C]")
    frames = np.stack([cv2.resize(np.asarray(frame), (width, width)) for frame in frames])
    if frames.dtype == np.uint8:
        frames = frames / np.float32(255)
    if frames.dtype.kind != "f" or frames.min() < 0 or frames.max() > 1:
        raise ValueError("it holds neither uint8 nor floats in [0, 1]")
    return frames.reshape([1, length, width, width, channels]).astype(np.float32)


def main() -> None:
    arguments = parser.parse_args()
    if arguments.out.is_file() or any(arguments.out.glob("*")):
        parser.error(f"--out {arguments.out}: is there and not an empty folder; give a new one")
    what = f"--model {arguments.model}"
    try:
        sizes = json.loads((arguments.model / "forecast.json").read_text(encoding="utf-8"))
        length, width, channels = sizes["input_length"], sizes["img_width"], sizes["img_channel"]
        what = f"--frames {arguments.frames}"
        frames = read_frames(arguments.frames, length, width, channels)
        what = f"--model {arguments.model}"
        predicted = predict(arguments.model, frames)[0]
    except KeyboardInterrupt:
        parser.exit(130, "predict_exported.py: stopped; nothing was written\n")
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, MemoryError, cv2.error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        parser.error(f"{what}: {reason}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate((predicted * 255).astype(np.uint8), length + 1):
        picture = cv2.imencode(".png", frame[:, :, ::-1])[1]  # RGB to OpenCV's BGR; grey is the same
        picture.tofile(arguments.out / f"pd{number:02d}.png")
    print(f"wrote {len(predicted)} frames to {arguments.out}")


if __name__ == "__main__":
    main()
