"""The start of a run: its device, the other ranks, and that all of them were given the same flags and data."""

from __future__ import annotations

import dataclasses

import paddle

from src.config import Config
from src.errors import UserError
from src.flag_values import list_flags
from src.runtime import parallel, ranks
from src.runtime.device import set_device
from src.runtime.process_env import fit_threads, start_threads

# Flags that the machines of a job may be given differently.
MACHINE_FLAGS = (
    "train_data_paths",
    "valid_data_paths",
    "save_dir",
    "gen_frm_dir",
    "log_dir",
    "device",
    "allow_gpu_growth",
    "num_workers",
    "video_cache_mb",
)


def start(config: Config) -> str:
    """Make Paddle use this rank's device, meet the other ranks, and compare the flags with theirs.

    Returns:
        the device's name, as cpu or gpu:0.

    Raises:
        UserError: a device that Paddle does not see or cannot compute on, or ranks with different flags.
    """
    device = use_device(config)
    parallel.start(device)
    check_same_flags(config)
    return device


def use_device(config: Config) -> str:
    """Make Paddle use --device, of a job's rank the card that the launcher gave it, and return its name.

    On a CPU it chooses the threads too, and starts them.
    """
    device = set_device(parallel.own_device(config.device), config.deterministic)
    if device == "cpu":
        grid, n = config.img_width // config.patch_size, max(config.hidden_sizes)
        fit_threads(4 * config.batch_size * grid**2 * n * 4 * n * config.filter_size**2)
        start_threads()
    return device


def check_same_flags(config: Config) -> None:
    """Ranks with other flags would wait for one another for good; paths and what a machine can do may differ.

    Raises:
        UserError: a rank has other flags than rank 0; both are listed.
    """
    mine = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE_FLAGS}
    flags = parallel.all_gather(mine)
    other = next((rank for rank, theirs in enumerate(flags) if theirs != flags[0]), None)
    if other is not None:
        differing = [name for name in mine if flags[0][name] != flags[other][name]]
        raise UserError(
            f"rank 0 has {list_flags(differing, flags[0])}, rank {other} has {list_flags(differing, flags[other])}; "
            "give every machine the same flags"
        )


def check_same_data(config: Config, **datasets: paddle.io.Dataset) -> None:
    """Every rank reads the data sets itself, and has to see the same clips; they are given under their flags' names.

    Raises:
        UserError: a rank finds another number of clips than rank 0.
    """
    for flag, dataset in datasets.items():
        sizes = parallel.all_gather(len(dataset))
        other = next((rank for rank, size in enumerate(sizes) if size != sizes[0]), None)
        if other is not None:
            raise UserError(
                f"--{flag} {getattr(config, flag)}: rank 0 finds {sizes[0]} clips there, rank {other} {sizes[other]}; "
                "give every machine the same data under the same path"
            )


def name_of_place(device: str) -> str:
    """Where a run computes, for a line of the log: cpu, gpu:0, or 2 processes (gpu)."""
    count = ranks.world_size()
    return device if count == 1 else f"{count} processes ({device.partition(':')[0]})"
