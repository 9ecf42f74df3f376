"""Print the folder of KTH that a training reads. Archives of frames are unpacked first, zip files of videos prepared.

    python scripts/find_kth.py [DATA] [--out FOLDER]

DATA is a folder, searched with the folders in it, or an archive of frames: a .zip or .tar file (also .tar.gz, .tgz,
.tar.bz2, .tar.xz) with .../personNN_<action>_dD*/image_0001.jpg ... Without it AI Studio's folders are searched: data/,
where data sets are mounted, work/kth_action, and what begins with kth in work/ or beside it.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.command import command  # noqa: E402
from src.data_provider.kth_sequences import ACTIONS, FRAME_NAME, SEQUENCES_FILE, recording_of  # noqa: E402
from src.errors import UserError, reason_of  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402
from src.runtime.files import new_folder  # noqa: E402

SEARCH_DEPTH = 4  # folders below the one searched; AI Studio mounts data/dataNNNNN/
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LOOKED_THROUGH = 2**28  # bytes of an archive's files, among which a frame has to come
LARGEST_FRAME = 2**26  # bytes
# Pictures are compressed already; a bomb unpacks to a thousand times its size.
LARGEST_RATIO, ALWAYS_ALLOWED = 100, 2**30  # times the archives' size; bytes
UNPACKED_FILE = "unpacked.json"  # beside the folders of the actions: the archives that they are from


class Found(NamedTuple):
    """KTH on this machine."""

    folder: Path
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
    studio = ai_studio()
    unpacked = studio / "work" / "kth_frames"  # by an earlier run; its data set may not be mounted today
    expected = [Path(data).expanduser()] if data else [studio / "data", studio / "work" / "kth_action"]
    places = expected if data else [*expected, *sorted(studio.glob("work/kth*")), *sorted(studio.glob("kth*"))]
    walked = {place: list(walk(place)) for place in places if place != unpacked}
    for folder, _ in (entry for entries in walked.values() for entry in entries):
        if holds_actions(folder):
            return Found(folder, True)
    videos = None
    for place, entries in walked.items():
        for folder, names in entries:
            kinds = {folder / name: kind_of(folder / name) for name in names}
            if "frames" in kinds.values():
                return Found(folder, False, tuple(path for path in kinds if kinds[path] == "frames"))
            if videos is None and "videos" in kinds.values():
                videos = Found(place, False)
    if videos:
        return videos
    if not data and unpacked.exists():
        return Found(unpacked, True)
    for place in expected:
        if data or (place.is_dir() and any(place.iterdir())):
            what = "there is nothing of KTH in it" if place.exists() else "there is no such folder"
            raise UserError(
                f"DATA {place}: {what}; give the folder with boxing, handclapping, ... (frames or videos named "
                "personNN_<action>_dD), an archive of the frames, or the folder with the zip files of the videos"
            )
    return None


def walk(place: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders to SEARCH_DEPTH and the names of their files, in order; of a file its folder and its name.

    The folders of single recordings are left out: they hold frames by the thousand.
    """
    if place.is_file():
        yield place.parent, [place.name]
    for path, folders, names in os.walk(place, followlinks=True):
        depth = len(Path(path).relative_to(place).parts)
        searched = [name for name in folders if not (name.startswith(".") or recording_of(Path(name).stem))]
        folders[:] = sorted(searched) if depth < SEARCH_DEPTH else []
        yield Path(path), sorted(names)


def holds_actions(root: Path) -> bool:
    """Whether a folder in the root is an action's, with a recording in it: frames, or a video."""
    paths = (path for action in ACTIONS for path in (root / action).glob("person*"))
    return any(recording_of(path.stem) if path.is_dir() else is_kth_video(path.name) for path in paths)


def is_kth_video(name: str) -> bool:
    """Whether the path of a file, in an archive too, is that of one of KTH's videos."""
    from src.data_provider.videos import is_video  # needs OpenCV, which a notebook installs in a later cell

    return is_video(name) and recording_of(as_path(name).stem) is not None


def kind_of(path: Path) -> str:
    """What a file holds of KTH: "frames" (an archive), "videos" (a zip file, or one itself), or "" for neither.

    Raises:
        UserError: it is an archive and damaged.
    """
    if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return "videos" if is_kth_video(path.name) else ""
    kind, total = "", 0
    for name, size, _ in files_of(path, read=False):
        if frame_of(name):
            return "frames"
        if path.suffix.lower() == ".zip" and is_kth_video(name):
            kind = "videos"
        total += size
        if total > LOOKED_THROUGH:
            break
    return kind


def as_path(name: str) -> PurePosixPath:
    """The path of a file in an archive; one that was made on Windows may have backslashes."""
    return PurePosixPath(name.replace("\\", "/"))


def frame_of(name: str) -> tuple[str, str, str] | None:
    """(action, recording, file name) of a frame by its path in an archive; None if it is none or leads out of it."""
    path = as_path(name)
    recording = recording_of(PurePosixPath(path.parent.name).stem)
    if recording is None or not FRAME_NAME.fullmatch(path.name) or path.is_absolute() or ".." in path.parts:
        return None
    return recording[1], PurePosixPath(path.parent.name).stem, path.name


def files_of(path: Path, read: bool) -> Iterator[tuple[str, int, bytes]]:
    """The path, size and content of each file in an archive, links left out; the content of frames alone, if ``read``.

    Raises:
        UserError: it is damaged, or what is named as a frame is too large for one.
    """

    def wanted(name: str, size: int) -> bool:
        if frame_of(name) and size > LARGEST_FRAME:
            raise UserError(f"{path}: {name} has {size} bytes, expected the picture of a frame; get the archive again")
        return read and frame_of(name) is not None

    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if not (entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16)):
                        content = archive.read(entry) if wanted(entry.filename, entry.file_size) else b""
                        yield entry.filename, entry.file_size, content
            return
        with tarfile.open(path) as archive:
            while (member := archive.next()) is not None:
                if member.isreg():
                    content = archive.extractfile(member).read() if wanted(member.name, member.size) else b""
                    yield member.name, member.size, content
                archive.members.clear()  # it would keep them all: over 100 MB for the whole of KTH
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends within a file")  # tarfile takes a cut or broken header for the end
            while archive.fileobj.read(2**20):  # to the checksum at the end
                pass
    except UserError:
        raise
    except Exception as error:  # both modules, and what they decompress with, raise many kinds on damaged bytes
        raise UserError(f"{path}: damaged, or no archive ({reason_of(error)}); get it again or remove it") from None


def unpack(archives: Sequence[Path], out: Path) -> None:
    """Write the frames in the archives to out/<action>/<recording>/, all of them or nothing.

    Each path is made of the names of recording and frame alone, so an archive from elsewhere writes nowhere else.

    Raises:
        UserError: an archive is damaged or too large, or two of them hold the same recording.
        OSError: a frame cannot be written.
    """
    from tqdm import tqdm

    total, limit = 0, max(ALWAYS_ALLOWED, LARGEST_RATIO * sum(path.stat().st_size for path in archives))
    owners: dict[str, Path] = {}
    with new_folder(out) as partial:
        for archive in archives:
            for name, size, content in tqdm(files_of(archive, read=True), archive.name, unit=" files", disable=None):
                total += size
                if total > limit:
                    raise UserError(f"{archive}: unpacks to more than {limit} bytes, expected pictures; get it again")
                if frame_of(name):
                    action, recording, file = frame_of(name)
                    if owners.setdefault(recording, archive) != archive:
                        both = f"{owners[recording]} and {archive}"
                        raise UserError(f"{both}: both hold {recording}; give one of them as DATA")
                    folder = Path(partial, action, recording)
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_bytes(content)
        Path(partial, UNPACKED_FILE).write_text(sizes_of(archives), encoding="utf-8")


def sizes_of(archives: Sequence[Path]) -> str:
    """What UNPACKED_FILE says of them."""
    return json.dumps({archive.name: archive.stat().st_size for archive in archives})


def make_readable(found: Found, out: Path) -> Path:
    """The folder that a training reads: that of ``found``, or ``out`` with its frames. Says on stderr what it does.

    Raises:
        UserError: an archive cannot be unpacked, a video not be prepared, or ``out`` holds something else.
        OSError: a frame cannot be written.
    """
    mark = out / UNPACKED_FILE
    if found.readable:
        return found.folder
    if found.archives and mark.exists() and mark.read_text(encoding="utf-8") == sizes_of(found.archives):
        print(f"unpacked before: {found.folder}", file=sys.stderr)
    elif out.exists() if found.archives else mark.exists():
        raise UserError(f"--out {out}: was not made of what is in {found.folder}; remove it or give another --out")
    elif found.archives:
        print(f"unpacking {', '.join(map(str, found.archives))} to {out}", file=sys.stderr)
        unpack(found.archives, out)
    else:
        prepare_videos(found.folder, out)
    return out


def prepare_videos(videos: Path, out: Path) -> None:
    """Run prepare_kth.py, with KTH's list if it is there.

    Raises:
        UserError: not all of the videos became frames.
    """
    lists = [folder / SEQUENCES_FILE for folder, names in walk(videos) if SEQUENCES_FILE in names]
    flags = ["--videos", videos, "--out", out, *(["--sequences", lists[0]] if lists else [])]
    print(f"making frames of the videos in {videos} in {out}", file=sys.stderr)
    if subprocess.run([sys.executable, ROOT / "scripts" / "prepare_kth.py", *flags], stdout=sys.stderr).returncode:
        raise UserError(f"{videos}: not all of its videos became frames, see above; to train on those in {out} name it")


@command("run again for the frames")
def main() -> None:
    parser = OneLineParser(prog="scripts/find_kth.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("data", nargs="?", default="", metavar="DATA", help="folder or archive (default: AI Studio's)")
    parser.add_argument("--out", type=Path, help="folder for frames that are unpacked or prepared")
    arguments = parser.parse_args()
    # Whatever stands in the folders of the actions: what a training cannot read of it, it says itself.
    if any(os.path.isdir(os.path.join(arguments.data, action)) for action in ACTIONS if arguments.data):
        print(arguments.data)
        return
    found = find(arguments.data)
    if found is None:
        raise UserError(f"KTH is not in {ai_studio()}; give its folder or an archive of its frames as DATA")
    work = ai_studio() / "work"
    folder = make_readable(found, arguments.out or (work if os.access(work, os.W_OK) else ROOT / "data") / "kth_frames")
    print(f"KTH: {folder}", file=sys.stderr)
    print(folder)


if __name__ == "__main__":
    sys.exit(main())
