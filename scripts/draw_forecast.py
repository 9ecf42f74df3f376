"""Put several forecasts of a test in one picture: their sheets below one another, or their animations in pairs.

    python scripts/draw_forecast.py results/kth/test_result/{1,2,3} --out forecast.png
    python scripts/draw_forecast.py results/kth/test_result/{1,2,3,4} --out forecast.gif

Reads sheet.png, or forecast.gif where --out ends in .gif, of the folders that a test writes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scripts.command import command  # noqa: E402, I001  before the packages: one may be missing

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image, ImageSequence  # noqa: E402

from src.data_provider.videos import PICTURE_ERRORS  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.reports.pictures import ANIMATION_FILE, FRAMES_PER_SECOND, SHEET_FILE, write_gif  # noqa: E402

WHITE = 255


def read_sheet(folder: Path) -> np.ndarray:
    """The sheet of a forecast, uint8 BGR ``[rows, columns, 3]``.

    Raises:
        UserError: there is none that can be read.
    """
    try:
        with Image.open(folder / SHEET_FILE, formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGB"))[:, :, ::-1]
    except PICTURE_ERRORS:
        raise UserError(f"{folder}: no {SHEET_FILE} of a test in it; give <gen_frm_dir>/<test>/<batch>") from None


def montage(sheets: list[np.ndarray]) -> np.ndarray:
    """The sheets below one another, narrower ones filled up with white."""
    width = max(sheet.shape[1] for sheet in sheets)
    return np.vstack(
        [np.pad(sheet, [(0, 0), (0, width - sheet.shape[1]), (0, 0)], constant_values=WHITE) for sheet in sheets]
    )


def read_animation(folder: Path) -> list[np.ndarray]:
    """The animation of a forecast: uint8 RGB ``[rows, columns, 3]``, a picture a frame.

    Raises:
        UserError: there is none that can be read.
    """
    try:
        with Image.open(folder / ANIMATION_FILE, formats=["GIF"]) as film:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    except PICTURE_ERRORS:
        raise UserError(f"{folder}: no {ANIMATION_FILE} of a test in it; give <gen_frm_dir>/<test>/<batch>") from None


def pairs(films: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Films of one shape and length, two beside each other; white where the last has no neighbour."""
    if len({(len(film), film[0].shape) for film in films}) > 1:
        raise UserError("the animations have different sizes or lengths; give forecasts of one test")
    blank = [np.full_like(picture, WHITE) for picture in films[0]]
    films = films + [blank] * (len(films) % 2 and len(films) > 1)
    rows = [films[start : start + 2] for start in range(0, len(films), 2)]
    return [np.vstack([np.hstack([film[place] for film in row]) for row in rows]) for place in range(len(blank))]


@command("nothing was written")
def main() -> None:
    parser = OneLineParser(
        prog="scripts/draw_forecast.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", type=Path, nargs="+", help="<gen_frm_dir>/<test>/<batch>")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, .png or .gif")
    arguments = parser.parse_args()
    if arguments.out.suffix == ".gif":
        film = pairs([read_animation(folder) for folder in arguments.folders])
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_gif(str(arguments.out), film, FRAMES_PER_SECOND)
    else:
        picture = montage([read_sheet(folder) for folder in arguments.folders])
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    sys.exit(main())
