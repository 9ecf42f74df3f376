"""Print the folder of KTH that a training reads. Archives of frames are unpacked first, zip files of videos prepared.

    python scripts/find_kth.py [DATA] [--out FOLDER]

DATA is a folder, searched with the folders in it, or an archive of frames (see frame_archives.py). Without it AI
Studio's folders are searched: data/, where data sets are mounted, work/kth_action, and what begins with kth in work/ or
beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.frame_archives import UNPACKED_FILE, is_archive, is_unpacked, kind_of, unpack  # noqa: E402
from src.data_provider.kth_sequences import ACTIONS, SEQUENCES_FILE, recording_of  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402

SEARCH_DEPTH = 4  # folders below the one searched; AI Studio mounts data/dataNNNNN/
FRAMES_FOLDER = "kth_frames"  # what is unpacked or prepared here
NAMES_SHOWN = 3


class Found(NamedTuple):
    """KTH on this machine."""

    folder: Path  # or the one archive that was given
    readable: bool  # holds the folders of the actions; False: to be unpacked or prepared
    archives: tuple[Path, ...] = ()  # with frames; empty: videos, loose or in zip files


def ai_studio() -> Path:
    """AI Studio's home folder: data sets are mounted in its data/, its work/ survives a restart."""
    return Path(os.environ.get("E3D_AISTUDIO", "/home/aistudio"))


def find(data: str) -> Found | None:
    """Where KTH is: in ``data``, a folder or an archive, or if that is empty in AI Studio's folders. None: nowhere.

    Folders of the actions (frames or videos in them) go before archives of frames, these before other videos.

    Raises:
        UserError: ``data`` is given and holds nothing of KTH, or a folder of AI Studio in which it should be does not;
            or an archive is damaged, and the folders of the actions are nowhere.
    """
    work = ai_studio() / "work"
    frames = work / FRAMES_FOLDER
    if data:
        places = expected = [Path(data).expanduser()]
    else:
        expected = [ai_studio() / "data", work / "kth_action"]
        others = [path for folder in (work, ai_studio()) for path in sorted(folder.glob("kth*")) if path != frames]
        places = dict.fromkeys([*expected, *others])
    damaged: list[str] = []
    found = [hit for place in places if place.exists() and (hit := _search(place.resolve(), damaged))]
    best = min(found, key=lambda hit: (not hit.readable, not hit.archives), default=None)  # of equals the first
    if best is None and not data and frames.exists():
        best = Found(frames, True)  # of a data set that is not mounted today
    if damaged and (best is None or best.archives):  # what is whole may be a part of the data set
        raise UserError("; ".join(damaged))
    if best is not None:
        return best
    for place in expected:
        if data or (place.is_dir() and any(place.iterdir())):
            raise UserError(_why_nothing(place))
    return None


def _why_nothing(place: Path) -> str:
    what = "nothing of KTH in it" if place.exists() else "there is no such folder"
    archives = [name for _, _, names in walk(place) for name in names if is_archive(name)]
    if archives:
        what += f", nor in {', '.join(archives[:NAMES_SHOWN])}" + (", ..." if len(archives) > NAMES_SHOWN else "")
    return (
        f"DATA {place}: {what}; give the folder with boxing, handclapping, ... (frames or videos named "
        "personNN_<action>_dD), or with the archives of the frames or the zip files of the videos"
    )


def _search(place: Path, damaged: list[str]) -> Found | None:
    """KTH in a folder or an archive; what is wrong with an archive that cannot be read is added to ``damaged``."""
    if place.is_file():
        return Found(place, False, (place,)) if _kind_of(place, damaged) == "frames" else None
    from src.data_provider.videos import is_video  # wants OpenCV, which a notebook installs in a later cell

    archives: dict[str, list[Path]] = {}
    to_prepare = False
    for path, folders, names in walk(place):
        if holds_actions(Path(path), folders):
            return Found(Path(path), True)
        for name in names:
            kind = _kind_of(Path(path, name), damaged)
            if kind == "frames":
                archives.setdefault(path, []).append(Path(path, name))
            zipped = kind == "videos" and name.lower().endswith(".zip")
            to_prepare = to_prepare or zipped or (is_video(name) and is_recording(name))
    for folder, inside in archives.items():
        return Found(Path(folder), False, tuple(inside))
    return Found(place, False) if to_prepare else None


def _kind_of(path: Path, damaged: list[str]) -> str:
    try:
        return kind_of(path) if is_archive(path.name) and path.is_file() else ""
    except UserError as error:
        damaged.append(str(error))
        return ""


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk to SEARCH_DEPTH, in order, without the folders of single recordings: they hold frames by the thousand."""
    for path, folders, names in os.walk(folder, followlinks=True):
        depth = len(Path(path).relative_to(folder).parts)
        searched = [name for name in folders if not (name.startswith(".") or is_recording(name))]
        folders[:] = sorted(searched) if depth < SEARCH_DEPTH else []
        yield path, folders, sorted(names)


def holds_actions(root: Path, folders: Sequence[str]) -> bool:
    """Whether one of the folders in the root is an action's, with a recording in it: frames, or a video."""
    from src.data_provider.videos import is_video

    for action in set(ACTIONS) & set(folders):
        with os.scandir(root / action) as entries:
            if any(is_recording(entry.name) and (entry.is_dir() or is_video(entry.name)) for entry in entries):
                return True
    return False


def is_recording(name: str) -> bool:
    """Whether the name of a folder or a video is that of one of KTH's recordings."""
    return recording_of(Path(name).stem) is not None


def sequences_file(folder: Path) -> Path | None:
    """KTH's 00sequences.txt in the folder or below it, None where it is not there."""
    return next((Path(path) / SEQUENCES_FILE for path, _, names in walk(folder) if SEQUENCES_FILE in names), None)


def make_readable(found: Found, out: Path) -> Path:
    """The folder that a training reads: that of ``found``, or ``out`` with its frames. Says on stderr what it does.

    Raises:
        UserError: an archive cannot be unpacked, a video not be prepared, or ``out`` holds something else.
        OSError: a frame cannot be written.
    """
    if found.readable:
        return found.folder
    if is_unpacked(found.archives, out):
        print(f"unpacked before: {found.folder}", file=sys.stderr)
    elif out.exists() if found.archives else (out / UNPACKED_FILE).exists():
        raise UserError(f"--out {out}: was not made of what is in {found.folder}; remove it or give another --out")
    elif found.archives:
        print(f"unpacking {', '.join(map(str, found.archives))} to {out}", file=sys.stderr)
        unpack(found.archives, out)
    else:
        _prepare_videos(found.folder, out)
    return out


def _prepare_videos(videos: Path, out: Path) -> None:
    sequences = sequences_file(videos)
    listed = ["--sequences", sequences] if sequences else []
    command = [sys.executable, ROOT / "scripts" / "prepare_kth.py", "--videos", videos, "--out", out, *listed]
    print(f"making frames of the videos in {videos} in {out}", file=sys.stderr)
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise UserError(f"{videos}: not all of its videos became frames, see above; to train on those in {out} name it")


def default_out() -> Path:
    """Where frames go: AI Studio's work folder, elsewhere data/ of the project."""
    work = ai_studio() / "work"
    return (work if os.access(work, os.W_OK) else ROOT / "data") / FRAMES_FOLDER


def main() -> int:
    parser = OneLineParser(prog="scripts/find_kth.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("data", nargs="?", default="", metavar="DATA", help="folder or archive (default: AI Studio's)")
    parser.add_argument("--out", type=Path, help="folder for frames that are unpacked or prepared")
    try:
        arguments = parser.parse_args()
        # Whatever stands in the folders of the actions: what a training cannot read of it, it says itself.
        if any(os.path.isdir(os.path.join(arguments.data, action)) for action in ACTIONS if arguments.data):
            print(arguments.data)
            return 0
        found = find(arguments.data)
        if found is None:
            raise UserError(f"KTH is not in {ai_studio()}; give its folder or an archive of its frames as DATA")
        out = arguments.out or default_out()
        folder = make_readable(found, out)
    except UserError as error:
        print(f"find_kth.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = error.filename or out
        print(f"find_kth.py: {where}: {error.strerror}; check it, make room, or give another --out", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("find_kth.py: stopped; run again for the frames", file=sys.stderr)
        return 130
    print(f"KTH: {folder}", file=sys.stderr)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
