"""Put the sheets of several forecasts of a test below one another in one picture.

    python scripts/draw_forecast.py results/kth/test_result/{1,2,3} --out forecast.png

Reads sheet.png of the folders that a test writes: rows for truth, forecast and error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from src.config import OneLineParser  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.reports.pictures import SHEET_FILE  # noqa: E402

WHITE = 255


def read_sheet(folder: Path) -> np.ndarray:
    """The sheet of a forecast, uint8 ``[rows, columns, 3]``.

    Raises:
        UserError: there is none.
    """
    sheet = cv2.imread(str(folder / SHEET_FILE)) if (folder / SHEET_FILE).is_file() else None
    if sheet is None:
        raise UserError(f"{folder}: no {SHEET_FILE} of a test in it; give <gen_frm_dir>/<test>/<batch>")
    return sheet


def montage(sheets: list[np.ndarray]) -> np.ndarray:
    """The sheets below one another, narrower ones filled up with white."""
    width = max(sheet.shape[1] for sheet in sheets)
    return np.vstack([
        np.pad(sheet, [(0, 0), (0, width - sheet.shape[1]), (0, 0)], constant_values=WHITE) for sheet in sheets
    ])  # fmt: skip


def main() -> int:
    parser = OneLineParser(
        prog="scripts/draw_forecast.py", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folders", type=Path, nargs="+", help="<gen_frm_dir>/<test>/<batch>")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    try:
        arguments = parser.parse_args()
        picture = montage([read_sheet(folder) for folder in arguments.folders])
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    except (UserError, OSError) as error:
        print(f"draw_forecast.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
