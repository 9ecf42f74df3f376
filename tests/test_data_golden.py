"""Clips, patches and metrics against figures of the official code."""

import json
import tarfile

import numpy as np
import paddle
import pytest

from src.config import Config
from src.data_provider.kth_action import KTHAction
from src.data_provider.loader import test_batches
from src.data_provider.mnist import MovingMNIST
from src.utils.metrics import batch_psnr, frame_mse, frame_psnr, to_uint8
from src.utils.preprocess import reshape_patch, reshape_patch_back
from tests.conftest import GOLDEN, load_golden


@pytest.fixture(scope="module")
def kth_tree(extra_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kth")
    with tarfile.open(extra_data / "golden" / "kth_tree.tar") as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / "kth_tree"


@pytest.mark.parametrize("mode", ["train", "test"])
def test_kth_clips_and_pixels_are_those_of_the_official_loader_in_its_order(kth_tree, mode):
    golden = json.loads((GOLDEN / "kth_golden.json").read_text())
    dataset = KTHAction(str(kth_tree), mode, golden["meta"]["seq_length"], golden["meta"]["image_width"])
    expected = golden[mode]["sequence_list"]
    assert [(c.category, c.clip, c.first_frame) for c in dataset.clips] == [
        (c["category"], c["clip"], c["first"]) for c in expected
    ]
    for index, clip in enumerate(expected):
        frames = dataset[index]
        assert frames.dtype == np.float32 and frames.shape == (20, 64, 64, 1)
        # Other versions of the JPEG decoder and of the resize made the golden pixels: 1e-3 is a quarter of a level.
        assert frames.mean() == pytest.approx(clip["mean"], abs=1e-3)
        assert frames[0].mean() == pytest.approx(clip["mean_first_frame"], abs=1e-3)
        assert frames[-1].mean() == pytest.approx(clip["mean_last_frame"], abs=1e-3)
        for position, value in clip["pixels_first_frame"].items():
            row, column = map(int, position.split(","))
            assert frames[0, row, column, 0] == pytest.approx(value, abs=1e-3)


def test_moving_mnist_serves_the_official_batches_and_the_last_one_too():
    golden = load_golden("mnist_golden.npz")
    config = Config(img_width=8, patch_size=4, input_length=3, total_length=6, batch_size=2, num_workers=0)
    dataset = MovingMNIST([str(GOLDEN / "mnist_tiny.npz")], seq_length=6, img_width=8)
    batches = [batch.numpy() for batch in test_batches(config, dataset)]
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    np.testing.assert_array_equal(batches[0], golden["batch2_0"])
    np.testing.assert_array_equal(batches[1], golden["batch2_1"])


@pytest.mark.parametrize("case", ["3d", "4d_c1", "4d_c3", "indep", "onebit"])
def test_psnr_is_the_official_one(case):
    golden = load_golden("metrics.npz")
    found = batch_psnr(golden[f"psnr_{case}.gen"], golden[f"psnr_{case}.gt"])
    assert found == pytest.approx(float(golden[f"psnr_{case}.value"]), abs=1e-5)


def test_psnr_of_equal_frames_is_infinite_and_differences_do_not_wrap():
    black = np.zeros([1, 8, 8], dtype=np.uint8)
    assert batch_psnr(black, black) == np.inf
    assert batch_psnr(black, black + 255) == pytest.approx(0.0)
    assert batch_psnr(black, black + 2) == pytest.approx(batch_psnr(black + 2, black))


@pytest.mark.parametrize("case", ["a", "b", "c", "rect", "index"])
@pytest.mark.parametrize("convert", [np.asarray, paddle.to_tensor], ids=["numpy", "paddle"])
def test_patches_are_the_official_ones_and_come_back(case, convert):
    golden = load_golden("metrics.npz")
    frames, size = golden[f"patch_{case}.img"], int(golden[f"patch_{case}.size"])
    patches = reshape_patch(convert(frames), size)
    assert type(patches) is type(convert(frames))
    np.testing.assert_array_equal(np.asarray(patches), golden[f"patch_{case}.patched"])
    np.testing.assert_array_equal(np.asarray(reshape_patch_back(patches, size)), frames)


def test_the_test_loop_figures_are_the_official_ones():
    golden = load_golden("metrics.npz")
    true = golden["trainer_test.ims"][:, :, 2:].reshape(6, 4, 16, 16, 1)  # 3 batches of 2 clips, 2 frames given
    pred = golden["trainer_test.preds"].reshape(6, 4, 16, 16, 1)
    mse = np.stack([frame_mse(p, t) for p, t in zip(pred, true)])
    psnr = np.stack([frame_psnr(to_uint8(p), to_uint8(t)) for p, t in zip(pred, true)])
    np.testing.assert_allclose(mse.mean(axis=0), golden["trainer_test.mse_per_frame"], rtol=1e-5)
    assert mse.sum(axis=1).mean() == pytest.approx(float(golden["trainer_test.mse_per_seq"]), rel=1e-5)
    np.testing.assert_allclose(psnr.mean(axis=0), golden["trainer_test.psnr_per_frame"], rtol=1e-5)
    assert psnr.mean() == pytest.approx(float(golden["trainer_test.psnr_mean"]), rel=1e-5)
