"""The threads that read, a disk that stalls, files that are cut or are no files, lists with a byte-order mark."""

import codecs
import ctypes
import dataclasses
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from src import trainer
from src.checkpoints.checkpoint import checkpoints, read_checkpoint
from src.config import Config
from src.data_provider import clips
from src.data_provider.folder import FolderClips, read_film
from src.data_provider.kth_action import KTHAction
from src.data_provider.kth_sequences import read_sequences
from src.data_provider.loader import test_batches
from src.data_provider.mnist import MovingMNIST
from src.errors import LostFile, UserError
from src.runtime.signals import Stopped, handle_signals, raise_stopped
from src.runtime.start import use_device
from tests.conftest import assert_same_weights, settings_for
from tests.helpers import LONGEST_WAIT, ROOT, write_video

STALLED_FOR = 0.5  # seconds without an iteration, after which a signal is sent

pytestmark = pytest.mark.usefixtures("undrawn")


# ---- threads


class Clips(paddle.io.Dataset):
    """12 clips, their pixels the clip's number; ``read`` has the numbers that were asked for."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds, self.read = seconds, []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.read.append(index)
        time.sleep(self.seconds)
        return np.full([6, 16, 16, 1], index, np.float32)


def test_batches_are_read_ahead_in_their_order_and_without_workers_once_they_are_needed():
    for num_workers, ahead in ((0, 0), (1, 2), (2, 4)):
        dataset = Clips()
        batches = test_batches(Config(num_workers=num_workers, batch_size=1), dataset)
        for number in range(3):
            assert float(next(batches).max()) == number
            until = time.monotonic() + LONGEST_WAIT
            while len(dataset.read) < number + 1 + ahead:
                assert time.monotonic() < until
                time.sleep(0.01)
            assert sorted(dataset.read) == list(range(number + 1 + ahead))
        assert [float(batch.max()) for batch in batches] == list(range(3, 12))


@pytest.mark.parametrize("batches_read", [1, 12])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_threads_that_read_end_with_the_reading(batches_read, num_workers):
    """Early, as at a signal and after the last iteration of a training, or after the last batch."""
    before = set(threading.enumerate())
    batches = test_batches(Config(num_workers=num_workers, batch_size=1), Clips(seconds=0.02))
    for _ in range(batches_read):
        next(batches)
    assert len(set(threading.enumerate()) - before) == max(1, num_workers)
    batches.close()
    assert not set(threading.enumerate()) - before


def test_threads_that_cannot_be_started_are_one_line_with_the_flag_to_lower(monkeypatch):
    before, start = set(threading.enumerate()), threading.Thread.start

    def start_one(thread):
        if set(threading.enumerate()) - before:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(UserError, match="--num_workers 8: .*ulimit -u"):
        next(test_batches(Config(num_workers=8, batch_size=1), Clips()))
    assert not set(threading.enumerate()) - before


LEFT_OPEN = """
import itertools, os, sys, threading
import src
from src.config import Config
from src.data_provider import videos
from src.data_provider.clips import ClipDataset, recording_of_video
from src.data_provider.loader import test_batches

film, disk = sys.argv[1:]
begun = threading.Barrier(3)

class Clips(ClipDataset):
    def __getitem__(self, index):
        if index == 1:
            begun.wait()
            open(disk)  # a pipe that nobody writes to
        if index == 2:
            begun.wait()
            self.videos.get(film, 10**6)
        return super().__getitem__(index)

dataset = Clips([recording_of_video(film, "")], 6, 16)
batches = test_batches(Config(num_workers=2, batch_size=1, total_length=6, input_length=3, img_width=16), dataset)
next(batches)
frames_of = videos.frames_of
videos.frames_of = lambda *arguments: itertools.chain.from_iterable(frames_of(*arguments) for _ in itertools.count())
dataset.videos = videos.VideoCache(16, 1, 2**30)  # in which the film is not yet
begun.wait()
"""


def test_a_program_ends_though_a_thread_waits_for_its_disk_and_another_decodes_a_long_video(tmp_path):
    write_video(tmp_path / "film.avi", 30, size=(640, 480))
    os.mkfifo(tmp_path / "disk")
    result = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, tmp_path / "film.avi", tmp_path / "disk"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
    )
    assert (result.returncode, result.stderr) == (0, "")


# ---- a disk that does not answer


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """While the file that it returns is there, no picture can be read whose path contains what is written in it."""
    lost, read = tmp_path / "lost", clips.read_picture

    def read_when_there(path, channels=1):
        while lost.exists() and lost.read_text() in path:
            time.sleep(0.05)
        return read(path, channels)

    monkeypatch.setattr(clips, "read_picture", read_when_there)
    yield lost
    lost.unlink(missing_ok=True)  # a thread that waits goes on and ends


def signal_once_stalled(monkeypatch, iteration, stall, number, last=0):
    """Stall in an iteration, and send this process a signal as soon as no further one is begun, not before ``last``."""
    original, begun = trainer.train_on_batch, []

    def watch():
        seen = -1
        while seen < len(begun) or len(begun) < last:
            seen = len(begun)
            time.sleep(STALLED_FOR)
        os.kill(os.getpid(), number)

    def step(config, current, *arguments):
        if current == iteration:
            stall()
            threading.Thread(target=watch, daemon=True).start()
        begun.append(current)
        return original(config, current, *arguments)

    monkeypatch.setattr(trainer, "train_on_batch", step)
    return begun


@pytest.mark.parametrize(
    ("number", "person", "num_workers"), [(signal.SIGINT, "person0", 2), (signal.SIGTERM, "person17", 0)]
)
def test_a_signal_ends_a_training_whose_disk_does_not_answer_with_a_checkpoint(
    kth_sample, tmp_path, monkeypatch, disk, number, person, num_workers
):
    """The training set's disk, or that of the tests during the training."""
    tests = person == "person17"
    config = settings_for(
        kth_sample, tmp_path, max_iterations=30, test_interval=5 if tests else 100, num_workers=num_workers
    )
    begun = signal_once_stalled(monkeypatch, 3, lambda: disk.write_text(person), number, last=5 if tests else 0)
    with pytest.raises(Stopped):
        trainer.train(config)
    assert checkpoints(config.save_dir) == [len(begun)] and 3 <= len(begun) < 30
    if tests:
        assert len(begun) == 5
    else:
        assert_goes_on_exactly(config, disk, monkeypatch)


def assert_goes_on_exactly(config, disk, monkeypatch):
    disk.unlink()
    monkeypatch.undo()
    trainer.train(dataclasses.replace(config, resume="newest", max_iterations=12))
    undisturbed = dataclasses.replace(config, save_dir=f"{config.save_dir}_undisturbed", max_iterations=12)
    os.mkdir(undisturbed.save_dir)
    trainer.train(undisturbed)
    one, two = (read_checkpoint("", f"{run.save_dir}/12") for run in (config, undisturbed))
    assert_same_weights(one.weights, two.weights)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_signal_ends_a_test_whose_disk_does_not_answer(num_workers):
    answers = threading.Event()

    class Lost(Clips):
        def __getitem__(self, index):
            answers.wait()

    before = handle_signals(raise_stopped)
    try:
        threading.Timer(STALLED_FOR, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Stopped):
            next(test_batches(Config(num_workers=num_workers, batch_size=1), Lost()))
    finally:
        answers.set()
        for name, handler in before.items():
            signal.signal(name, handler)


# ---- limits, and libraries beside a thread


def test_a_picture_for_which_too_many_files_are_open_is_not_to_be_removed(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    clips.read_picture(str(tmp_path / "a.png"))  # loads Pillow's plugins
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(UserError, match="a.png: cannot be read .Too many open files.; raise ulimit -n"):
            clips.read_picture(str(tmp_path / "a.png"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("threads", ["ours", "the user's"])
def test_openmp_sets_its_environment_variable_before_a_thread_reads_pictures(threads, monkeypatch):
    """Beside a getenv of libjpeg's in that thread it would end the process now and then."""
    if "libiomp5" not in Path("/proc/self/maps").read_text():
        pytest.skip("Paddle has another OpenMP runtime")
    monkeypatch.setattr("src.runtime.process_env._threads_are_ours", threads == "ours")
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    child = os.fork()  # a process in which the runtime has not started
    if child == 0:
        status = 1
        try:
            name = f"__KMP_REGISTERED_LIB_{os.getpid()}".encode()
            was_set = getenv(name) is not None
            use_device(Config(device="cpu"))
            status = 0 if getenv(name) is not None and not was_set else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- files that are cut, or are no files


def test_an_npy_that_is_cut_during_a_run_ends_it_with_a_checkpoint_and_its_name(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, [6, 40, 16, 16], dtype=np.uint8))
    config = settings_for(path, tmp_path, dataset_name="mnist", max_iterations=50, num_workers=2)
    original = trainer.train_on_batch

    def step(config, iteration, *arguments):
        if iteration == 3:
            os.truncate(path, 3000)
        return original(config, iteration, *arguments)

    monkeypatch.setattr(trainer, "train_on_batch", step)
    with pytest.raises(LostFile, match="a.npy: is shorter than it was at the start"):
        trainer.train(config)
    assert len(checkpoints(config.save_dir)) == 1


@pytest.mark.parametrize("order", ["C", "F"])
def test_clips_of_an_npy_are_those_of_its_array(tmp_path, order):
    frames = np.random.default_rng(0).integers(0, 256, [6, 5, 8, 8], dtype=np.uint8)
    np.save(tmp_path / "a.npy", np.asarray(frames, order=order))
    dataset = MovingMNIST([tmp_path / "a.npy"], 4, 8)
    assert len(dataset) == 5
    for index in range(5):
        np.testing.assert_array_equal(dataset[index][..., 0] * np.float32(255), frames[:4, index])


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("train/v.mp4", lambda root: FolderClips(root, "train", 4, 8)),
        ("train/g.gif", lambda root: FolderClips(root, "train", 4, 8)),
        ("boxing/person01_boxing_d1.avi", lambda root: KTHAction(root, "train", 4, 8)),
        ("boxing/person01_boxing_d1/image_0001.jpg", lambda root: KTHAction(root, "train", 1, 8)[0]),
        ("a.npy", lambda root: MovingMNIST([f"{root}/a.npy"], 4, 8)),
        ("a.npz", lambda root: MovingMNIST([f"{root}/a.npz"], 4, 8)),
        ("00sequences.txt", lambda root: read_sequences(f"{root}/00sequences.txt")),
        ("film.mp4", lambda root: read_film(f"{root}/film.mp4", 0, 3, 3, 8, 1)),
    ],
)
def test_a_named_pipe_in_place_of_a_file_is_refused_by_name(tmp_path, name, read):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: is a named pipe, expected a file; replace or remove it"):
        read(str(tmp_path))


def test_a_picture_that_becomes_a_named_pipe_during_a_run_is_lost(tmp_path):
    folder = tmp_path / "train" / "film"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    dataset = FolderClips(str(tmp_path), "train", 4, 8)
    time.sleep(0.02)  # the file system's clock ticks every few milliseconds
    (folder / "2.png").unlink()
    os.mkfifo(folder / "2.png")
    with pytest.raises(LostFile, match="2.png: is a named pipe"):
        dataset[0]


def test_links_among_own_films_are_followed_to_each_folder_once(tmp_path):
    film, elsewhere = tmp_path / "train" / "b" / "film", tmp_path / "elsewhere"
    for folder in (film, elsewhere):
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    (film / "itself").symlink_to(".")
    (film / "above").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "c").symlink_to("b")
    (tmp_path / "train" / "d").symlink_to(elsewhere)
    recordings = FolderClips(str(tmp_path), "train", 4, 8).recordings
    assert [os.path.relpath(recording.path, tmp_path) for recording in recordings] == ["train/b/film", "train/d"]


def test_a_byte_order_mark_before_a_list_loses_no_line(tmp_path):
    path = tmp_path / "00sequences.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"person01_boxing_d1 frames 1-95\r\nperson02_boxing_d1 frames 3-9\r\n")
    assert read_sequences(path) == {"person01_boxing_d1": [(1, 95)], "person02_boxing_d1": [(3, 9)]}
