"""Put any number of tests and trainings side by side on one web page.

    python scripts/compare_runs.py results/a/test_result results/b/test_result --out compare.html
    python scripts/compare_runs.py checkpoints/a checkpoints/b --names "layer of 48,layer of 64" --out compare.html

A folder with metrics.json is a test; one with metrics.csv or losses.csv is a training, of which the best test is taken.
The page is one file that needs no network: figures with the best marked, curves, and the forecasts of the same clips.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.reports.compare_page import WHICH, comparison, read_run, short_names  # noqa: E402
from src.runtime.files import write_whole  # noqa: E402


def names_of(given: str | None, folders: list[str]) -> list[str]:
    """The names of the runs, as given or made of the folders' paths.

    Raises:
        UserError: not one for each folder, or two that are the same.
    """
    if given is None:
        return short_names(folders)
    names = [name.strip() for name in given.split(",")]
    if len(names) != len(folders) or not all(names) or len(set(names)) < len(names):
        raise UserError(
            f"--names {given}: expected {len(folders)} different names with commas between, one for each folder, "
            f"found {len(names)}"
        )
    return names


def main() -> int:
    parser = OneLineParser(
        prog="scripts/compare_runs.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="<gen_frm_dir>/<test>, or a training's save_dir")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="page to write")
    parser.add_argument("--names", metavar="A,B", help="what the runs are called (what differs in their paths)")
    parser.add_argument("--test", choices=WHICH, default=WHICH[0], help="test of a training to take (best, by PSNR)")
    try:
        arguments = parser.parse_args()
        names = names_of(arguments.names, arguments.folders)
        runs = [read_run(folder, arguments.test) for folder in arguments.folders]
        for run, name in zip(runs, names):
            run.name = name
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.out, comparison(runs))
    except (UserError, OSError) as error:
        print(f"compare_runs.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
