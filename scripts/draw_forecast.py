"""Draw forecasts of a test as one picture: the given frames and the truth above, the predictions below.

    python scripts/draw_forecast.py results/kth/test_result/1 --out forecast.png
    python scripts/draw_forecast.py results/kth/test_result/{1,2,3} --out forecast.png --every 2

Reads gt*.png and pd*.png of the folders that a test writes.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from src.config import OneLineParser  # noqa: E402
from src.errors import UserError  # noqa: E402

PICTURE_NAME = re.compile(r"(gt|pd)(\d+)\.png")
GAP, LABELS, WHITE, BLACK = 4, 22, 255, 0  # pixels, pixels, grey levels
LARGEST_ZOOM = 32
MARK = 3  # width of the line where the forecast begins


def read_sequence(folder: Path) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Frame number -> grey picture, of the truth and of the prediction."""
    frames: dict[str, dict[int, np.ndarray]] = {"gt": {}, "pd": {}}
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        match = PICTURE_NAME.fullmatch(path.name)
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if match else None
        if picture is not None:
            frames[match[1]][int(match[2])] = picture
    if not frames["gt"] or not frames["pd"] or not frames["pd"].keys() <= frames["gt"].keys():
        raise UserError(f"{folder}: no gt*.png and pd*.png of a test in it; give <gen_frm_dir>/<test>/<batch>")
    return frames["gt"], frames["pd"]


def draw_sequence(folder: Path, zoom: int, every: int) -> np.ndarray:
    """One sequence as uint8 grey ``[rows, columns]``: truth in the first row, predictions below their truths."""
    truth, prediction = read_sequence(folder)
    first = min(prediction)
    numbers = [number for number in sorted(truth) if (number - first) % every == 0]
    side = next(iter(truth.values())).shape
    height, width = side[0] * zoom, side[1] * zoom
    sheet = np.full([LABELS + 2 * height + GAP, len(numbers) * (width + GAP) - GAP], WHITE, np.uint8)
    for place, number in enumerate(numbers):
        left = place * (width + GAP)
        label = f"given {number}" if number < first else f"{number}"
        cv2.putText(sheet, label, (left + 2, LABELS - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, BLACK, 1, cv2.LINE_AA)
        for top, frames in ((LABELS, truth), (LABELS + height + GAP, prediction)):
            if number in frames:
                picture = cv2.resize(frames[number], (width, height), interpolation=cv2.INTER_NEAREST)
                sheet[top : top + height, left : left + width] = picture
        if number == first and place:
            sheet[:, left - GAP // 2 - MARK // 2 : left - GAP // 2 + MARK // 2 + 1] = BLACK
    given = sum(number < first for number in numbers)
    if given:
        for text, top in (("truth above", height // 2 - 8), ("prediction below", height // 2 + 12)):
            place = (6, LABELS + height + GAP + top)
            cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, BLACK, 1, cv2.LINE_AA)
    return sheet


def main() -> int:
    parser = OneLineParser(
        prog="scripts/draw_forecast.py", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folders", type=Path, nargs="+", help="<gen_frm_dir>/<test>/<batch>")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    parser.add_argument("--zoom", type=int, default=1, help="enlarge each pixel (default: 1)")
    parser.add_argument("--every", type=int, default=1, help="show every Nth frame (default: 1)")
    try:
        arguments = parser.parse_args()
        if not 1 <= arguments.zoom <= LARGEST_ZOOM or arguments.every < 1:
            raise UserError(f"--zoom and --every: expected 1 or more, --zoom at most {LARGEST_ZOOM}")
        sheets = [draw_sequence(folder, arguments.zoom, arguments.every) for folder in arguments.folders]
        width = max(sheet.shape[1] for sheet in sheets)
        padded = [np.pad(s, [(0, 3 * GAP), (0, width - s.shape[1])], constant_values=WHITE) for s in sheets]
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        encoded = cv2.imencode(".png", np.vstack(padded))[1]
        arguments.out.write_bytes(encoded.tobytes())
    except (UserError, OSError) as error:
        print(f"draw_forecast.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
