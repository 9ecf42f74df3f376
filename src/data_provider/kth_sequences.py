"""KTH's own videos and the list that comes with them: their names, and in which frames the person acts.

Imports no paddle: scripts/prepare_kth.py starts at once.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from src.errors import UserError
from src.runtime.files import refuse_pipe

ACTIONS = ("boxing", "handclapping", "handwaving", "walking", "jogging", "running")  # in the official loader's order
PERSONS, SCENARIOS = 25, 4
MISSING_IN_KTH = ("person13_handclapping_d3",)
SEQUENCES_FILE = "00sequences.txt"
# personNN_<action>_dD_uncomp.avi; copies of the set drop or change what follows dD.
VIDEO_NAME = re.compile(rf"(person\d\d_({'|'.join(ACTIONS)})_d\d)\w*", re.IGNORECASE)
PICTURE_SUFFIXES = ("jpg", "jpeg", "png", "bmp")  # of frames, those of own films too
FRAME_NAME = re.compile(rf"image.*?(\d+)\.({'|'.join(PICTURE_SUFFIXES)})", re.IGNORECASE)  # in a recording's folder
SEQUENCE_LINE = re.compile(r"\s*(person\d\d_[a-z]+_d\d)\s+(?:frames)?(.*)", re.IGNORECASE)

LONGEST_QUOTE = 60  # characters of a wrong line
LONGEST_RECORDING = 10**6  # frames, 11 hours; KTH's own have some 1000

Ranges = list[tuple[int, int]]


def recording_of(stem: str) -> tuple[str, str] | None:
    """("person01_boxing_d1", "boxing") of a video's name without its suffix; None where it is not KTH's."""
    match = VIDEO_NAME.fullmatch(stem)
    return (match[1].lower(), match[2].lower()) if match else None


def all_recordings() -> list[str]:
    """The names of the 599 recordings of the whole data set."""
    names = [
        f"person{person:02d}_{action}_d{scenario}"
        for action in ACTIONS
        for person in range(1, PERSONS + 1)
        for scenario in range(1, SCENARIOS + 1)
    ]
    return [name for name in names if name not in MISSING_IN_KTH]


def read_sequences(path: str | Path) -> dict[str, Ranges]:
    """The frame ranges of each recording in 00sequences.txt, (first, last) from 1, both included.

    The file as it comes: lines of prose are skipped, a recording marked ``*missing*`` has no ranges.

    Raises:
        UserError: the file cannot be read, has no line of a recording, or a range that is none.
    """
    refuse_pipe(path)
    try:
        text = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8).decode("latin-1")  # editors on Windows add a mark
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    sequences = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = SEQUENCE_LINE.match(line)
        if match:
            try:
                ranges = [(int(first), int(last)) for first, last in re.findall(r"(\d+)\s*-\s*(\d+)", match[2])]
            except ValueError:  # thousands of digits
                ranges = [(0, 0)]
            if any(not 1 <= first <= last <= LONGEST_RECORDING for first, last in ranges):
                raise UserError(
                    f"{path}, line {number}: expected ranges as 1-95, 96-185, {LONGEST_RECORDING} at most, "
                    f"found {match[2].strip()[:LONGEST_QUOTE]}"
                )
            sequences[match[1].lower()] = ranges
    if not sequences:
        raise UserError(f"{path}: no line as 'person01_boxing_d1  frames  1-95, 96-185' in it; give {SEQUENCES_FILE}")
    return sequences


def frame_numbers(ranges: Ranges) -> list[int]:
    """The numbers of all the frames in the ranges, rising, each once."""
    return sorted({number for first, last in ranges for number in range(first, last + 1)})
