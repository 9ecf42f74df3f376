"""Moving MNIST: sets made by scripts/make_moving_mnist.py, and how files of both formats are read."""

import gzip
import os
import signal
import struct
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from scripts.make_moving_mnist import CHUNK, Motion, bundled_digits, draw_clip, main, make_set, part_of, trajectories
from src.config import Config
from src.data_provider import npz_frames
from src.data_provider.loader import test_batches
from src.data_provider.mnist import MovingMNIST
from src.errors import LostFile, UserError
from tests.helpers import LONGEST_WAIT, ROOT

SCRIPT = ROOT / "scripts" / "make_moving_mnist.py"
SMALL = Motion(digits=2, size=24, length=6, speed=2.5)


def pictures(count=30, side=28):
    """Random squares in a black field, as uint8 [count, side, side]: each one differs from the others."""
    images = np.zeros([count, side, side], np.uint8)
    images[:, 4:-4, 4:-4] = np.random.default_rng(0).integers(1, 256, [count, side - 8, side - 8])
    return images


def write_idx(path, images, magic=0x803, packed=False):
    content = struct.pack(">IIII", magic, *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def clips_of(path, length=6, size=24):
    dataset = MovingMNIST([str(path)], length, size)
    return np.stack([dataset[index] for index in range(len(dataset))])[..., 0]


# ---- sets that are made


@pytest.mark.parametrize("clips", [3, CHUNK + 3])
def test_both_formats_have_their_arrays_and_are_read_back_as_the_same_clips(tmp_path, clips):
    digits = pictures(side=12)
    for suffix in ("npz", "npy"):
        make_set(tmp_path / f"a.{suffix}", digits, clips, SMALL, seed=4)
        drawn = np.stack([draw_clip(digits, 4, "all", number, SMALL) for number in range(clips)])
        np.testing.assert_allclose(clips_of(tmp_path / f"a.{suffix}") * 255, drawn, atol=1e-4)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.npz"]
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays.files) == ["clips", "dims", "input_raw_data"]
        np.testing.assert_array_equal(arrays["clips"][:, :3], [[[0, 3], [6, 3], [12, 3]], [[3, 3], [9, 3], [15, 3]]])
        np.testing.assert_array_equal(arrays["dims"], [[1, 24, 24]])
        frames = arrays["input_raw_data"]
    assert frames.shape == (6 * clips, 1, 24, 24) and frames.dtype == np.float32 and 0 <= frames.min() < frames.max()
    sequence = np.load(tmp_path / "a.npy")
    assert sequence.shape == (6, clips, 24, 24) and sequence.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_the_same_flags_give_the_same_bytes_and_a_longer_set_begins_with_the_shorter_one(tmp_path, suffix):
    digits = pictures(side=12)

    def made(name, clips=5, seed=1, split="all"):
        make_set(tmp_path / f"{name}.{suffix}", digits, clips, SMALL, seed, split)
        return (tmp_path / f"{name}.{suffix}").read_bytes()

    first = made("first")
    assert first == made("again") and first != made("seed", seed=2) and first != made("split", split="train")
    made("longer", clips=9)
    np.testing.assert_array_equal(clips_of(tmp_path / f"longer.{suffix}")[:5], clips_of(tmp_path / f"first.{suffix}"))


def test_digits_stay_in_the_frame_and_move_by_the_speed_except_where_they_bounce():
    for seed in range(5):
        places = trajectories(np.random.default_rng(seed), Motion(digits=3, size=40, length=200, speed=3), room=30)
        assert places.shape == (3, 200, 2) and places.min() >= 0 and places.max() <= 30
        velocity = np.diff(places, axis=1)
        free = ((np.minimum(places[:, :-1], places[:, 1:]) > 3) & (np.maximum(places[:, :-1], places[:, 1:]) < 27)).all(
            2
        )
        assert free.sum() > 100
        np.testing.assert_allclose(np.linalg.norm(velocity, axis=-1)[free], 3, rtol=1e-9)
        for digit in range(3):  # along each axis it only changes its sign
            np.testing.assert_allclose(np.ptp(np.abs(velocity[digit][free[digit]]), axis=0), 0, atol=1e-9)


def test_a_drawn_digit_is_whole_in_every_frame_and_where_two_meet_the_brighter_pixel_is_seen():
    digits = pictures(side=12)
    clip = draw_clip(digits, 0, "all", 0, Motion(digits=1, size=24, length=40, speed=4)).astype(int)
    assert (clip.sum(axis=(1, 2)) == clip[0].sum()).all() and clip[0].sum() in digits.sum(axis=(1, 2))
    rng = np.random.default_rng([0, 0, 7])
    chosen = digits[rng.integers(0, len(digits), 2)]
    alone = np.zeros([2, SMALL.length, 24, 24], np.uint8)
    for layer, digit, track in zip(alone, chosen, np.rint(trajectories(rng, SMALL, room=12)).astype(int)):
        for frame, (top, left) in zip(layer, track):
            frame[top : top + 12, left : left + 12] = digit
    np.testing.assert_array_equal(draw_clip(digits, 0, "all", 7, SMALL), alone.max(axis=0))
    for still in (Motion(2, 24, 5, speed=0), Motion(1, 12, 5, speed=3)):  # the second: as large as the frame
        clip = draw_clip(digits, 0, "all", 0, still)
        assert clip.any() and (clip == clip[0]).all()


@pytest.mark.parametrize("count", [2, 30, 1797])
def test_train_and_test_digits_are_disjoint_and_together_all(count):
    train, test, everything = (
        {digit.tobytes() for digit in part_of(pictures(count), split)} for split in ("train", "test", "all")
    )
    assert train and test and not train & test and len(train | test) == len(everything) == count


def test_the_bundled_digits_look_like_mnist_s():
    digits = bundled_digits()
    assert digits.shape == (1797, 28, 28) and digits.dtype == np.uint8
    assert not digits[:, :4].any() and not digits[:, :, -4:].any()  # MNIST's margin
    lit = (digits > 127).mean(axis=(1, 2))
    assert 0.05 < lit.min() and lit.max() < 0.35 and digits.max() == 255


# ---- the command


def test_idx_files_are_read_gzip_or_not_whatever_they_are_called(tmp_path, capsys):
    made = []
    for name, packed in (("plain-idx3-ubyte", False), ("packed.gz", True), ("packed-idx3-ubyte", True)):
        images, out = write_idx(tmp_path / name, pictures(), packed=packed), tmp_path / "new" / f"{name}.npy"
        assert main(["--images", str(images), "--out", str(out), "--clips", "3"]) == 0
        assert str(out) in capsys.readouterr().out
        made.append(np.load(out))
        assert made[-1].shape == (20, 3, 64, 64) and (made[-1] == made[0]).all()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--out"),
        (["--out", "TMP/a.npx"], "a.npx"),
        (["--out", "TMP/there.npz"], "there.npz"),
        (["--out", "/dev/null/a.npz", "--source", "digits"], "/dev/null"),
        (["--out", "TMP/a.npz", "--clips", "0"], "--clips"),
        (["--out", "TMP/a.npz", "--digits", "two"], "--digits"),
        (["--out", "TMP/a.npz", "--size", "20"], "--digit_size 28"),
        (["--out", "TMP/a.npz", "--speed", "nan"], "--speed nan"),
        (["--out", "TMP/a.npz", "--images", "TMP"], "--images"),
        (["--out", "TMP/a.npz", "--images", "TMP/empty"], "empty"),
        (["--out", "TMP/a.npz", "--images", "TMP/labels"], "labels"),
        (["--out", "TMP/a.npz", "--images", "TMP/other"], "other"),
        (["--out", "TMP/a.npz", "--images", "TMP/cut"], "cut"),
        (["--out", "TMP/a.npz", "--images", "TMP/cut.gz"], "cut.gz"),
        (["--out", "TMP/a.npz", "--images", "TMP/none"], "none"),
        (["--out", "TMP/a.npz", "--images", "TMP/oblong"], "oblong"),
        (["--out", "TMP/a.npz", "--images", "TMP/one", "--source", "digits"], "--source digits"),
        (["--out", "TMP/a.npz", "--images", "TMP/one", "--split", "train"], "--split train"),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_nothing_is_written(tmp_path, capfd, arguments, part):
    (tmp_path / "there.npz").write_bytes(b"precious")
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_bytes(b"no idx file at all")
    whole = write_idx(tmp_path / "one", pictures(1)).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-10])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(whole)[:-10])
    (tmp_path / "labels").write_bytes(struct.pack(">II", 0x801, 9) + bytes(9))
    write_idx(tmp_path / "none", pictures(0))
    write_idx(tmp_path / "oblong", np.zeros([2, 5, 6], np.uint8))
    before = sorted(os.listdir(tmp_path))
    assert main([word.replace("TMP", str(tmp_path)) for word in arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("make_moving_mnist.py: ") and error.count("\n") == 1 and part in error
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "there.npz").read_bytes() == b"precious"


def test_mnist_itself_comes_from_paddle_and_train_and_test_share_no_digit(tmp_path, monkeypatch, capfd):
    files = {mode: write_idx(tmp_path / mode, pictures(number)) for mode, number in (("train", 6), ("test", 4))}
    asked = []

    def kept(mode):
        asked.append(mode)
        print("Cache file not found, downloading")  # what Paddle says is no part of what a user reads
        return types.SimpleNamespace(image_path=str(files[mode]))

    monkeypatch.setattr("paddle.vision.datasets.MNIST", kept)
    for split, count in (("train", 6), ("test", 4), ("all", 10)):
        assert main(["--out", str(tmp_path / f"{split}.npy"), "--clips", "3", "--split", split]) == 0
        output = capfd.readouterr().out
        assert f"of {count} digits" in output and "Cache" not in output
    assert asked == ["train", "test", "train", "test"]


def test_without_a_network_or_scikit_learn_one_line_names_the_other_ways(tmp_path, monkeypatch, capfd):
    def offline(mode):
        print("Cache file not found, downloading", file=sys.stderr)
        raise RuntimeError("Cannot download https://x/y.gz within retry limit 3")

    monkeypatch.setattr("paddle.vision.datasets.MNIST", offline)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for source, ways in (
        ("mnist", ["--images", "--source digits"]),
        ("digits", ["--images", "requirements/digits.txt"]),
    ):
        assert main(["--out", str(tmp_path / "a.npz"), "--clips", "1", "--source", source]) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and f"--source {source}" in error and all(way in error for way in ways)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "a.npy"), (signal.SIGTERM, "a.npz")])
def test_stopping_it_leaves_nothing_behind(tmp_path, number, name):
    write_idx(tmp_path / "images", pictures())
    command = [sys.executable, SCRIPT, "--images", tmp_path / "images", "--out", tmp_path / name, "--clips", "1000000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while len(os.listdir(tmp_path)) == 1:  # until it has begun its file
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=LONGEST_WAIT)
    finally:
        process.kill()
    assert process.returncode == 130 and error.startswith("make_moving_mnist.py: stopped"), error
    assert os.listdir(tmp_path) == ["images"]


# ---- reading


def random_npz(path, clips=7, length=6, side=8, compressed=True, **others):
    """Random clips of the PredRNN family in an .npz; returns them, float32 [clips, length, side, side]."""
    frames = np.random.default_rng(1).integers(0, 256, [clips, length, side, side]).astype(np.float32) / np.float32(255)
    first = np.arange(clips) * length
    given = length // 2
    spans = np.array([[(f, given) for f in first], [(f + given, length - given) for f in first]])
    save = np.savez_compressed if compressed else np.savez
    arrays = {"clips": spans, "dims": [[1, side, side]], "input_raw_data": frames.reshape(-1, 1, side, side), **others}
    save(path, **arrays)
    return frames


@pytest.mark.parametrize("compressed", [False, True])
def test_any_clip_of_an_npz_is_read_on_its_own_in_any_order(tmp_path, monkeypatch, compressed):
    monkeypatch.setattr(npz_frames, "SPAN", 3000)  # bytes; a clip has 1536, so points of entry lie within clips
    monkeypatch.setattr(npz_frames, "STEP", 500)
    monkeypatch.setattr(npz_frames, "INPUT", 700)
    frames = random_npz(tmp_path / "a.npz", clips=40, compressed=compressed)
    dataset = MovingMNIST([str(tmp_path / "a.npz")], 6, 8)
    for index in np.random.default_rng(0).permutation(40):
        np.testing.assert_array_equal(dataset[int(index)][..., 0], frames[index])


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_is_not_held_in_memory(tmp_path, compressed):
    """240 MB of frames; the memory of the process is measured from outside, in a fresh one."""
    frames = np.zeros([15_000, 1, 64, 64], np.float32)
    frames[::7, 0, ::3] = 0.5
    spans = np.array([[(f, 10) for f in range(0, 15_000, 20)], [(f + 10, 10) for f in range(0, 15_000, 20)]])
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", clips=spans, input_raw_data=frames)
    code = (
        "import resource, sys; from src.data_provider.mnist import MovingMNIST\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); dataset = MovingMNIST([sys.argv[1]], 20, 64); total = float(dataset[700].sum())\n"
        "print(len(dataset), total, peak() - before)"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.npz"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    clips, total, kilobytes = map(float, result.stdout.split())
    assert clips == 750 and total == frames[14_000:14_020].sum() > 0
    assert kilobytes < 50_000


def test_every_clip_of_several_files_of_both_formats_is_served_once_the_last_partial_batch_included(tmp_path):
    first = random_npz(tmp_path / "a.npz", clips=4)
    second = np.random.default_rng(2).integers(0, 256, [6, 5, 8, 8], dtype=np.uint8)
    np.save(tmp_path / "b.npy", second)
    third = random_npz(tmp_path / "c.npz", clips=2, compressed=False)
    expected = np.concatenate([first, second.swapaxes(0, 1) / np.float32(255), third])
    paths = [str(tmp_path / name) for name in ("a.npz", "b.npy", "c.npz")]
    for workers in (0, 2):
        config = Config(img_width=8, patch_size=4, input_length=3, total_length=6, batch_size=4, num_workers=workers)
        batches = [batch.numpy() for batch in test_batches(config, MovingMNIST(paths, 6, 8))]
        assert [len(batch) for batch in batches] == [4, 4, 3]
        np.testing.assert_array_equal(np.concatenate(batches)[..., 0], expected)


@pytest.mark.parametrize("compressed", [False, True])
def test_overlapping_clips_uint8_frames_and_fortran_order_are_read_too(tmp_path, compressed):
    frames = random_npz(tmp_path / "a.npz", clips=3)
    raw = np.rint(frames.reshape(-1, 1, 8, 8) * 255).astype(np.uint8)
    spans = np.array([[[4, 2], [0, 3], [5, 1], [3, 6]], [[0, 4], [3, 3], [1, 5], [0, 0]]])
    places = [[4, 5, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [5, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]
    for array in (raw, np.asfortranarray(raw / 255.0)):
        random_npz(tmp_path / "b.npz", compressed=compressed, input_raw_data=array, clips=3)
        np.testing.assert_allclose(clips_of(tmp_path / "b.npz", 6, 8), frames, atol=1e-6)
        np.savez_compressed(tmp_path / "c.npz", clips=spans, input_raw_data=array)
        np.testing.assert_allclose(clips_of(tmp_path / "c.npz", 6, 8), raw[places, 0] / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "array", "part"),
    [
        ("a.npz", np.full([42, 1, 8, 8], 255, np.float32), "255"),
        ("a.npz", np.full([42, 1, 8, 8], np.nan), "nan"),
        ("a.npz", np.zeros([42, 1, 8, 8], np.uint16), "uint16"),
        ("a.npz", np.zeros([42, 3, 8, 8], np.float32), "input_raw_data"),
        ("a.npz", np.zeros([41, 1, 8, 8], np.float32), "clips"),
        ("a.npy", np.zeros([6, 3, 8, 8], np.float32), "float32"),
        ("a.npy", np.zeros([6, 3, 64], np.uint8), "uint8"),
        ("a.npy", np.zeros([2000, 20, 8, 8], np.uint8), "swapaxes"),
        ("a.npy", np.zeros([6, 0, 8, 8], np.uint8), "no clip"),
        ("a.npy", np.zeros([5, 3, 8, 8], np.uint8), "--total_length"),
        ("a.npy", np.zeros([6, 3, 8, 9], np.uint8), "--img_width"),
    ],
)
def test_frames_of_another_kind_or_shape_are_refused_by_name(tmp_path, name, array, part):
    random_npz(tmp_path / name, input_raw_data=array) if name == "a.npz" else np.save(tmp_path / name, array)
    with pytest.raises(UserError) as error:
        MovingMNIST([str(tmp_path / name)], 6, 8)[0]
    assert str(tmp_path / name) in str(error.value) and part in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.npz", lambda content: content[: len(content) // 2]),
        ("a.npy", lambda content: content[: len(content) // 2]),
        ("a.npz", lambda content: content[:1500] + bytes([content[1500] ^ 4]) + content[1501:]),  # a flipped bit
    ],
)
def test_a_damaged_file_is_refused_by_name_at_the_start(tmp_path, name, damage):
    make_set(tmp_path / name, pictures(side=12), 5, SMALL)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(UserError, match=name):
        MovingMNIST([str(tmp_path / name)], 6, 24)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_that_is_lost_or_cut_during_a_run_is_a_lost_file(tmp_path, compressed):
    random_npz(tmp_path / "a.npz", compressed=compressed)
    dataset = MovingMNIST([str(tmp_path / "a.npz")], 6, 8)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 3])
    dataset[0]
    with pytest.raises(LostFile, match="a.npz"):
        dataset[6]
    (tmp_path / "a.npz").unlink()
    with pytest.raises(LostFile, match="a.npz"):
        dataset[0]


# ---- the experiment scripts


@pytest.mark.parametrize("script", ["paddle_e3d_lstm_mm_train.sh", "paddle_e3d_lstm_mm_test.sh"])
def test_the_experiment_scripts_ask_for_the_full_size_and_pass_paths_and_further_flags(tmp_path, script):
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)

    def config(*arguments, **environment):
        result = subprocess.run(
            ["bash", ROOT / "scripts" / script, *arguments],
            env={**os.environ, "PYTHON": str(stub), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return Config.from_command_line(result.stdout.split("\n")[1:-1])

    training = script.endswith("train.sh")
    default = config()
    assert default.dataset_name == "mnist" and default.is_training == training
    assert (default.img_width, default.patch_size, default.filter_size) == (64, 4, 5)
    assert (default.input_length, default.total_length) == (10, 20)
    paths = ("a.npz", "b.npy", "save", "weights") if training else ("b.npy", "weights", "pictures")
    given = config(*paths, "--batch_size", "2", "--img_width", "32")
    assert (given.valid_data_paths, given.pretrained_model) == ("b.npy", "weights")
    assert (given.batch_size, given.img_width) == (2, 32)
    assert not training or (given.train_data_paths, given.save_dir) == ("a.npz", "save")
    assert config(TEST_DATA="b.npy").valid_data_paths == "b.npy"
