"""dataset_name -> Dataset: the data sets that can be chosen, one entry each.

Flags are made from the entries (src/config.py), and a wrong flag is answered before paddle is loaded: so this module
imports nothing above the flags, and names a class as "module:Class", which is imported when it is built.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, NamedTuple

from src.errors import UserError

if TYPE_CHECKING:
    import paddle

    from src.config import Config


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
        "src.data_provider.folder:FolderClips", "your own films", channels=(1, 3), reads=("train", "test")
    ),
}


def build_dataset(config: Config, mode: str) -> paddle.io.Dataset:
    """The clips that ``mode`` ("train" or "test") uses: ``dataset[i]`` is float32 ``[T, H, W, C]`` in [0, 1].

    Raises:
        UserError: the data set at --train_data_paths or --valid_data_paths cannot be used; the message names the flag.
    """
    flag = "train_data_paths" if mode == "train" else "valid_data_paths"
    dataset_class = pkgutil.resolve_name(DATASETS[config.dataset_name].path)
    try:
        return dataset_class.from_config(config, getattr(config, flag), mode)
    except UserError as error:
        raise UserError(f"--{flag} {error}") from None
