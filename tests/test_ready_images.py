"""AI Studio and other images with Paddle in them: what an installation leaves alone, and where KTH is found."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import find_kth
from scripts.find_kth import UNPACKED_FILE, Found, find, make_readable, unpack
from scripts.notebook_tools import CommandFailed, find_data
from src.data_provider.kth_action import KTHAction
from src.errors import UserError
from tests.helpers import ROOT, script

FRAMES = [
    f"boxing/person{person}_boxing_d1_uncomp/image_{number:04d}.jpg" for person in ("01", "17") for number in (7, 8, 9)
]
SUFFIXES = (".tar.gz", ".zip", ".tar", ".tgz", ".tar.xz")


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """An AI Studio of its own: its home with data/ and work/."""
    home = tmp_path / "aistudio"
    (home / "data").mkdir(parents=True)
    (home / "work").mkdir()
    monkeypatch.setenv("E3D_AISTUDIO", str(home))
    return home


def picture(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, [12, 16], np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def make_archive(path: Path, contents: dict[str, bytes]) -> Path:
    """A zip or tar archive with the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        compression = {".gz": "gz", ".tgz": "gz", ".xz": "xz", ".tar": ""}[path.suffix]
        with tarfile.open(path, f"w:{compression}") as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def frames_archive(path: Path, root: str = "kth_action/") -> Path:
    return make_archive(path, {root + name: picture(number) for number, name in enumerate(FRAMES)})


def make_tree(root: Path) -> Path:
    for number, name in enumerate(FRAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if not path.is_dir() and path.name != UNPACKED_FILE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


ALL_FRAMES = {name: picture(number) for number, name in enumerate(FRAMES)}


# ---- packages


def install(folder: Path, pip: str, **modules: str) -> subprocess.CompletedProcess[str]:
    """Run install_packages.py with a module in pip's place, and others, from the folder."""
    for name, source in {"pip": pip, **modules}.items():
        (folder / f"{name}.py").write_text(source)
    command = [sys.executable, ROOT / "scripts" / "install_packages.py", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_an_image_keeps_its_paddle_its_numpy_and_its_only_opencv(tmp_path):
    record = f"import json, sys; open({str(tmp_path / 'asked')!r}, 'w').write(json.dumps(sys.argv[1:]))"
    result = install(tmp_path, record, paddle="__version__ = '3.0.0'")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Paddle 3.0.0, numpy {np.__version__}, OpenCV ")
    command, *asked = json.loads((tmp_path / "asked").read_text())
    assert command == "install" and "--quiet" in asked and f"numpy=={np.__version__}" in asked
    assert any(line.startswith("safetensors") for line in asked)
    assert not [line for line in asked if line.startswith(("opencv", "paddle"))]


def test_an_installation_that_fails_is_one_line(tmp_path):
    result = install(tmp_path, "import sys; sys.exit('no network')")
    assert result.returncode == 2 and result.stderr.splitlines()[1:] == [result.stderr.splitlines()[-1]]

    missing = "libGL.so.1: cannot open shared object file"
    result = install(tmp_path, "", cv2=f"raise ImportError({missing!r})")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert missing in result.stderr and "pip uninstall opencv-python" in result.stderr


# ---- where KTH is found


@pytest.mark.parametrize("place", ["work/kth_action", "data/kth", "data/data4711/kth_action", "kth"])
def test_frames_are_found_where_ai_studio_has_them(studio, place):
    make_tree(studio / place)
    assert find("") == find_data("") == Found(studio / place, True)


@pytest.mark.parametrize("place", ["data/data4711/kth_action", "work/kth_action", "work/kth_action/all", "kth-frames"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_of_frames_is_found_and_becomes_a_tree_that_training_reads(studio, place, suffix):
    archive = frames_archive(studio / f"{place}{suffix}")
    found = find("")
    assert found.archives == (archive,) and not found.readable
    out = make_readable(found, studio / "work" / "kth_frames")
    assert contents(out) == ALL_FRAMES
    assert len(KTHAction(out, "train", 3, 16)) == len(KTHAction(out, "test", 3, 16)) == 1


def test_archives_of_the_actions_one_by_one_become_one_tree(studio, capsys):
    for action in ("boxing", "running"):
        frames = {name.replace("boxing", action): content for name, content in ALL_FRAMES.items()}
        make_archive(studio / "data" / "data1" / f"{action}.zip", frames)
    out = make_readable(find(""), studio / "work" / "kth_frames")
    assert len(KTHAction(out, "test", 3, 16)) == 2 and len(contents(out)) == 2 * len(FRAMES)
    assert "unpacking" in capsys.readouterr().err
    assert make_readable(find(""), out) == out and "unpacked before" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_archives_made_on_windows_or_without_folders_of_actions_are_read(tmp_path, suffix):
    names = {f"kth\\{name.partition('/')[2]}".replace("/", "\\"): content for name, content in ALL_FRAMES.items()}
    archive = make_archive(tmp_path / f"kth{suffix}", names)
    unpack(find(str(archive)).archives, tmp_path / "out")
    assert contents(tmp_path / "out") == ALL_FRAMES


def test_frames_go_before_archives_and_archives_before_what_was_unpacked_earlier(studio):
    make_tree(studio / "work" / "kth_frames")
    assert find("") == Found(studio / "work" / "kth_frames", True)
    archive = frames_archive(studio / "data" / "data1" / "kth_action.tar.gz")
    assert find("").archives == (archive,)
    make_tree(studio / "work" / "kth_action")
    assert find("") == Found(studio / "work" / "kth_action", True)


def test_an_archive_can_be_named(studio, tmp_path):
    archive = frames_archive(tmp_path / "mine.tar.gz")
    assert find(str(archive)) == Found(tmp_path, False, (archive,))


def test_a_data_set_that_is_not_kth_is_said_and_not_replaced_by_sample_data(studio, capsys):
    assert find_data("") is None
    assert f"KTH was not found, sample data take its place: {studio}" in capsys.readouterr().out
    make_archive(studio / "data" / "data1" / "faces.zip", {"person01.jpg": b""})
    with pytest.raises(CommandFailed, match=r'data: there is nothing of KTH in it; .*"sample" as DATA'):
        find_data("")
    assert find_data("sample") is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_archive_is_said_and_not_replaced_by_sample_data(studio, suffix):
    path = studio / "work" / f"kth_action{suffix}"
    path.write_bytes(b"\x1f\x8b, and then nothing of an archive")
    with pytest.raises(CommandFailed, match=rf"work/kth_action{suffix}: damaged"):
        find_data("")
    frames_archive(studio / "work" / "kth_whole.zip")
    with pytest.raises(CommandFailed, match="damaged"):  # it may be one of six
        find_data("")
    make_tree(studio / "work" / "kth_action")
    assert find_data("").readable


def test_the_first_cells_of_the_notebook_unpack_an_archive(studio, monkeypatch, capfd):
    frames_archive(studio / "data" / "data4711" / "kth_action.tar.gz")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for variable in ("DATA", "WORK"):
        monkeypatch.delenv(f"E3D_NOTEBOOK_{variable}", raising=False)
    cells = json.loads((ROOT / "scripts" / "aistudio_kth.ipynb").read_text(encoding="utf-8"))["cells"]
    settings, data = ("".join(cell["source"]) for cell in cells if {"DATA =", "find_data(DATA)"} & marks(cell))
    variables: dict[str, object] = {}
    exec(settings, variables)
    exec(data, variables)
    assert variables["data"] == studio / "work" / "e3d_lstm" / "kth_frames"
    assert contents(variables["data"]) == ALL_FRAMES
    assert f"data: {variables['data']}" in capfd.readouterr().out


def marks(cell):
    source = "".join(cell["source"])
    return {mark for mark in ("DATA =", "find_data(DATA)") if mark in source and cell["cell_type"] == "code"}


def test_the_experiment_scripts_take_what_ai_studio_has(studio, tmp_path):
    stub = tmp_path / "python"
    find_itself = f'case "$1" in *find_kth.py) exec "{sys.executable}" "$@";; esac'
    stub.write_text(f'#!/bin/sh\n{find_itself}\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)

    def started(name, *arguments):
        command = ["bash", ROOT / "scripts" / f"paddle_e3d_lstm_kth_{name}.sh", *arguments]
        return subprocess.run(command, env={**os.environ, "PYTHON": str(stub)}, capture_output=True, text=True)

    nothing = started("train")
    assert (nothing.returncode, nothing.stdout) == (2, "") and nothing.stderr.count("\n") == 1
    assert f"KTH is not in {studio}" in nothing.stderr

    frames_archive(studio / "data" / "data4711" / "kth_action.tar.gz")
    out = studio / "work" / "kth_frames"
    training = started("train")
    assert training.returncode == 0, training.stderr
    flags = training.stdout.split("\n")
    assert flags[flags.index("--train_data_paths") + 1] == flags[flags.index("--valid_data_paths") + 1] == str(out)
    assert flags[flags.index("--save_dir") + 1] == str(studio / "work" / "checkpoints" / "_kth_e3d_lstm")
    assert contents(out) == ALL_FRAMES

    make_tree(studio / "work" / "kth_action")
    test = started("test").stdout.split("\n")
    assert test[test.index("--valid_data_paths") + 1] == str(studio / "work" / "kth_action")


# ---- damaged and hostile archives


def test_nothing_of_an_archive_is_written_outside_and_links_are_skipped(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    frame = "boxing/person02_boxing_d1/image_0001.jpg"
    hostile = {
        f"../{frame}": b"1",
        f"/{frame}": b"2",
        f"a/../../{frame}": b"3",
        f"..\\{frame}": b"4",
        "person02_boxing_d1/../image_0001.jpg": b"5",
        "run.sh": b"7",
        "person02_boxing_d1/notes.txt": b"8",
    }
    zipped = make_archive(tmp_path / "a.zip", {**hostile, **ALL_FRAMES})
    with zipfile.ZipFile(zipped, "a") as archive:
        link = zipfile.ZipInfo("boxing/person03_boxing_d1/image_0001.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(outside))
    tarred = tmp_path / "a.tar.gz"
    with tarfile.open(tarred, "w:gz") as archive:
        for name, kind, target in [
            ("boxing/person03_boxing_d1", tarfile.SYMTYPE, str(outside)),
            ("boxing/person04_boxing_d1/image_0001.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("boxing/person04_boxing_d1/image_0002.jpg", tarfile.LNKTYPE, "/etc/passwd"),
            ("boxing/person04_boxing_d1/image_0003.jpg", tarfile.FIFOTYPE, ""),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        for name, content in {**hostile, "boxing/person03_boxing_d1/image_0001.jpg": b"9", **ALL_FRAMES}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    for number, archive in enumerate((zipped, tarred)):
        out = tmp_path / f"out{number}" / "kth"
        unpack([archive], out)
        found = contents(out)
        assert found.pop("boxing/person03_boxing_d1/image_0001.jpg", b"9") == b"9"  # a file, its folder no link
        assert found == ALL_FRAMES
        assert not any(path.is_symlink() for path in out.rglob("*"))
        assert os.listdir(out.parent) == ["kth"]
    assert os.listdir(outside) == []


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar"])
def test_a_cut_archive_is_refused_in_one_line_and_leaves_nothing(tmp_path, suffix):
    archive = frames_archive(tmp_path / f"kth{suffix}")
    whole = archive.read_bytes()
    end = whole.rstrip(b"\0") if suffix == ".tar" else whole  # zeros after the last file
    for length in [*range(1, len(end), max(1, len(end) // 12)), len(end) - 1]:
        archive.write_bytes(whole[:length])
        with pytest.raises(UserError) as refused:
            unpack([archive], tmp_path / "out" / "kth")
        assert str(refused.value).startswith(f"{archive}: damaged") and "\n" not in str(refused.value)
        assert os.listdir(tmp_path / "out") == []
    archive.write_bytes(whole)
    unpack([archive], tmp_path / "out" / "kth")
    assert contents(tmp_path / "out" / "kth") == ALL_FRAMES


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize("name", [FRAMES[0], "readme.txt"])
def test_a_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch, suffix, name):
    monkeypatch.setattr(find_kth, "ALWAYS_ALLOWED", 2**16)
    archive = make_archive(tmp_path / f"kth{suffix}", {**ALL_FRAMES, name: bytes(2**23)})
    with pytest.raises(UserError, match=r"kth\.[a-z.]+: unpacks to more than \d+ bytes, expected pictures"):
        unpack([archive], tmp_path / "out" / "kth")
    assert os.listdir(tmp_path / "out") == []


def test_two_archives_with_one_recording_are_not_mixed(tmp_path):
    first, second = (frames_archive(tmp_path / f"{name}.zip") for name in "ab")
    with pytest.raises(UserError, match=r"a\.zip and .*b\.zip: both hold person01_boxing_d1_uncomp; give one"):
        unpack([first, second], tmp_path / "out" / "kth")
    assert os.listdir(tmp_path / "out") == []


def test_frames_of_another_data_set_are_not_taken_for_those_of_this_one(studio):
    refused = r"--out .*: was not made of what is in .*aistudio/data.*; remove it or give another --out"
    data, out = studio / "data" / "data1", studio / "work" / "kth_frames"
    frames_archive(data / "boxing.zip")
    out.mkdir()
    (out / "thesis.txt").touch()
    with pytest.raises(UserError, match=refused):
        make_readable(find(""), out)
    assert os.listdir(out) == ["thesis.txt"]

    (out / "thesis.txt").unlink()
    out.rmdir()
    make_readable(find(""), out)
    running = {name.replace("boxing", "running"): content for name, content in ALL_FRAMES.items()}
    make_archive(data / "running.zip", running)  # uploaded later
    with pytest.raises(UserError, match=refused):
        make_readable(find(""), out)

    for name in ("boxing", "running"):
        make_archive(data / f"{name}.zip", {f"person01_{name}_d1_uncomp.avi": b""})
    with pytest.raises(UserError, match=refused):
        make_readable(find(""), out)
    assert contents(out) == ALL_FRAMES


def test_a_full_disk_while_unpacking_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    archive = frames_archive(tmp_path / "kth.tar.gz")
    out = tmp_path / "out" / "kth"
    monkeypatch.setattr(sys, "argv", ["find_kth.py", str(archive), "--out", str(out)])
    monkeypatch.setattr(find_kth.Path, "write_bytes", full_disk)
    assert find_kth.main() == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[1]
    assert os.listdir(out.parent) == []


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_find_kth_answers_a_mistake_in_one_line(tmp_path):
    archive = frames_archive(tmp_path / "kth.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-20])
    for arguments in ([archive, "--out", tmp_path / "out"], [archive, "--put", "x"], [tmp_path / "nowhere"]):
        result = script("find_kth.py", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        lines = [line for line in result.stderr.splitlines() if not line.startswith("unpacking")]
        assert len(lines) == 1 and lines[0].startswith("find_kth.py: ")
