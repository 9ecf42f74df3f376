"""dataset_name -> Dataset: the data sets that can be chosen, one entry each.

Flags are made from the entries (src/config.py), and a wrong flag is answered before paddle is loaded: so this module
imports nothing above the flags, and names a class as "module:Class", which is imported when it is built.
"""

from __future__ import annotations

import os
import pkgutil
from typing import TYPE_CHECKING, NamedTuple

from src.errors import UserError

if TYPE_CHECKING:
    import paddle

    from src.config import Config


TEST_SET, VALIDATION_SET = "test set", "validation set"


class DataSet(NamedTuple):
    """What a data set registers."""

    path: str  # "module:Class"; Class.from_config(config, paths, mode) opens it, see docs/extend.md
    help: str  # for --help, a few words
    channels: tuple[int, ...] = (1,)  # that --img_channel may have: 1 is grey, 3 is colour
    # Folders below a root whose every picture and video is read, so that no results may go there; "" is the root.
    reads: tuple[str, ...] = ("",)


DATASETS = {
    "action": DataSet("src.data_provider.kth_action:KTHAction", "KTH, frames or videos", reads=()),
    "mnist": DataSet("src.data_provider.mnist:MovingMNIST", "Moving MNIST, .npz or .npy", reads=()),
    "folder": DataSet(
        "src.data_provider.folder:FolderClips", "your own films", channels=(1, 3), reads=("train", "valid", "test")
    ),
}


def build_dataset(config: Config, mode: str) -> paddle.io.Dataset:
    """The clips that ``mode`` uses: ``dataset[i]`` is float32 ``[T, H, W, C]`` in [0, 1].

    Args:
        config: settings of the run.
        mode: "train"; "test"; or "valid", those of the tests during a training, which are the ones of "test" where
            there are none apart (:func:`validation_flag`).

    Raises:
        UserError: the data set at --train_data_paths or --valid_data_paths cannot be used; the message names the flag.
    """
    if mode == "valid" and not validation_flag(config):
        mode = "test"
    flag = {"train": "train_data_paths", "valid": validation_flag(config), "test": "valid_data_paths"}[mode]
    dataset_class = pkgutil.resolve_name(DATASETS[config.dataset_name].path)
    try:
        return dataset_class.from_config(config, getattr(config, flag), mode)
    except UserError as error:
        raise UserError(f"--{flag} {error}") from None


def clips_of_tests(config: Config) -> str:
    """Which clips the tests during a training take, and so the best checkpoint is chosen on."""
    return VALIDATION_SET if validation_flag(config) else TEST_SET


def validation_flag(config: Config) -> str | None:
    """The flag of the data set that holds clips for validation, apart from training and test; None: there are none.

    They are KTH's --validation_persons, or the films of a folder valid/ beside train/ and test/.
    """
    if config.validation_persons:
        return "train_data_paths"
    is_folder = config.dataset_name == "folder" and os.path.isdir(os.path.join(config.valid_data_paths, "valid"))
    return "valid_data_paths" if is_folder else None
