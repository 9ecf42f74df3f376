"""The KTH tree, its pictures and Moving MNIST files as users have them, good and bad."""

import os
import subprocess
import sys

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

from src.config import Config
from src.data_provider.clips import clip_starts, longest_run, read_picture
from src.data_provider.kth_action import CLIP_STRIDE, KTHAction
from src.data_provider.kth_sequences import ACTIONS
from src.data_provider.loader import test_batches
from src.data_provider.mnist import MovingMNIST
from src.errors import UserError
from tests.conftest import GOLDEN, load_golden
from tests.helpers import ROOT


def write_recording(root, name, numbers, size=(24, 20), suffix="jpg", action="boxing"):
    folder = root / action / name
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(name))
    for number in numbers:
        picture = rng.integers(0, 256, [size[1], size[0]], dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"image_{number:04d}.{suffix}")
    return folder


# ---- which clips


def test_clips_follow_each_other_from_the_end_and_jump_over_gaps():
    numbers = np.array([1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13])
    assert clip_starts(numbers, 3, 3) == [9, 6, 2]  # 11-13, 8-10, 3-5
    assert clip_starts(numbers, 7, 7) == [5]
    assert clip_starts(numbers, 8, 8) == []


def test_clips_of_jogging_and_running_start_every_3_frames():
    assert clip_starts(np.arange(12), 4, CLIP_STRIDE["running"]) == [8, 5, 2]
    assert CLIP_STRIDE["jogging"] == CLIP_STRIDE["running"] == 3


def test_no_clip_has_a_gap_and_none_is_missed():
    rng = np.random.default_rng(0)
    for _ in range(50):
        numbers = np.flatnonzero(rng.random(80) < 0.9)
        starts = clip_starts(numbers, 6, 1)
        whole = [s for s in range(len(numbers) - 5) if (np.diff(numbers[s : s + 6]) == 1).all()]
        assert starts == whole[::-1]


def test_the_longest_run_is_found():
    assert longest_run(np.array([1, 2, 3, 5, 6, 9])) == 3
    assert longest_run(np.array([4])) == 1


def test_persons_are_split_16_to_9_and_others_are_left_out(tmp_path):
    for person in (1, 16, 17, 25, 26):
        write_recording(tmp_path, f"person{person:02d}_boxing_d1_uncomp", range(1, 5))
    clips = {mode: {c.clip[6:8] for c in KTHAction(tmp_path, mode, 4, 16).clips} for mode in ("train", "test")}
    assert clips == {"train": {"01", "16"}, "test": {"17", "25"}}


def test_junk_beside_the_frames_is_ignored_and_folders_may_be_called_avi(tmp_path):
    folder = write_recording(tmp_path, "person01_boxing_d1_uncomp.avi", range(1, 5))
    for name in ("Thumbs.db", "._image_0001.jpg", "image_0005.txt", "notes.jpg", "frame_0005.jpg"):
        (folder / name).write_bytes(b"junk")
    (tmp_path / "boxing" / "person02_boxing_d1_uncomp").mkdir()
    (tmp_path / "boxing" / "personXX_boxing").mkdir()
    (tmp_path / "notes.txt").write_text("junk")
    assert [clip.first_frame for clip in KTHAction(tmp_path, "train", 4, 16).clips] == ["image_0001.jpg"]


def test_frames_are_sorted_by_number_not_by_name(tmp_path):
    folder = tmp_path / "boxing" / "person01_boxing_d1"
    folder.mkdir(parents=True)
    for number in range(8, 12):
        Image.new("L", (20, 20), number).save(folder / f"image-{number}.png")
    frames = KTHAction(tmp_path, "train", 4, 16)[0]
    np.testing.assert_allclose(frames[:, 0, 0, 0] * 255, [8, 9, 10, 11], atol=1e-3)


def test_nothing_is_decoded_before_a_clip_is_asked_for(tmp_path):
    folder = write_recording(tmp_path, "person01_boxing_d1", range(1, 9))
    (folder / "image_0001.jpg").write_bytes(b"broken")
    dataset = KTHAction(tmp_path, "train", 4, 16)
    assert dataset[0].shape == (4, 16, 16, 1)  # the last four frames
    with pytest.raises(UserError, match=r"image_0001.jpg: not a picture"):
        dataset[1]


# ---- pictures


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "bmp"])
def test_grey_and_colour_pictures_are_read_as_luminance(tmp_path, suffix):
    grey, colour = tmp_path / f"grey.{suffix}", tmp_path / f"colour.{suffix}"
    Image.new("L", (8, 6), 100).save(grey)
    Image.new("RGB", (8, 6), (200, 100, 50)).save(colour)
    assert read_picture(str(grey)).dtype == np.float32 and read_picture(str(grey)).shape == (6, 8)
    np.testing.assert_allclose(read_picture(str(grey)), 100, atol=1)
    np.testing.assert_allclose(read_picture(str(colour)), 0.299 * 200 + 0.587 * 100 + 0.114 * 50, atol=1.5)


def test_frames_are_resized_bilinearly_and_scaled_to_1(tmp_path):
    folder = write_recording(tmp_path, "person01_boxing_d1", [1, 2], size=(40, 30), suffix="png")
    picture = cv2.imread(str(folder / "image_0001.png"), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    expected = cv2.resize(picture, (16, 16), interpolation=cv2.INTER_LINEAR) / 255
    frames = KTHAction(tmp_path, "train", 2, 16)[0]
    np.testing.assert_allclose(frames[0, :, :, 0], expected, atol=1e-6)
    assert frames.min() >= 0 and frames.max() <= 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_a_truncated_picture_is_refused_by_name(tmp_path, suffix):
    folder = write_recording(tmp_path, "person01_boxing_d1", range(1, 5), suffix=suffix)
    path = folder / f"image_0003.{suffix}"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError) as error:
        KTHAction(tmp_path, "train", 4, 16)[0]
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_picture_that_is_no_8_bit_one_or_is_gone_is_refused_by_name(tmp_path):
    Image.fromarray(np.zeros([8, 8], np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep.png: pixels of kind I.*, expected 8 bits"):
        read_picture(str(tmp_path / "deep.png"))
    with pytest.raises(UserError, match=r"gone.png: cannot be read .No such file"):
        read_picture(str(tmp_path / "gone.png"))
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.png: not a picture"):
        read_picture(str(tmp_path / "empty.png"))


def test_frames_of_different_sizes_in_a_clip_are_refused_by_name(tmp_path):
    folder = write_recording(tmp_path, "person01_boxing_d1", range(1, 5))
    Image.new("L", (30, 20)).save(folder / "image_0003.jpg")
    with pytest.raises(UserError, match=r"image_0003.jpg: 30 x 20 pixels, but .* image_0001.jpg has 24 x 20"):
        KTHAction(tmp_path, "train", 4, 16)[0]


def test_what_goes_wrong_in_a_thread_reaches_the_main_one():
    class Broken(paddle.io.Dataset):
        def __init__(self, error):
            self.error = error

        def __len__(self):
            return 4

        def __getitem__(self, index):
            raise self.error

    config = Config()
    name = os.fsdecode(b"image_\xff1.jpg")  # a file name that is no UTF-8
    with pytest.raises(UserError, match=r"image_.*1.jpg: broken"):
        next(test_batches(config, Broken(UserError(f"{name}: broken"))))
    with pytest.raises(KeyError, match="a fault of ours"):
        next(test_batches(config, Broken(KeyError("a fault of ours"))))


# ---- trees that are none


def test_a_root_without_kth_folders_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"none of the folders boxing, handclapping, .* is in it"):
        KTHAction(tmp_path, "train", 4, 16)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        KTHAction(tmp_path / "file", "train", 4, 16)


def test_a_root_that_is_a_level_too_deep_or_too_shallow_is_answered_with_the_right_one(tmp_path, monkeypatch):
    recording = write_recording(tmp_path / "data" / "kth", "person01_boxing_d1", range(1, 5))
    (recording.parent / "person02_boxing_d1_uncomp.avi").touch()
    monkeypatch.chdir(tmp_path)
    for wrong in ("data", "data/kth/boxing", "data/kth/boxing/", "data/kth/boxing/person01_boxing_d1"):
        with pytest.raises(UserError, match=rf"^{wrong}: none of the folders boxing, .*; give data/kth$"):
            KTHAction(wrong, "train", 4, 16)
    with pytest.raises(UserError, match=rf"; give {tmp_path}/data/kth$"):
        KTHAction(recording, "train", 4, 16)
    monkeypatch.chdir(recording.parent)
    with pytest.raises(UserError, match=r"^\.: none of the folders boxing, .*; give \.\.$"):
        KTHAction(".", "train", 4, 16)


def test_frames_of_other_names_are_answered_with_the_names_that_are_read(tmp_path):
    recording = write_recording(tmp_path, "person01_boxing_d1", range(1, 5), suffix="jpeg")
    for picture in recording.iterdir():
        picture.rename(recording / picture.name.replace("image_000", "frame-"))
    with pytest.raises(UserError, match=r"d1/frame-1.jpeg is not read; names are read as image_0001.jpg: image, a num"):
        KTHAction(tmp_path, "train", 4, 16)


@pytest.mark.parametrize("name", ["person01_boxing_d1_uncomp.avi", "boxing.zip"])
def test_videos_outside_of_the_actions_folders_are_answered_with_the_way_to_prepare_them(tmp_path, name):
    (tmp_path / name).write_bytes(b"RIFF")
    with pytest.raises(UserError, match=rf"holds videos .{name}.*scripts/prepare_kth.py"):
        KTHAction(tmp_path, "train", 4, 16)


def test_a_tree_without_the_mode_s_persons_says_which_are_needed(tmp_path):
    write_recording(tmp_path, "person01_boxing_d1", range(1, 5))
    with pytest.raises(UserError, match="nothing of the persons 17 to 25 that test uses"):
        KTHAction(tmp_path, "test", 4, 16)


def test_a_tree_without_a_clip_that_is_long_enough_says_how_long_they_are(tmp_path):
    write_recording(tmp_path, "person01_boxing_d1", [1, 2, 3, 5, 6])
    with pytest.raises(UserError, match=r"no clip of 4 consecutive frames for train; the longest run is 3, in .*_d1"):
        KTHAction(tmp_path, "train", 4, 16)


def test_a_big_tree_is_listed_in_little_memory(tmp_path):
    """20,000 names; the memory of the process is measured from outside, in a fresh one."""
    for index in range(40):
        folder = tmp_path / "walking" / f"person{1 + index % 16:02d}_walking_d{1 + index // 16}"
        folder.mkdir(parents=True)
        for number in range(1, 501):
            (folder / f"image_{number:04d}.jpg").touch()
    code = (
        "import resource, sys; from src.data_provider.kth_action import KTHAction\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); dataset = KTHAction(sys.argv[1], 'train', 20, 128); print(len(dataset), peak() - before)"
    )
    command = [sys.executable, "-c", code, tmp_path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    clips, kilobytes = map(int, result.stdout.split())
    assert clips == 40 * 25
    assert kilobytes < 20_000  # a frame decoded at 128 pixels alone takes 64 kB; all of them 1.3 GB


# ---- Moving MNIST


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_moving_mnist_takes_the_official_clips_for_every_batch_size_and_the_last_ones_too(size):
    config = Config(img_width=8, patch_size=4, input_length=3, total_length=6, batch_size=size, num_workers=0)
    dataset = MovingMNIST([str(GOLDEN / "mnist_tiny.npz")], 6, 8)
    served = [batch.numpy() for batch in test_batches(config, dataset)]
    official = load_golden("mnist_golden.npz")[f"indices_b{size}"]
    for batch, indices in zip(served, official):
        np.testing.assert_array_equal(batch, np.stack([dataset[int(index)] for index in indices]))
    assert sum(len(batch) for batch in served) == len(dataset) == 7


def test_several_files_follow_one_another(tmp_path):
    path = str(GOLDEN / "mnist_tiny.npz")
    clips = np.random.default_rng(0).integers(0, 256, [8, 3, 8, 8], dtype=np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", clips)
    dataset = MovingMNIST([path, str(tmp_path / "mnist_test_seq.npy"), path], 6, 8)
    assert len(dataset) == 17
    np.testing.assert_array_equal(dataset[10], MovingMNIST([path], 6, 8)[0])
    np.testing.assert_allclose(dataset[8][..., 0] * 255, clips[:6, 1], atol=1e-4)
    with pytest.raises(IndexError):
        dataset[17]


def test_an_output_part_of_its_own_is_used(tmp_path):
    given, following = np.zeros([4, 1, 8, 8], "float32"), np.ones([4, 1, 8, 8], "float32")
    spans = np.array([[[0, 2], [2, 2]], [[0, 2], [2, 2]]])
    np.savez(tmp_path / "a.npz", clips=spans, dims=[[1, 8, 8]], input_raw_data=given, output_raw_data=following)
    frames = MovingMNIST([str(tmp_path / "a.npz")], 4, 8)[1]
    assert frames[:2].max() == 0 and frames[2:].min() == 1


@pytest.mark.parametrize(
    ("arrays", "length", "width", "message"),
    [
        (None, 6, 8, "cannot be read as a Moving MNIST file"),
        ({"clips": np.zeros([2, 1, 2], int)}, 6, 8, "has no array input_raw_data"),
        ({"clips": np.zeros([2, 2], int), "input_raw_data": np.zeros([4, 1, 8, 8])}, 6, 8, r"expected \[2, N, 2\]"),
        ({"clips": np.full([2, 1, 2], 9), "input_raw_data": np.zeros([4, 1, 8, 8])}, 6, 8, "name frames that the file"),
        ({"clips": np.zeros([2, 1, 2]), "input_raw_data": np.zeros([4, 1, 8, 8])}, 6, 8, "expected whole numbers"),
        ({"clips": np.zeros([2, 1, 2], int), "input_raw_data": np.full([4, 1, 8, 8], "x")}, 6, 8, "float or uint8"),
        ({"clips": np.zeros([2, 0, 2], int), "input_raw_data": np.zeros([4, 1, 8, 8])}, 6, 8, "holds no clip"),
        ("tiny", 7, 8, "holds clips of 6 frames, --total_length is 7"),
        ("tiny", 6, 16, "holds frames of 8 x 8 pixels, --img_width is 16"),
    ],
)
def test_a_bad_moving_mnist_file_is_refused_by_name(tmp_path, arrays, length, width, message):
    path = tmp_path / "bad.npz"
    if arrays is None:
        path.write_bytes(b"not an archive")
    elif arrays == "tiny":
        path.write_bytes((GOLDEN / "mnist_tiny.npz").read_bytes())
    else:
        np.savez(path, **arrays)
    with pytest.raises(UserError, match=message) as error:
        MovingMNIST([str(path)], length, width)
    assert str(path) in str(error.value)


def test_a_pickle_in_place_of_arrays_is_refused(tmp_path):
    pickled = np.array([print], dtype=object)
    np.savez(tmp_path / "a.npz", clips=pickled, input_raw_data=np.zeros(3))
    np.save(tmp_path / "a.npy", pickled)
    for path in (tmp_path / "a.npz", tmp_path / "a.npy"):
        with pytest.raises(UserError, match="cannot be read as a Moving MNIST file"):
            MovingMNIST([str(path)], 6, 8)


# ---- real footage


def test_real_kth_frames_give_clips_of_every_action(extra_data):
    dataset = KTHAction(extra_data / "kth_real" / "frames", "train", 30, 128)
    assert {clip.category for clip in dataset.clips} == set(ACTIONS)
    frames = dataset[0]
    assert frames.shape == (30, 128, 128, 1) and 0.1 < frames.mean() < 0.9
