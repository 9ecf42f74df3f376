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

from scripts.make_moving_mnist import (
    CHUNK,
    Motion,
    bundled_digits,
    digits_of,
    draw_clip,
    main,
    make_set,
    read_idx,
    trajectories,
)
from src.config import Config
from src.data_provider import npz_frames
from src.data_provider.loader import test_batches
from src.data_provider.mnist import MovingMNIST
from src.errors import LostFile, UserError
from tests.helpers import LONGEST_WAIT, ROOT

SCRIPT = ROOT / "scripts" / "make_moving_mnist.py"
SMALL = Motion(digits=2, size=24, length=6, digit_size=12, speed=2.5)


def pictures(count=30, side=28):
    """Random squares in a black field, as uint8 [count, side, side]: each one differs from the others."""
    images = np.zeros([count, side, side], np.uint8)
    images[:, 4:-4, 4:-4] = np.random.default_rng(0).integers(1, 256, [count, side - 8, side - 8])
    return images


def write_idx(path, images, magic=0x803, packed=False):
    content = struct.pack(">IIII", magic, *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def run(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def clips_of(path, motion):
    dataset = MovingMNIST([str(path)], motion.length, motion.size)
    return np.stack([dataset[index] for index in range(len(dataset))])[..., 0]


# ---- sets that are made


@pytest.mark.parametrize("clips", [1, CHUNK + 3])
def test_both_formats_are_read_back_as_the_same_clips(tmp_path, clips):
    images = pictures()
    for suffix in ("npz", "npy"):
        make_set(tmp_path / f"a.{suffix}", images, clips, SMALL, seed=4)
    digits, _ = digits_of(images, "all", SMALL.digit_size)
    drawn = np.stack([draw_clip(digits, 4, "all", number, SMALL) for number in range(clips)])
    for suffix in ("npz", "npy"):
        np.testing.assert_allclose(clips_of(tmp_path / f"a.{suffix}", SMALL) * 255, drawn, atol=1e-4)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.npz"]


def test_the_npz_has_the_arrays_of_the_predrnn_family_and_the_npy_the_axes_of_mnist_test_seq(tmp_path):
    for suffix in ("npz", "npy"):
        make_set(tmp_path / f"a.{suffix}", pictures(), 3, SMALL)
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays.files) == ["clips", "dims", "input_raw_data"]
        np.testing.assert_array_equal(arrays["clips"], [[[0, 3], [6, 3], [12, 3]], [[3, 3], [9, 3], [15, 3]]])
        np.testing.assert_array_equal(arrays["dims"], [[1, 24, 24]])
        frames = arrays["input_raw_data"]
    assert frames.shape == (18, 1, 24, 24) and frames.dtype == np.float32 and frames.min() == 0 and frames.max() <= 1
    sequence = np.load(tmp_path / "a.npy")
    assert sequence.shape == (6, 3, 24, 24) and sequence.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_the_same_flags_give_the_same_bytes_and_another_seed_or_split_other_clips(tmp_path, suffix):
    images = pictures()
    for name, seed, split in (("a", 1, "all"), ("b", 1, "all"), ("c", 2, "all"), ("d", 1, "train")):
        make_set(tmp_path / f"{name}.{suffix}", images, 5, SMALL, seed, split)
    first, second, seed, split = [(tmp_path / f"{name}.{suffix}").read_bytes() for name in "abcd"]
    assert first == second
    assert first != seed and first != split


def test_a_longer_set_begins_with_the_shorter_one(tmp_path):
    for clips in (4, 9):
        make_set(tmp_path / f"{clips}.npy", pictures(), clips, SMALL)
    np.testing.assert_array_equal(np.load(tmp_path / "9.npy")[:, :4], np.load(tmp_path / "4.npy"))


def test_idx_files_are_read_gzip_or_not_whatever_they_are_called(tmp_path):
    images = pictures()
    for name, packed in (("plain-idx3-ubyte", False), ("packed.gz", True), ("packed-idx3-ubyte", True)):
        np.testing.assert_array_equal(read_idx(write_idx(tmp_path / name, images, packed=packed)), images)
    write_idx(tmp_path / "images.gz", images, packed=True)
    result = run("--images", tmp_path / "images.gz", "--out", tmp_path / "new" / "a.npy", "--clips", 3)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"wrote {tmp_path / 'new' / 'a.npy'}: 3 clips of 2 of 30 digits, 20 frames of 64 x")
    assert np.load(tmp_path / "new" / "a.npy").shape == (20, 3, 64, 64)


def test_digits_stay_in_the_frame_and_move_by_the_speed_except_where_they_bounce():
    motion = Motion(digits=3, size=40, length=200, digit_size=10, speed=3)
    for seed in range(5):
        places = trajectories(np.random.default_rng(seed), motion)  # (3, 200, 2)
        assert places.shape == (3, 200, 2) and places.min() >= 0 and places.max() <= 30
        steps = np.linalg.norm(np.diff(places, axis=1), axis=-1)
        before, after = places[:, :-1], places[:, 1:]
        free = ((np.minimum(before, after) > 3) & (np.maximum(before, after) < 27)).all(axis=-1)
        assert free.sum() > 100
        np.testing.assert_allclose(steps[free], 3, rtol=1e-9)
        assert (steps <= 3 + 1e-9).all()
        velocity = np.abs(np.diff(places, axis=1))  # along each axis it only changes its sign
        np.testing.assert_allclose(
            np.median(velocity, axis=1)[:, np.newaxis] * free[..., np.newaxis],
            velocity * free[..., np.newaxis],
            atol=1e-9,
        )


def test_a_drawn_digit_is_whole_in_every_frame_and_where_two_meet_the_brighter_pixel_is_seen():
    digits, _ = digits_of(pictures(), "all", 12)
    one = Motion(digits=1, size=24, length=40, digit_size=12, speed=4)
    clip = draw_clip(digits, 0, "all", 0, one).astype(int)
    assert (clip.sum(axis=(1, 2)) == clip[0].sum()).all() and clip[0].sum() in digits.sum(axis=(1, 2))
    for number in range(20):
        rng = np.random.default_rng([0, 0, number])
        chosen = digits[rng.integers(0, len(digits), 2)]
        places = np.rint(trajectories(rng, SMALL)).astype(int)
        alone = np.zeros([2, SMALL.length, 24, 24], np.uint8)
        for layer, digit, track in zip(alone, chosen, places):
            for frame, (top, left) in zip(layer, track):
                frame[top : top + 12, left : left + 12] = digit
        np.testing.assert_array_equal(draw_clip(digits, 0, "all", number, SMALL), alone.max(axis=0))


def test_speed_0_stands_still_and_a_digit_as_large_as_the_frame_stays():
    digits, _ = digits_of(pictures(), "all", 12)
    for motion in (Motion(2, 24, 5, 12, 0), Motion(1, 12, 5, 12, 3)):
        clip = draw_clip(digits, 0, "all", 0, motion)
        assert clip.any() and (clip == clip[0]).all()


@pytest.mark.parametrize("count", [2, 30, 1797])
def test_train_and_test_digits_are_disjoint_and_together_all(count):
    images = pictures(count)
    numbers = {split: digits_of(images, split, 28)[1].tolist() for split in ("train", "test", "all")}
    assert numbers["train"] and numbers["test"] and not set(numbers["train"]) & set(numbers["test"])
    assert sorted(numbers["train"] + numbers["test"]) == numbers["all"] == list(range(count))


def test_the_bundled_digits_look_like_mnist_s():
    digits = bundled_digits()
    assert digits.shape == (1797, 28, 28) and digits.dtype == np.uint8
    assert not digits[:, :4].any() and not digits[:, :, -4:].any()  # MNIST's margin
    assert len(np.unique(digits.reshape(1797, -1), axis=0)) > 1700  # 1797 hands, not one
    lit = (digits > 127).mean(axis=(1, 2))
    assert 0.05 < lit.min() and lit.max() < 0.35 and digits.max() == 255


def test_a_long_set_is_made_in_the_memory_of_a_short_one(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from scripts.make_moving_mnist import Motion, make_set\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "images = np.full([9, 28, 28], 255, np.uint8); motion = Motion(1, 64, 20, 28, 3)\n"
        "make_set(Path(sys.argv[1]) / 'few.npz', images, 64, motion); before = peak()\n"
        "for suffix in ('npz', 'npy'):\n"
        "    make_set(Path(sys.argv[1]) / f'many.{suffix}', images, 640, motion)\n"
        "print(peak() - before)"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 40_000  # kB; the frames of 640 clips are 210,000 kB as float32


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--out"),
        (["--out", "TMP/a.npx"], "a.npx: expected a name that ends in .npz or .npy"),
        (["--out", "TMP/there.npz"], "there.npz: is there already"),
        (["--out", "/dev/null/a.npz", "--source", "digits"], "/dev/null"),
        (["--out", "TMP/a.npz", "--clips", "0"], "--clips 0: expected a whole number from 1"),
        (["--out", "TMP/a.npz", "--digits", "two"], "--digits two: expected a whole number from 1"),
        (["--out", "TMP/a.npz", "--length", "1"], "--length 1"),
        (["--out", "TMP/a.npz", "--size", "9999"], "--size 9999"),
        (["--out", "TMP/a.npz", "--size", "20"], "--digit_size 28: larger than the frame, --size 20"),
        (["--out", "TMP/a.npz", "--speed", "fast"], "--speed fast: expected pixels a frame"),
        (["--out", "TMP/a.npz", "--speed", "-1"], "--speed -1"),
        (["--out", "TMP/a.npz", "--speed", "nan"], "--speed nan"),
        (["--out", "TMP/a.npz", "--seed", "x"], "--seed x"),
        (["--out", "TMP/a.npz", "--split", "half"], "--split"),
        (["--out", "TMP/a.npz", "--what"], "--what"),
        (["--out", "TMP/a.npz", "--images", "/nowhere"], "--images /nowhere: cannot be read (No such file"),
        (["--out", "TMP/a.npz", "--images", "TMP"], "cannot be read (Is a directory"),
        (["--out", "TMP/a.npz", "--images", "TMP/empty"], "0 bytes; expected MNIST's pictures"),
        (["--out", "TMP/a.npz", "--images", "TMP/labels"], "labels: holds labels"),
        (["--out", "TMP/a.npz", "--images", "TMP/other"], "other: begins with 6e6f2069"),
        (["--out", "TMP/a.npz", "--images", "TMP/cut"], "but 7830 bytes follow; download it again"),
        (["--out", "TMP/a.npz", "--images", "TMP/cut.gz"], "cut.gz"),
        (["--out", "TMP/a.npz", "--images", "TMP/none"], "none: 0 pictures of 28 x 28"),
        (["--out", "TMP/a.npz", "--images", "TMP/oblong"], "oblong: 2 pictures of 5 x 6"),
        (["--out", "TMP/a.npz", "--images", "TMP/one", "--source", "digits"], "and --source digits: expected one"),
        (["--out", "TMP/a.npz", "--source", "cifar"], "--source"),
        (["--out", "TMP/a.npz", "--images", "TMP/one", "--split", "train"], "--split train: no digit is left of 1"),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_nothing_is_written(tmp_path, capfd, arguments, part):
    (tmp_path / "there.npz").write_bytes(b"precious")
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_bytes(b"no idx file at all")
    whole = write_idx(tmp_path / "whole", pictures(10)).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-10])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(whole)[:-10])
    write_idx(tmp_path / "labels", pictures(4), magic=0x801)
    write_idx(tmp_path / "none", pictures(0))
    write_idx(tmp_path / "oblong", np.zeros([2, 5, 6], np.uint8))
    write_idx(tmp_path / "one", pictures(1))
    before = sorted(os.listdir(tmp_path))
    assert main([word.replace("TMP", str(tmp_path)) for word in arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("make_moving_mnist.py: ") and error.count("\n") == 1 and part in error
    assert sorted(os.listdir(tmp_path)) == before and (tmp_path / "there.npz").read_bytes() == b"precious"


def test_without_scikit_learn_one_line_says_what_to_do(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["--out", str(tmp_path / "a.npz"), "--clips", "1", "--source", "digits"]) == 2
    error = capfd.readouterr().err
    assert "requirements/digits.txt" in error and "--images" in error and error.count("\n") == 1


def test_mnist_itself_comes_from_paddle_and_train_and_test_share_no_digit(tmp_path, monkeypatch, capfd):
    files = {mode: write_idx(tmp_path / mode, pictures(number)) for mode, number in (("train", 6), ("test", 4))}
    asked = []

    def kept(mode):
        asked.append(mode)
        print("Cache file not found, downloading")  # what Paddle says is no part of what a user reads
        return types.SimpleNamespace(image_path=str(files[mode]))

    monkeypatch.setattr("paddle.vision.datasets.MNIST", kept)
    for split, count in (("train", 6), ("test", 4), ("all", 10)):
        out = tmp_path / f"{split}.npy"
        assert main(["--out", str(out), "--clips", "3", "--split", split]) == 0
        output = capfd.readouterr().out
        assert f"of {count} digits" in output and "Cache" not in output
    assert asked == ["train", "test", "train", "test"]
    one, other = (np.load(tmp_path / f"{split}.npy") for split in ("train", "test"))
    assert (one != other).any()  # other motions too: the numbers that a clip is drawn from know the split


def test_where_nothing_can_be_downloaded_one_line_names_both_other_ways(tmp_path, monkeypatch, capfd):
    def offline(mode):
        print("Cache file not found, downloading", file=sys.stderr)
        raise RuntimeError("Cannot download https://x/y.gz within retry limit 3")

    monkeypatch.setattr("paddle.vision.datasets.MNIST", offline)
    assert main(["--out", str(tmp_path / "a.npz"), "--clips", "1"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("make_moving_mnist.py: --source mnist: MNIST cannot be downloaded")
    assert error.count("\n") == 1 and "--images train-images-idx3-ubyte.gz" in error and "--source digits" in error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "a.npy"), (signal.SIGTERM, "a.npz")])
def test_stopping_it_leaves_nothing_behind(tmp_path, number, name):
    write_idx(tmp_path / "images", pictures())
    command = [sys.executable, SCRIPT, "--images", tmp_path / "images", "--out", tmp_path / name, "--clips", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while len(os.listdir(tmp_path)) == 1:  # until it has begun its file
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=LONGEST_WAIT)
    finally:
        process.kill()
    assert process.returncode == 130 and error.endswith("nothing is left of the unfinished file\n"), error
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
    assert (len(dataset.files[0].parts[0].entries) > 10) == compressed
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
    paths = ",".join(str(tmp_path / name) for name in ("a.npz", "b.npy", "c.npz"))
    for workers in (0, 2):
        config = Config(img_width=8, patch_size=4, input_length=3, total_length=6, batch_size=4, num_workers=workers)
        dataset = MovingMNIST(paths.split(","), 6, 8)
        batches = [batch.numpy() for batch in test_batches(config, dataset)]
        assert [len(batch) for batch in batches] == [4, 4, 3]
        np.testing.assert_array_equal(np.concatenate(batches)[..., 0], expected)


def test_clips_that_overlap_or_lie_apart_in_the_file_are_read_at_their_places(tmp_path):
    spans = np.array([[[4, 2], [0, 3], [5, 1], [3, 6]], [[0, 4], [3, 3], [1, 5], [0, 0]]])
    frames = random_npz(tmp_path / "a.npz", clips=1, length=10)[0]
    np.savez_compressed(tmp_path / "a.npz", clips=spans, input_raw_data=frames[:, np.newaxis])
    dataset = MovingMNIST([str(tmp_path / "a.npz")], 6, 8)
    places = [[4, 5, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [5, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]
    for index, place in enumerate(places):
        np.testing.assert_array_equal(dataset[index][..., 0], frames[place])


@pytest.mark.parametrize("compressed", [False, True])
def test_uint8_frames_and_an_array_in_fortran_order_are_read_too(tmp_path, compressed):
    frames = random_npz(tmp_path / "a.npz", clips=3)
    raw = np.rint(frames.reshape(-1, 1, 8, 8) * 255).astype(np.uint8)
    for name, array in (("bytes", raw), ("fortran", np.asfortranarray(raw / 255.0))):
        random_npz(tmp_path / f"{name}.npz", clips=3, compressed=compressed, input_raw_data=array)
        np.testing.assert_allclose(clips_of(tmp_path / f"{name}.npz", Motion(length=6, size=8)), frames, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full([42, 1, 8, 8], 255, np.float32), "float32 frames with values from 255 to 255, expected 0 to 1"),
        (np.full([42, 1, 8, 8], np.nan), "values from nan to nan, expected 0 to 1"),
        (np.full([42, 1, 8, 8], -1, np.float32), "values from -1 to -1"),
        (np.zeros([42, 1, 8, 8], np.uint16), "frames of uint16, expected whole numbers and float or uint8"),
        (np.zeros([42, 8, 8], np.float32), r"expected \[2, N, 2\] and \[frames, 1, H, W\]"),
        (np.zeros([42, 3, 8, 8], np.float32), r"input_raw_data \[42, 3, 8, 8\], expected"),
        (np.zeros([41, 1, 8, 8], np.float32), "clips name frames that the file does not hold"),
    ],
)
def test_an_npz_with_frames_that_are_none_is_refused_by_name(tmp_path, array, message):
    random_npz(tmp_path / "a.npz", input_raw_data=array)
    with pytest.raises(UserError, match=message) as error:
        MovingMNIST([str(tmp_path / "a.npz")], 6, 8)[0]
    assert str(tmp_path / "a.npz") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros([6, 3, 8, 8], np.float32), r"an array float32 \[6, 3, 8, 8\], expected uint8 \[T, N, H, W\]"),
        (np.zeros([6, 3, 64], np.uint8), "expected uint8"),
        (np.zeros([2000, 20, 8, 8], np.uint8), r"is it \[N, T, H, W\]\? then save array.swapaxes\(0, 1\)"),
        (np.zeros([6, 0, 8, 8], np.uint8), "holds no clip"),
        (np.zeros([5, 3, 8, 8], np.uint8), "holds clips of 5 frames, --total_length is 6"),
        (np.zeros([6, 3, 8, 9], np.uint8), "holds frames of 9 x 8 pixels, --img_width is 8"),
    ],
)
def test_an_npy_of_another_kind_or_shape_is_refused_by_name(tmp_path, array, message):
    np.save(tmp_path / "mnist_test_seq.npy", array)
    with pytest.raises(UserError, match=message) as error:
        MovingMNIST([str(tmp_path / "mnist_test_seq.npy")], 6, 8)
    assert str(tmp_path / "mnist_test_seq.npy") in str(error.value)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_file_that_is_cut_is_refused_by_name(tmp_path, name):
    make_set(tmp_path / name, pictures(), 5, SMALL)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{name}: cannot be read as a Moving MNIST file"):
        MovingMNIST([str(tmp_path / name)], 6, 24)


def test_a_flipped_bit_in_a_compressed_npz_is_found_at_the_start(tmp_path):
    make_set(tmp_path / "a.npz", pictures(), 5, SMALL)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="a.npz: cannot be read as a Moving MNIST file"):
        MovingMNIST([str(tmp_path / "a.npz")], 6, 24)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_that_is_lost_or_cut_during_a_run_is_a_lost_file(tmp_path, compressed):
    random_npz(tmp_path / "a.npz", compressed=compressed)
    dataset = MovingMNIST([str(tmp_path / "a.npz")], 6, 8)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 3])
    dataset[0]
    with pytest.raises(LostFile, match="a.npz: is shorter than it was at the start"):
        dataset[6]
    (tmp_path / "a.npz").unlink()
    with pytest.raises(LostFile, match="a.npz: cannot be read any more"):
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
    assert (default.input_length, default.total_length, default.num_hidden) == (10, 20, "64,64,64,64")
    assert default.valid_data_paths == "/home/aistudio/data/moving-mnist/moving-mnist-test.npz"
    paths = ("a.npz", "b.npy", "save", "weights") if training else ("b.npy", "weights", "pictures")
    given = config(*paths, "--batch_size", "2", "--img_width", "32")
    assert (given.valid_data_paths, given.pretrained_model) == ("b.npy", "weights")
    assert (given.batch_size, given.img_width) == (2, 32)
    assert not training or (given.train_data_paths, given.save_dir) == ("a.npz", "save")
    assert config(TEST_DATA="b.npy").valid_data_paths == "b.npy"
