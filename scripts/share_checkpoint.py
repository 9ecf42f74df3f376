"""Make of a checkpoint a folder to share: its weights without the optimizer, its figures, no paths of this machine.

    python scripts/share_checkpoint.py checkpoints/mm/best --out pretrained/mm

The folder is an ordinary checkpoint for --pretrained_model, --predict_video and scripts/export_model.py. A training
cannot be continued from it (--resume), since the optimizer's state is left out. With --ema its weights are the moving
average. losses.csv, metrics.csv and curves.png of the run come along where they stand beside the checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.checkpoint_files import STATE_FILE  # noqa: E402
from src.config import Config  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402

PATHS = (
    "train_data_paths",
    "valid_data_paths",
    "save_dir",
    "gen_frm_dir",
    "pretrained_model",
    "predict_video",
    "log_dir",
)
OF_THE_RUN = ("losses.csv", "metrics.csv", "curves.png")


def share(checkpoint: Path, out: Path) -> None:
    """Write the folder.

    Raises:
        UserError: no whole checkpoint there, or ``out`` is there already.
        OSError: out cannot be written.
    """
    from src.checkpoints.checkpoint import EMA_FILE, MODEL_FILE, read_checkpoint

    read_checkpoint(str(checkpoint), str(checkpoint))  # verifies every file's checksum
    if out.exists():
        raise UserError(f"--out {out}: is there already; remove it or give another name")
    state = json.loads((checkpoint / STATE_FILE).read_text())
    weights = EMA_FILE if EMA_FILE in state["sha256"] else MODEL_FILE
    defaults = dataclasses.asdict(Config())
    state["config"].update({name: defaults[name] for name in PATHS if name in state["config"]})
    state["config"]["ema"] = defaults["ema"]
    state["sha256"] = {MODEL_FILE: state["sha256"][weights]}
    out.mkdir(parents=True)
    shutil.copyfile(checkpoint / weights, out / MODEL_FILE)
    (out / STATE_FILE).write_text(json.dumps(state, indent=1))
    for name in OF_THE_RUN:
        if (checkpoint.parent / name).is_file():
            shutil.copyfile(checkpoint.parent / name, out / name)


def main() -> int:
    parser = OneLineParser(
        prog="scripts/share_checkpoint.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="<save_dir>/<iteration> or <save_dir>/best")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    try:
        arguments = parser.parse_args()
        share(arguments.checkpoint, arguments.out)
    except (UserError, OSError) as error:
        print(f"share_checkpoint.py: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    print(f"wrote {arguments.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
