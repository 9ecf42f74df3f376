"""Draw sample data in the on-disk format of the KTH Actions data set: no download, no video needed.

    python scripts/make_sample_data.py --out data/sample
    python scripts/make_sample_data.py --out data/sample --frames 100 --size 64x64 --persons 01,02,17 --seed 7
    python scripts/make_sample_data.py --out data/sample --actions walking,running --scenarios 4
    python scripts/make_sample_data.py --out data/dusk --dusk

Writes ``DIR/<action>/personNN_<action>_dD_uncomp/image_0001.jpg ...``: grey 8-bit JPEGs in which a jointed figure
boxes, claps, waves, walks, jogs or runs before a still background, 25 frames to the second. The motion is periodic, so
a few frames foretell the next ones.

The same flags give the same bytes. A frame depends only on seed, person, action, scenario, frame number and size,
so a larger tree contains the smaller ones. A recording's folder appears under its name only when it is complete.
A folder that exists already is kept as it is and skipped, whatever is in it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.command import command  # noqa: E402, I001  before the packages: one may be missing

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from scripts.sample_figure import draw_figure, figure_at, random_person, random_take  # noqa: E402
from src.data_provider.kth_sequences import ACTIONS  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.runtime.files import new_folder  # noqa: E402

DEFAULT_PERSONS = ("01", "02", "03", "04", "17", "18")  # KTH's split: 01 to 16 train, 17 to 25 test
DEFAULT_FRAMES = 60
DEFAULT_SIZE = (160, 120)  # width, height: KTH's own
FRAMES_PER_SECOND = 25.0
JPEG_QUALITY = 95
SUPERSAMPLING = 4  # the figure is drawn this much larger and averaged down, so that it moves by parts of a pixel

# Background: (grey far, grey near, height of the ground line, its softness) of the places d1 to d4; the last two
# are parts of the picture's height. d1 to d3 are lawns, d4 is a room.
PLACES = ((147, 131, 0.42, 0.10), (139, 149, 0.50, 0.06), (152, 133, 0.34, 0.08), (157, 118, 0.74, 0.006))
ROOM = 4
TEXTURE_OCTAVES = ((0.30, 2.2), (0.10, 2.0), (0.035, 2.2), (0.014, 2.6))  # cell (part of the height), grey levels
LAWN_STRETCH, ROOM_STRETCH = 2.5, 1.0  # grass seen at a slant: wider than high
LAWN_STRENGTH, ROOM_STRENGTH = 1.0, 0.45  # a wall is smoother than a lawn
VIGNETTE = 0.10  # part of the light lost in the corners
SHADOW_STRENGTH, SHADOW_WIDTH, SHADOW_HEIGHT = 0.22, 0.17, 0.022  # the last two in body heights
# --dusk: light left of the background's, and the figure's grey levels as under a lamp (offset, contrast).
DUSK_LIGHT, LAMP_OFFSET, LAMP_CONTRAST = 0.15, 130.0, 0.45

FIGURE_SCALES = (0.66, 0.63, 0.68, 0.645)  # body height as a part of the picture, d1 to d4
FIGURE_SMALLEST, FIGURE_LARGEST = 0.60, 0.70
FIGURE_MIDDLE = 0.55  # where the middle of the body stands, part of the picture's height from the top


class Summary(NamedTuple):
    """What make_tree did."""

    folders: int
    frames: int
    kept: int


def random_stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for one purpose and key; adding persons or frames leaves the others as they were."""
    return np.random.default_rng([seed, *purpose.encode(), *key])


def smooth_noise(rng: np.random.Generator, width: int, height: int, cell: float, stretch: float) -> np.ndarray:
    """Noise of standard deviation 1 whose blobs are about cell pixels high and stretch times as wide."""
    rows, columns = (max(2, math.ceil(side) + 2) for side in (height / cell, width / (cell * stretch)))
    grid = rng.standard_normal((rows, columns)).astype(np.float32)
    field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def make_place(seed: int, scenario: int, width: int, height: int) -> np.ndarray:
    """The still background ``[height, width]`` (float32 grey levels) of a scenario, the same for every person."""
    rng = random_stream(seed, "place", scenario)
    far, near, line, softness = PLACES[scenario - 1]
    stretch, strength = (ROOM_STRETCH, ROOM_STRENGTH) if scenario == ROOM else (LAWN_STRETCH, LAWN_STRENGTH)
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width
    line += float(rng.uniform(-0.02, 0.02))
    ground = 1.0 / (1.0 + np.exp(-np.clip((rows - line) / softness * 2.0, -30, 30)))
    field = np.repeat((far + (near - far) * ground)[:, None], width, axis=1)
    for cell, levels in TEXTURE_OCTAVES:
        field += levels * strength * smooth_noise(rng, width, height, max(1.0, cell * height), stretch)
    corner_distance = (2 * rows[:, None] - 1) ** 2 + (2 * columns[None, :] - 1) ** 2
    return (field * (1.0 - VIGNETTE / 2 * corner_distance)).astype(np.float32)


def bell(length: int, middle: float, width: float) -> np.ndarray:
    """A row of values that fall off from 1 on both sides of the middle."""
    return np.exp(-(((np.arange(length) + 0.5 - middle) / width) ** 2)).astype(np.float32)


def draw_frames(
    seed: int, person_number: int, action: str, scenario: int, size: tuple[int, int], dusk: bool = False
) -> Iterator[np.ndarray]:
    """The frames ``[height, width]`` uint8 of a recording, without end."""
    width, height = size
    recording = (person_number, ACTIONS.index(action), scenario)
    person = random_person(random_stream(seed, "person", person_number))
    take = random_take(random_stream(seed, "take", *recording))
    noise = random_stream(seed, "noise", *recording)
    place = make_place(seed, scenario, width, height) + np.float32(person.light)
    if dusk:
        place *= DUSK_LIGHT
    share = min(FIGURE_LARGEST, max(FIGURE_SMALLEST, FIGURE_SCALES[scenario - 1] * person.height))
    body = share * min(width, height)  # pixels; a narrow picture has to hold the arms
    ground = FIGURE_MIDDLE * height + body / 2
    shadow_rows = bell(height, ground, SHADOW_HEIGHT * body)
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING, 2), np.uint8)
    for frame in itertools.count():
        parts, position, facing = figure_at(person, take, action, frame / FRAMES_PER_SECOND, width / body)
        middle = width / 2 + position * body
        canvas[:] = 0
        draw_figure(canvas, parts, SUPERSAMPLING * complex(middle, ground), SUPERSAMPLING * body, facing)
        figure = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        grey, coverage = figure[:, :, 0], figure[:, :, 1]  # the grey is weighted with the coverage
        if dusk:
            grey = LAMP_CONTRAST * grey + LAMP_OFFSET * coverage / 255
        shadow = shadow_rows[:, None] * bell(width, middle, SHADOW_WIDTH * body)[None, :]
        picture = place * (1 - SHADOW_STRENGTH * shadow) * (1 - coverage / 255) + grey
        picture += person.noise * noise.standard_normal((height, width), dtype=np.float32)
        yield np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def expect(holds: bool, flag: str, found: object, wanted: str) -> None:
    """Raise the UserError of a flag unless its value is right."""
    if not holds:
        raise UserError(f"{flag} {found}: expected {wanted}")


def make_tree(
    out: str | os.PathLike[str],
    persons: Sequence[str | int] = DEFAULT_PERSONS,
    actions: Sequence[str] = ACTIONS,
    frames: int = DEFAULT_FRAMES,
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
    scenarios: int = 1,
    dusk: bool = False,
) -> Summary:
    """Draw a tree in KTH's format; folders that exist are kept and skipped.

    Args:
        out: where the action folders go; made if it is missing.
        persons: numbers from 1 to 25, as ``"01"`` or 1.
        actions: some of :data:`ACTIONS`.
        frames: frames a recording, 1 to 9999.
        size: width and height in pixels, 32 to 2048 each.
        seed: not negative; another seed gives other persons, places and noise.
        scenarios: recordings a person and action, d1 to at most d4.
        dusk: lit figures before a dark background. A network learns them sooner: before a bright one it spends its
            first thousands of iterations on the background.

    Returns:
        folders and frames written, and folders kept.

    Raises:
        UserError: (a ValueError) a setting is out of range.
        OSError: something cannot be written.
    """
    expect(os.fspath(out) != "", "--out", "''", "a folder")
    numbers = [int(person) if re.fullmatch("[0-9]{1,2}", str(person)) else 0 for person in persons]
    expect(
        all(1 <= number <= 25 for number in numbers) and len({0, *numbers}) > len(numbers) > 0,
        "--persons",
        ",".join(map(str, persons)),
        "numbers from 01 to 25 with commas between, each once",
    )
    known = f"some of {','.join(ACTIONS)}, each once"
    expect(0 < len(set(actions) & set(ACTIONS)) == len(actions), "--actions", ",".join(actions), known)
    expect(1 <= frames <= 9999, "--frames", frames, "1 to 9999")  # the file names have four digits
    expect(all(32 <= side <= 2048 for side in size), "--size", "{}x{}".format(*size), "32 to 2048 pixels each")
    expect(seed >= 0, "--seed", seed, "0 or more")
    expect(1 <= scenarios <= len(PLACES), "--scenarios", scenarios, f"1 to {len(PLACES)}")

    recordings = list(itertools.product(actions, numbers, range(1, scenarios + 1)))
    kept = 0
    # disable=None: no bar where stderr is no terminal
    with tqdm(total=len(recordings) * frames, unit="frame", disable=None, leave=False) as bar:
        for action, number, scenario in recordings:
            folder = Path(out) / action / f"person{number:02d}_{action}_d{scenario}_uncomp"
            if folder.is_dir():
                kept += 1
                bar.update(frames)
                continue
            pictures = draw_frames(seed, number, action, scenario, size, dusk)
            with new_folder(folder) as partial:
                for frame, picture in enumerate(itertools.islice(pictures, frames), start=1):
                    # Not cv2.imwrite: it does not say why a file could not be written.
                    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
                    Path(partial, f"image_{frame:04d}.jpg").write_bytes(encoded.tobytes())
                    bar.update()
    written = len(recordings) - kept
    return Summary(written, written * frames, kept)


def comma_list(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]


def size(text: str) -> tuple[int, int]:
    """Width and height from text like 160x120; argparse names this function where it is no such text."""
    width, height = map(int, text.lower().split("x"))
    return width, height


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="scripts/make_sample_data.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder to write into; made if it is missing")
    add("--frames", type=int, default=DEFAULT_FRAMES, metavar="N", help="frames a recording (%(default)s)")
    add("--size", type=size, default="x".join(map(str, DEFAULT_SIZE)), metavar="WxH", help="pixels (%(default)s)")
    add("--persons", type=comma_list, default=",".join(DEFAULT_PERSONS), metavar="LIST", help="01 to 25 (%(default)s)")
    add("--actions", type=comma_list, default=",".join(ACTIONS), metavar="LIST", help="(%(default)s)")
    add("--scenarios", type=int, default=1, metavar="D", help="recordings a person and action, 1 to 4 (%(default)s)")
    add("--seed", type=int, default=0, metavar="S", help="other seeds give other persons and places (%(default)s)")
    add("--dusk", action="store_true", help="lit figures before a dark background: learnt sooner")
    return parser


@command("complete folders stay, run again for the rest")
def main(arguments: Sequence[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    done = make_tree(**vars(options))
    kept = f"; kept {done.kept} that were there already (delete them to have them drawn anew)" if done.kept else ""
    print(f"wrote {done.folders} folders with {done.frames} frames under {options.out}{kept}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    cv2.setNumThreads(1)  # the pictures are small: more threads only get in each other's way
    sys.exit(main())
