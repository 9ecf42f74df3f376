"""Export a checkpoint as a program for paddle.inference, which needs nothing of this project any more.

    python scripts/export_model.py --pretrained_model checkpoints/kth/best --out exported
    python scripts/predict_exported.py --model exported --frames FOLDER --out forecast

The program takes the frames given, float32 [B, input_length, H, W, C] in [0, 1], and returns the next ones,
[B, total_length - input_length, H, W, C] in [0, 1]. B is free; the rest is that of the checkpoint's own settings. --out
holds the program and its weights, as paddle.jit.save names them (model.json, model.pdiparams), and forecast.json, which
tells the sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# Paddle's tracer writes lines on stderr that say nothing to a user.
os.environ.setdefault("GLOG_minloglevel", "2")

warnings.filterwarnings("ignore", message="No ccache found")  # paddle's advice at every import; nothing compiles

from scripts.command import command  # noqa: E402, I001  before the packages: one may be missing

import paddle  # noqa: E402

from src.checkpoints.checkpoint import MODEL_FILE, STATE_FILE, load_weights, read_checkpoint  # noqa: E402
from src.config import Config  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.models.forecaster import Forecaster  # noqa: E402
from src.models.model_factory import build_model  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.runtime.files import new_folder  # noqa: E402

PROGRAM = "model"
SIZES_FILE = "forecast.json"


def export(checkpoint: Path, out: Path) -> None:
    """Write the program of a checkpoint to a new folder, whole or not at all.

    Args:
        checkpoint: directory with model.safetensors and state.json.
        out: folder to make; it may be there if it is empty.

    Raises:
        UserError: no checkpoint there, a damaged one, out is a file or not empty, or Paddle is older than 3.
        OSError: out cannot be written.
    """
    if paddle.__version__.startswith("2."):
        raise UserError(f"Paddle {paddle.__version__}: its programs crash in the loop; export with Paddle 3")
    flag = f"--pretrained_model {checkpoint}"
    if (checkpoint / MODEL_FILE).exists() and not (checkpoint / STATE_FILE).exists():
        raise UserError(f"{flag}: {STATE_FILE} is missing, and with it the network's sizes; give a whole checkpoint")
    if out.is_file() or any(out.glob("*")):
        raise UserError(f"--out {out}: is there and not an empty folder; give a new one")
    state = read_checkpoint(flag, str(checkpoint)).state
    config = Config(**state["config"])
    network = build_model(config)
    load_weights(network, str(checkpoint), config)

    with new_folder(out) as partial:
        save_program(network, config, f"{partial}/{PROGRAM}")
        sizes = {
            "input_length": config.input_length,
            "total_length": config.total_length,
            "img_width": config.img_width,
            "img_channel": config.img_channel,
            "iteration": state["iteration"],
            "paddle": paddle.__version__,
        }
        Path(partial, SIZES_FILE).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


def save_program(network: paddle.nn.Layer, config: Config, path: str) -> None:
    """``paddle.jit.save`` of the network's :class:`Forecaster`, for frames of the size that config tells."""
    forecaster = Forecaster(network, config.patch_size, config.total_length - config.input_length)
    forecaster.eval()
    shape = [None, config.input_length, config.img_width, config.img_width, config.img_channel]
    frames = paddle.static.InputSpec(shape, "float32", "frames")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tensor do not have")  # a graph knows no place
        paddle.jit.save(forecaster, path, input_spec=[frames])


@command("nothing was written")
def main() -> None:
    parser = OneLineParser(
        prog="scripts/export_model.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pretrained_model", type=Path, required=True, help="checkpoint's directory")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the program")
    arguments = parser.parse_args()
    paddle.set_device("cpu")  # a program is the same for every device
    begin = time.perf_counter()
    export(arguments.pretrained_model, arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    print(f"wrote {arguments.out} ({size / 1e6:.1f} MB) in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
