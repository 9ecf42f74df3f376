"""dataset_name -> Dataset."""

from __future__ import annotations

import paddle

from src.config import Config
from src.data_provider.folder import FolderClips
from src.data_provider.kth_action import KTHAction
from src.data_provider.mnist import MovingMNIST
from src.errors import UserError
from src.flag_values import split_paths


def build_dataset(config: Config, mode: str) -> paddle.io.Dataset:
    """The clips that ``mode`` ("train" or "test") uses: ``dataset[i]`` is float32 ``[T, H, W, C]`` in [0, 1].

    Raises:
        UserError: the data set at --train_data_paths or --valid_data_paths cannot be used; the message names the flag.
    """
    flag = "train_data_paths" if mode == "train" else "valid_data_paths"
    paths = getattr(config, flag)
    try:
        # Each process that reads has a cache of its own.
        cache = config.video_cache_mb * 2**20 // max(1, config.num_workers)
        if config.dataset_name == "action":
            return KTHAction(paths, mode, config.total_length, config.img_width, cache)
        if config.dataset_name == "folder":
            return FolderClips(paths, mode, config.total_length, config.img_width, config.img_channel, cache)
        return MovingMNIST(split_paths(paths), config.total_length, config.img_width)
    except UserError as error:
        raise UserError(f"--{flag} {error}") from None
