"""From films to clips: preparing KTH, videos read as they are, a user's own films."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from scripts import prepare_kth
from src import trainer
from src.data_provider.folder import FolderClips
from src.data_provider.kth_action import KTHAction
from src.data_provider.kth_sequences import all_recordings, frame_numbers, read_sequences
from src.data_provider.videos import VideoCache, count_frames, frames_of
from src.errors import LostFile, UserError
from src.runtime.files import lock
from tests.conftest import settings_for
from tests.helpers import LONGEST_WAIT, ROOT, script, write_video


def prepare(*arguments):
    return script("prepare_kth.py", "--processes", 2, *arguments)


def frames_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))


# ---- scripts/prepare_kth.py


def test_videos_become_frames_with_the_video_s_numbers_and_gaps(tmp_path):
    write_video(tmp_path / "videos" / "boxing" / "person01_boxing_d1_uncomp.avi", frames=30)
    write_video(tmp_path / "videos" / "person17_boxing_d2_uncomp.avi", frames=30)
    sequences = tmp_path / "list.txt"
    sequences.write_text(
        "A line of prose\n\nperson01_boxing_d1\t\tframes\t1-10, 15-28\nperson17_boxing_d2 frames 3-9\n"
    )
    arguments = "--videos", tmp_path / "videos", "--out", tmp_path / "kth", "--sequences", sequences
    result = prepare(*arguments)
    assert result.returncode == 0, result.stderr
    assert "2 videos made 31 frames" in result.stdout
    assert "not among the videos: 597 of KTH's 599 (person01_boxing_d2, " in result.stdout
    dataset = KTHAction(tmp_path / "kth", "train", 7, 36)
    assert [clip.first_frame for clip in dataset.clips] == ["image_0022.jpg", "image_0015.jpg", "image_0004.jpg"]
    np.testing.assert_allclose(dataset[0][:, 18, 18, 0] * 255, 5 * np.arange(21, 28), atol=3)

    again = prepare(*arguments)
    assert again.returncode == 0 and "2 kept as they were" in again.stdout


@pytest.mark.parametrize(
    ("more", "part"), [((), "--sequences"), (("--quality", 80), "--quality and --sequences; give the same")]
)
def test_a_tree_is_not_finished_with_other_settings_than_it_was_begun(tmp_path, more, part):
    write_video(tmp_path / "person01_boxing_d1_uncomp.avi", frames=5)
    (tmp_path / "list.txt").write_text("person01_boxing_d1 frames 1-3")
    arguments = "--videos", tmp_path, "--out", tmp_path / "kth"
    assert prepare(*arguments, "--sequences", tmp_path / "list.txt").returncode == 0
    result = prepare(*arguments, *more)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and part in result.stderr
    assert len(frames_under(tmp_path / "kth")) == 3


def test_zip_files_are_read_as_they_are_downloaded(tmp_path):
    for person in (1, 2):
        write_video(tmp_path / "videos" / f"person0{person}_boxing_d1_uncomp.avi", frames=6)
    (tmp_path / "zips").mkdir()
    with zipfile.ZipFile(tmp_path / "zips" / "boxing.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "videos").iterdir():
            archive.write(path, path.name)
        archive.writestr("readme.txt", "prose")
    for source in ("videos", "zips"):
        result = prepare("--videos", tmp_path / source, "--out", tmp_path / f"from_{source}")
        assert result.returncode == 0 and "2 videos made 12 frames" in result.stdout, result.stderr
    names = frames_under(tmp_path / "from_videos")
    assert names == frames_under(tmp_path / "from_zips") and len(names) == 12
    assert all((tmp_path / "from_videos" / n).read_bytes() == (tmp_path / "from_zips" / n).read_bytes() for n in names)

    whole = (tmp_path / "zips" / "boxing.zip").read_bytes()
    (tmp_path / "zips" / "boxing.zip").write_bytes(whole[: len(whole) // 2])
    result = prepare("--videos", tmp_path / "zips", "--out", tmp_path / "cut")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "no whole zip file" in result.stderr


def zip_with(path, method, spoil):
    """A zip file of two videos, the first one spoilt: its bytes are changed from the local or the central header on."""
    write_video(path.parent.parent / "whole.avi", frames=5)
    with zipfile.ZipFile(path, "w", method) as archive:
        for person in (1, 2):
            archive.write(path.parent.parent / "whole.avi", f"person{person:02d}_boxing_d1_uncomp.avi")
    content = bytearray(path.read_bytes())
    spoil(content, content.index(b"PK\x01\x02"))
    path.write_bytes(content)


def flip(content, central):
    content[100:108] = bytes(byte ^ 255 for byte in content[100:108])


def encrypt(content, central):
    content[6] |= 1
    content[central + 8] |= 1


def method(number):
    def spoil(content, central):
        content[8] = content[central + 10] = number

    return spoil


def halve(content, central):
    size = int.from_bytes(content[central + 20 : central + 24], "little") // 2
    content[18:22] = content[central + 20 : central + 24] = size.to_bytes(4, "little")


def no_unicode(content, central):
    content[7] |= 8  # the names are UTF-8
    content[central + 9] |= 8
    content[30] = content[central + 46] = 0xFF


SPOILT = [
    (zipfile.ZIP_STORED, flip),
    (zipfile.ZIP_DEFLATED, flip),
    (zipfile.ZIP_BZIP2, flip),
    (zipfile.ZIP_LZMA, flip),
    (zipfile.ZIP_DEFLATED, encrypt),
    (zipfile.ZIP_DEFLATED, method(9)),
    (zipfile.ZIP_DEFLATED, method(99)),
    (zipfile.ZIP_BZIP2, halve),
    (zipfile.ZIP_LZMA, halve),
]


def test_a_damaged_video_in_a_zip_file_is_named_and_the_others_are_made(tmp_path):
    """Each zip file has one that is whole; all that is wrong with the others is met in one run."""
    for number, (packed, spoil) in enumerate(SPOILT):
        folder = tmp_path / f"zips{number}"
        folder.mkdir()
        zip_with(folder / "boxing.zip", packed, spoil)
        (video, whole), problems = prepare_kth.find_videos(folder)
        assert not problems
        with pytest.raises(UserError, match="boxing.zip/person01.*: cannot be taken out of the zip file"):
            prepare_kth.write_recording(video, tmp_path / "kth" / str(number), None, 95)
        assert prepare_kth.write_recording(whole, tmp_path / "kth" / str(number), None, 95) == 5
    (tmp_path / "zips4" / "other").mkdir()
    zip_with(tmp_path / "zips4" / "other" / "names.zip", zipfile.ZIP_STORED, no_unicode)
    result = prepare("--videos", tmp_path / "zips4", "--out", tmp_path / "all")
    assert result.returncode == 2 and "1 videos made 5 frames" in result.stdout
    assert result.stderr.count("prepare_kth.py:") == len(result.stderr.splitlines()) == 2
    assert "encrypted" in result.stderr and "names.zip: no whole zip file ('utf-8' codec" in result.stderr


def test_a_damaged_video_is_named_and_the_others_are_made(tmp_path):
    write_video(tmp_path / "person01_boxing_d1_uncomp.avi", frames=5)
    (tmp_path / "person02_boxing_d1_uncomp.avi").write_bytes(b"RIFF no video")
    write_video(tmp_path / "person26_sitting_d1_uncomp.avi", frames=5)  # a name that is not KTH's
    result = prepare("--videos", tmp_path, "--out", tmp_path / "kth")
    assert result.returncode == 2 and "1 videos made 5 frames" in result.stdout
    assert result.stderr.count("prepare_kth.py:") == 1
    assert "person02_boxing_d1_uncomp.avi: only 0 frames can be read, expected 1" in result.stderr
    assert [path.name for path in (tmp_path / "kth" / "boxing").iterdir()] == ["person01_boxing_d1_uncomp"]


def test_a_preparation_that_is_killed_goes_on_where_it_was(tmp_path):
    for person in range(1, 25):
        write_video(tmp_path / "videos" / f"person{person:02d}_boxing_d1_uncomp.avi", frames=40, size=(160, 120))
    command = [
        sys.executable,
        ROOT / "scripts" / "prepare_kth.py",
        "--videos",
        tmp_path / "videos",
        "--out",
        tmp_path / "kth",
        "--processes",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    folder = tmp_path / "kth" / "boxing"
    while not (folder.is_dir() and any(path.name[0] != "." for path in folder.iterdir())):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    deadline = time.monotonic() + LONGEST_WAIT
    while processes_of_group(process.pid):  # the pool's end with it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    finished = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name[0] != "."}
    assert 0 < len(finished) < 24
    for name in finished:
        assert len(list((folder / name).iterdir())) == 40
    result = prepare("--videos", tmp_path / "videos", "--out", tmp_path / "kth")
    assert result.returncode == 0 and f"{len(finished)} kept as they were" in result.stdout
    assert len(frames_under(tmp_path / "kth")) == 24 * 40 and len(list(folder.iterdir())) == 24
    assert finished.items() <= {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}.items()


def processes_of_group(group):
    listing = subprocess.run(["ps", "-o", "pid=,stat=", "-g", str(group)], capture_output=True, text=True).stdout
    return [line for line in listing.splitlines() if " Z" not in line]


def test_a_full_disk_ends_the_preparation_with_one_line_and_nothing_half_written(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "person01_boxing_d1_uncomp.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    for _ in range(5):
        writer.write(rng.integers(0, 255, [120, 160, 3], dtype=np.uint8))
    writer.release()
    command = [sys.executable, ROOT / "scripts" / "prepare_kth.py", "--videos", tmp_path, "--out", tmp_path / "kth"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))  # noqa: E731  a frame has 20 KB
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "make room" in result.stderr, result.stderr
    assert not any((tmp_path / "kth" / "boxing").iterdir())


def test_a_full_disk_at_the_start_of_a_preparation_blames_no_flag_later(tmp_path):
    write_video(tmp_path / "person01_boxing_d1_uncomp.avi", frames=3)
    command = [sys.executable, ROOT / "scripts" / "prepare_kth.py", "--videos", tmp_path, "--out", tmp_path / "kth"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))  # noqa: E731
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert full.returncode == 2 and full.stderr.count("\n") == 1 and "make room" in full.stderr, full.stderr
    result = prepare("--videos", tmp_path, "--out", tmp_path / "kth", "--quality", 80)
    assert result.returncode == 0 and "1 videos made 3 frames" in result.stdout, result.stderr
    (tmp_path / "kth" / "prepared.json").write_text("")  # as after a power cut
    result = prepare("--videos", tmp_path, "--out", tmp_path / "kth", "--quality", 80)
    assert result.returncode == 2 and "prepared.json: does not say what" in result.stderr


def test_a_second_preparation_into_one_folder_is_refused_while_the_first_runs(tmp_path):
    write_video(tmp_path / "person01_boxing_d1_uncomp.avi", frames=3)
    half_written = tmp_path / "kth" / "boxing" / ".person01_boxing_d1_uncomp.0123.partial"
    half_written.mkdir(parents=True)
    arguments = "--videos", tmp_path, "--out", tmp_path / "kth"
    with open(tmp_path / "kth" / prepare_kth.LOCK_FILE, "a") as first:
        assert lock(first)
        result = prepare(*arguments)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert f"--out {tmp_path / 'kth'}: another prepare_kth.py is writing there" in result.stderr
        assert half_written.exists()
    result = prepare(*arguments)
    assert result.returncode == 0 and "1 videos made 3 frames" in result.stdout, result.stderr
    assert not half_written.exists()


def be_killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_ends_the_preparation_with_advice(tmp_path, monkeypatch):
    write_video(tmp_path / "person01_boxing_d1_uncomp.avi", frames=3)
    monkeypatch.setattr(prepare_kth, "write_recording", be_killed)
    cv2.GaussianBlur(np.zeros([2000, 2000, 3], np.float32), (31, 31), 3)  # OpenCV has its threads before the fork
    with pytest.raises(UserError, match="--processes 1: one was killed .out of memory"):
        prepare_kth.prepare(tmp_path, tmp_path / "kth", None, 95, 1)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--videos", "/nowhere", "--out", "x"], "--videos /nowhere"),
        (["--videos", "EMPTY", "--out", "x"], "no video named personNN_<action>_dD_uncomp.avi"),
        (["--videos", "EMPTY", "--out", "x", "--sequences", "/nowhere"], "/nowhere: cannot be read"),
        (["--videos", "EMPTY", "--out", "x", "--quality", "0"], "--quality 0"),
        (["--videos", "EMPTY", "--out", "x", "--processes", "0"], "--processes 0"),
        (["--videos", "EMPTY"], "--out"),
    ],
)
def test_prepare_kth_answers_a_mistake_in_one_line(tmp_path, arguments, part):
    result = script("prepare_kth.py", *[str(tmp_path) if word == "EMPTY" else word for word in arguments])
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and part in result.stderr


def test_real_kth_video_gives_the_frames_of_its_ranges(extra_data, tmp_path):
    real = extra_data / "kth_real"
    result = prepare("--videos", real, "--out", tmp_path, "--sequences", real / "00sequences.txt")
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in (tmp_path / "boxing" / "person01_boxing_d2_uncomp").iterdir())
    ranges = ((1, 106), (107, 195), (196, 265), (305, 390))
    assert names == [f"image_{n:04d}.jpg" for first, last in ranges for n in range(first, last + 1)]
    dataset = KTHAction(tmp_path, "train", 20, 32)
    firsts = [int(clip.first_frame[6:10]) for clip in dataset.clips]
    assert firsts and not any(first <= 265 < first + 19 for first in firsts)


def test_names_that_are_not_utf_8_are_prepared_and_read(tmp_path):
    """OpenCV dies of them: a film of an old disk, a zip file unpacked with Chinese names."""
    films = tmp_path / os.fsdecode("电影".encode("gbk"))
    write_video(tmp_path / "plain.avi", frames=6)
    (films / "train").mkdir(parents=True)
    (tmp_path / "plain.avi").rename(films / "train" / os.fsdecode(b"caf\xe9.avi"))
    shutil.copy(films / "train" / os.fsdecode(b"caf\xe9.avi"), films / "person01_boxing_d1_uncomp.avi")
    with zipfile.ZipFile(films / "more.zip", "w") as archive:
        archive.write(films / "person01_boxing_d1_uncomp.avi", "person02_boxing_d1_uncomp.avi")
    result = prepare("--videos", films, "--out", films / "kth")
    assert result.returncode == 0 and "2 videos made 12 frames" in result.stdout, result.stderr
    assert len(frames_under(films / "kth")) == 12
    (clip,) = FolderClips(films, "train", 6, 16)
    np.testing.assert_allclose(clip[:, 8, 8, 0] * 255, 5 * np.arange(6), atol=3)


# ---- 00sequences.txt


def test_the_list_of_kth_is_read_in_the_forms_it_comes_in(tmp_path):
    path = tmp_path / "00sequences.txt"
    path.write_bytes(
        b"This is the list of sequences,   caf\xe9\r\nfor person01 frames 1-5 are shown\r\n\r\n"
        b"person01_boxing_d1\t\tframes\t1-95, 96-185, 186-245, 246-360\r\n"
        b"person01_running_d1   frames   1-35 , 95 - 130,\t202-235\r\n"
        b"person13_handclapping_d3\tframes\t*missing*\r\n"
    )
    assert read_sequences(path) == {
        "person01_boxing_d1": [(1, 95), (96, 185), (186, 245), (246, 360)],
        "person01_running_d1": [(1, 35), (95, 130), (202, 235)],
        "person13_handclapping_d3": [],
    }
    assert frame_numbers([(1, 3), (7, 8), (3, 4)]) == [1, 2, 3, 4, 7, 8]
    path.write_text("person01_boxing_d1 frames 9-5\n")
    with pytest.raises(UserError, match="line 1: expected ranges as 1-95"):
        read_sequences(path)


def test_the_real_list_has_ranges_for_every_recording_of_kth(extra_data):
    sequences = read_sequences(extra_data / "kth_real" / "00sequences.txt")
    assert len(all_recordings()) == 599
    assert [name for name in all_recordings() if not sequences.get(name)] == []
    assert max(len(ranges) for ranges in sequences.values()) == 4


# ---- videos as a data root


def two_recordings(root):
    for name, frames in (("person01_boxing_d1", 30), ("person02_running_d3", 25), ("person17_boxing_d1", 30)):
        write_video(root / name.split("_")[1] / f"{name}_uncomp.avi", frames)
    (root / "00sequences.txt").write_text(
        "person01_boxing_d1 frames 1-9, 12-28\nperson02_running_d3 frames 3-20\nperson17_boxing_d1 frames 2-30\n"
    )
    return root


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("mode", ["train", "test"])
def test_clips_of_videos_are_those_of_the_tree_prepared_from_them(tmp_path, mode, listed):
    root = two_recordings(tmp_path / "videos")
    if not listed:
        (root / "00sequences.txt").unlink()
    sequences = ["--sequences", root / "00sequences.txt"] if listed else []
    assert prepare("--videos", root, "--out", tmp_path / "kth", *sequences).returncode == 0
    videos, frames = KTHAction(root, mode, 7, 24), KTHAction(tmp_path / "kth", mode, 7, 24)
    assert [clip[:4] for clip in videos.clips] == [clip[:4] for clip in frames.clips] and len(videos) > 2
    for index in range(len(videos)):
        np.testing.assert_allclose(videos[index], frames[index], atol=3 / 255)


def test_a_video_beside_its_prepared_frames_is_not_read(tmp_path):
    write_video(tmp_path / "boxing" / "person01_boxing_d1_uncomp.avi", 20)
    folder = tmp_path / "boxing" / "person01_boxing_d1_uncomp"
    folder.mkdir()
    for number in range(1, 7):
        cv2.imwrite(str(folder / f"image_{number:04d}.png"), np.full([8, 8], 200, np.uint8))
    dataset = KTHAction(tmp_path, "train", 6, 8)
    assert len(dataset) == 1 and float(dataset[0].min()) == pytest.approx(200 / 255)


SIZE = 10 * 16**2  # bytes of a video in the cache


@pytest.fixture
def three_videos(tmp_path):
    """Their paths, in the order of their levels: video n has frames of 50 n, 50 n + 1 ..."""
    for number in range(3):
        write_video(tmp_path / f"{number}.avi", 10, value=lambda frame, number=number: 50 * number + frame)
    return [str(tmp_path / f"{number}.avi") for number in range(3)]


def assert_shows(video, number):
    assert video.shape == (10, 16, 16, 1)
    np.testing.assert_allclose(video[:, 8, 8, 0], 50 * number + np.arange(10), atol=3)


def test_decoded_videos_stay_within_the_cache_and_are_decoded_once(three_videos, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        "src.data_provider.videos.frames_of", lambda path, channels: decoded.append(path) or frames_of(path, channels)
    )
    cache = VideoCache(img_width=16, channels=1, limit=2 * SIZE)
    for number in (0, 1, 0, 2, 0, 1):
        assert_shows(cache.get(three_videos[number], 10), number)
        assert sum(kept.nbytes for kept in cache.videos.values()) <= cache.limit
    assert decoded == [three_videos[number] for number in (0, 1, 2, 1)]


def test_threads_decode_several_videos_at_once_and_each_once(three_videos, monkeypatch):
    decoded, meeting = [], threading.Barrier(3, timeout=LONGEST_WAIT)

    def together(path, channels):
        decoded.append(path)
        meeting.wait()
        return frames_of(path, channels)

    monkeypatch.setattr("src.data_provider.videos.frames_of", together)
    cache = VideoCache(img_width=16, channels=1, limit=3 * SIZE)
    with ThreadPoolExecutor(8) as threads:
        for number, video in zip([0, 1, 2] * 8, threads.map(cache.get, three_videos * 8, [10] * 24)):
            assert_shows(video, number)
    assert sorted(decoded) == three_videos


def test_threads_decode_no_more_at_once_than_the_cache_has_room_for(three_videos, monkeypatch):
    cache, taken = VideoCache(img_width=16, channels=1, limit=2 * SIZE), []

    def counted(path, channels):
        with cache.changed:
            taken.append(sum(cache.decoding.values()) + sum(video.nbytes for video in cache.videos.values()))
        return frames_of(path, channels)

    monkeypatch.setattr("src.data_provider.videos.frames_of", counted)
    with ThreadPoolExecutor(8) as threads:
        for number, video in zip([0, 1, 2] * 8, threads.map(cache.get, three_videos * 8, [10] * 24)):
            assert_shows(video, number)
    assert max(taken) <= cache.limit


def test_a_video_that_cannot_be_decoded_is_named_in_each_thread(tmp_path):
    (tmp_path / "none.avi").write_bytes(b"none")
    cache = VideoCache(img_width=16, channels=1, limit=2 * SIZE)
    with ThreadPoolExecutor(2) as threads:
        tries = [threads.submit(cache.get, str(tmp_path / "none.avi"), 10) for _ in range(2)]
    assert all(isinstance(found.exception(), UserError) for found in tries)


def test_a_video_larger_than_the_cache_is_refused_before_it_is_read(tmp_path):
    write_video(tmp_path / "boxing" / "person01_boxing_d1_uncomp.avi", 30)
    with pytest.raises(UserError, match="person01_boxing_d1_uncomp.avi: decoded it needs 1 MB.*--video_cache_mb"):
        KTHAction(tmp_path, "train", 4, 200, cache_bytes=10**6)


def test_a_video_that_ends_early_or_is_none_is_named(tmp_path):
    root = two_recordings(tmp_path)
    (root / "00sequences.txt").write_text("person01_boxing_d1 frames 1-31\nperson02_running_d3 frames 1-9")
    with pytest.raises(UserError, match="person01_boxing_d1_uncomp.avi: 30 frames can be read, expected 31 or more"):
        KTHAction(root, "train", 4, 16)
    (root / "00sequences.txt").unlink()
    (root / "boxing" / "person01_boxing_d1_uncomp.avi").write_bytes(b"no video")
    with pytest.raises(UserError, match="person01_boxing_d1_uncomp.avi: 0 frames can be read"):
        KTHAction(root, "train", 4, 16)


def test_a_video_that_is_cut_after_the_start_is_lost_not_fatal(tmp_path):
    write_video(tmp_path / "boxing" / "person01_boxing_d1_uncomp.avi", 20)
    dataset = KTHAction(tmp_path, "train", 4, 16)
    path = tmp_path / "boxing" / "person01_boxing_d1_uncomp.avi"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(LostFile, match="person01_boxing_d1_uncomp.avi: only .* frames can be read, expected 20"):
        dataset[0]


def test_a_network_is_trained_on_videos_as_they_are(tmp_path):
    config = settings_for(two_recordings(tmp_path / "videos"), tmp_path, num_workers=2, test_interval=3)
    trainer.train(config)
    assert json.loads((tmp_path / "results" / "3" / "metrics.json").read_text())["sequences"] == 4


# ---- sizes that lie: memory stays bounded, one line names the file


def test_an_avi_that_claims_a_billion_frames_has_those_that_are_there(tmp_path):
    path = tmp_path / "train" / "film.avi"
    write_video(path, 12)
    content = bytearray(path.read_bytes())
    for place in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):  # dwTotalFrames, dwLength
        content[place : place + 4] = (10**9).to_bytes(4, "little")
    path.write_bytes(content)
    assert count_frames(str(path)) == 12 and len(FolderClips(tmp_path, "train", 6, 16)) == 2


def test_a_gif_of_billions_of_pixels_is_named_and_not_decoded(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "train" / "film.gif")
    content = bytearray((tmp_path / "train" / "film.gif").read_bytes())
    content[6:10] = b"\xff" * 4  # width and height of the screen, and of its picture
    picture = content.index(b",", 13)
    content[picture + 5 : picture + 9] = b"\xff" * 4
    (tmp_path / "train" / "film.gif").write_bytes(content)
    assert list(frames_of(str(tmp_path / "train" / "film.gif"))) == []
    with pytest.raises(UserError, match="film.gif: 0 frames can be read"):
        FolderClips(tmp_path, "train", 1, 16)


@pytest.mark.parametrize("last", ["99999999999", "9" * 5000], ids=len)
def test_a_range_that_no_recording_has_is_named(tmp_path, last):
    (tmp_path / "00sequences.txt").write_text(f"prose\nperson01_boxing_d1 frames 1-{last}")
    with pytest.raises(UserError, match="00sequences.txt, line 2: expected ranges as 1-95.*found 1-999") as found:
        read_sequences(tmp_path / "00sequences.txt")
    assert len(str(found.value)) < 300


def test_a_picture_s_number_may_have_63_bits(tmp_path):
    folder = tmp_path / "train" / "clouds"
    folder.mkdir(parents=True)
    for number in (2**63 - 2, 2**63 - 1):
        cv2.imwrite(str(folder / f"frame_{number}.png"), np.zeros([8, 8], np.uint8))
    assert len(FolderClips(tmp_path, "train", 2, 16)) == 1
    (folder / f"frame_{2**63}.png").touch()
    with pytest.raises(UserError, match=f"clouds/frame_{2**63}.png: its number is too large"):
        FolderClips(tmp_path, "train", 2, 16)


# ---- a user's own films


def own_films(root):
    for mode, shift in (("train", 0), ("test", 100)):
        write_video(root / mode / "street" / "cars.avi", 12, value=lambda number, shift=shift: shift + 5 * number)
        folder = root / mode / "clouds"
        folder.mkdir(parents=True)
        for number in (7, 8, 9, 10, 11, 12, 13, 20, 21, 22, 23, 24, 25):
            picture = np.full([20, 30, 3], (shift + number, 10, 200), np.uint8)  # RGB
            Image.fromarray(picture).save(folder / f"sky-2_{number:03d}.png")
        pictures = [Image.fromarray(np.full([20, 30], shift + 8 * number, np.uint8)) for number in range(9)]
        pictures[0].save(root / mode / "waves.gif", save_all=True, append_images=pictures[1:], duration=40)
        (root / mode / "notes.txt").write_text("not a film")
    return root


def test_own_films_are_clips_by_the_rule_of_kth(tmp_path):
    dataset = FolderClips(own_films(tmp_path), "train", 6, 16)
    assert [(clip.category, clip.clip, clip.first_frame) for clip in dataset.clips] == [
        (".", "waves", "image_0004.jpg"),
        ("street", "cars", "image_0007.jpg"),
        ("street", "cars", "image_0001.jpg"),
        ("clouds", "clouds", "sky-2_020.png"),
        ("clouds", "clouds", "sky-2_008.png"),
    ]
    np.testing.assert_allclose(dataset[0][:, 8, 8, 0] * 255, 8 * np.arange(3, 9), atol=2)
    np.testing.assert_allclose(dataset[1][:, 8, 8, 0] * 255, 5 * np.arange(6, 12), atol=3)
    assert dataset[0].shape == (6, 16, 16, 1) and dataset[0].dtype == np.float32


def test_own_films_may_have_colour(tmp_path):
    dataset = FolderClips(own_films(tmp_path), "test", 6, 16, channels=3)
    assert dataset[3].shape == (6, 16, 16, 3)
    np.testing.assert_allclose(dataset[3][0, 8, 8] * 255, [120, 10, 200], atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_is_trained_on_own_films(tmp_path, channels):
    root = own_films(tmp_path / "films")
    config = settings_for(root, tmp_path, dataset_name="folder", img_channel=channels, test_interval=3)
    config.check_run()
    trainer.train(config)
    figures = json.loads((tmp_path / "results" / "3" / "metrics.json").read_text())
    assert figures["sequences"] == 5
    picture = Image.open(tmp_path / "results" / "3" / "1" / "pd04.png")
    assert picture.mode == ("L" if channels == 1 else "RGB")


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda root: (root / "train").rename(root / "training"), "train: there is no such folder; expected train/"),
        (lambda root: (root / "train" / "street" / "cars.avi").write_bytes(b"RIFF"), "cars.avi: 0 frames can be read"),
        (lambda root: (root / "train" / "waves.gif").write_bytes(b"GIF89a"), "waves.gif: 0 frames can be read"),
    ],
)
def test_own_films_that_cannot_be_used_are_named(tmp_path, spoil, part):
    root = own_films(tmp_path)
    spoil(root)
    with pytest.raises(UserError, match=part):
        FolderClips(root, "train", 6, 16)


def test_a_folder_of_films_that_is_a_level_too_deep_or_too_shallow_is_answered_with_the_right_one(tmp_path):
    root = own_films(tmp_path / "films")
    for wrong in (root.parent, root / "train", root / "train" / "street"):
        with pytest.raises(UserError, match=rf"^{wrong}: there is no train/ in it, but {root} holds it; give {root}$"):
            FolderClips(wrong, "train", 6, 16)


def test_own_films_without_a_clip_say_what_is_there(tmp_path):
    root = own_films(tmp_path)
    with pytest.raises(UserError, match=r"no clip of 13 consecutive frames; the longest run is 12, in .*cars.avi"):
        FolderClips(root, "train", 13, 16)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="no film in it, expected videos"):
        FolderClips(tmp_path / "empty", "train", 13, 16)


def test_frames_of_a_video_are_counted_as_they_are_decoded(tmp_path):
    write_video(tmp_path / "a.avi", 17)
    pictures = [Image.new("L", (8, 8), number) for number in range(5)]
    pictures[0].save(tmp_path / "b.gif", save_all=True, append_images=pictures[1:])
    for name, frames in (("a.avi", 17), ("b.gif", 5)):
        assert count_frames(str(tmp_path / name)) == len(list(frames_of(str(tmp_path / name)))) == frames
    assert count_frames(str(tmp_path / "nothing.avi")) == 0
