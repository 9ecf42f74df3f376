"""--resume: which checkpoint a run goes on from, and whether it may."""

from __future__ import annotations

import dataclasses
import logging
import os

from src.checkpoints.checkpoint import (
    NAMES_SHOWN,
    Checkpoint,
    DamagedCheckpoint,
    move_aside,
    numbered,
    ours,
    read_checkpoint,
)
from src.config import FRAME_FLAGS, NETWORK_FLAGS, Config
from src.errors import UserError
from src.flag_values import NEWEST, list_flags
from src.runtime import ranks

# Those that decide the clips, their order, and whether the optimizer's state fits: a run goes on with the same ones.
RUN_FLAGS = (*NETWORK_FLAGS, "dataset_name", *FRAME_FLAGS, "batch_size", "seed", "optimizer")
DAMAGED = "damaged"
CLIPS_MAY_DIFFER = 0.01  # part of the training clips that may have gone or come since the checkpoint

logger = logging.getLogger("e3d_lstm")


def find_checkpoint(config: Config) -> Checkpoint | None:
    """The checkpoint that --resume names, or the newest whole one of save_dir; None where save_dir has none at all.

    Checkpoints that are damaged and newer are told, and are renamed to ``<N>.damaged-1``. Nothing is deleted.

    Raises:
        UserError: the checkpoint is of a run with other flags (they are listed), none is whole, or going on from it
            would overwrite newer ones.
    """
    if config.resume != NEWEST:
        chosen = read_checkpoint(f"--resume {config.resume}", config.resume)
        _check_flags(config, chosen)
        _check_nothing_newer(config, chosen)
        if is_own(config, chosen):
            _check_keeping(config, chosen)
        return chosen
    damaged: list[str] = []
    for iteration in reversed(ours(config.save_dir)):
        path = os.path.join(config.save_dir, str(iteration))
        try:
            chosen = read_checkpoint(f"--resume {path}", path)
            if chosen.state["iteration"] != iteration:
                raise DamagedCheckpoint(f"--resume {path}: its state.json is of iteration {chosen.state['iteration']}")
        except DamagedCheckpoint as error:
            logger.warning("%s", error)
            damaged.append(path)
            continue
        _check_flags(config, chosen)
        _check_keeping(config, chosen)
        for path in damaged:
            _put_aside(path)
        return chosen
    if damaged:
        raise UserError(
            f"--resume: no checkpoint in --save_dir {config.save_dir} is whole (tried {', '.join(damaged)}); "
            "give another --save_dir to start again"
        )
    return None


def is_own(config: Config, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint lies in save_dir under the number of its iteration."""
    own = os.path.join(config.save_dir, str(checkpoint.state["iteration"]))
    return os.path.exists(own) and os.path.samefile(own, checkpoint.path)


def check_clips(checkpoint: Checkpoint, clips: int) -> None:
    """Compare the training set with the one of the checkpoint: a few lost clips are told, more are refused.

    Raises:
        UserError: another data set.
    """
    before = checkpoint.state.get("train_clips")
    if before is None or before == clips:
        return
    if abs(clips - before) > CLIPS_MAY_DIFFER * before:
        raise UserError(
            f"--resume {checkpoint.path}: the training set had {before} clips, --train_data_paths has {clips}; "
            "give the same data set"
        )
    logger.warning(
        "the training set had %d clips when the checkpoint was written and has %d now: the run goes on, but takes the "
        "clips in another order than it would have",
        before,
        clips,
    )


def _check_flags(config: Config, checkpoint: Checkpoint) -> None:
    saved = checkpoint.state["config"]
    changed = [name for name in saved if name != "resume" and saved[name] != getattr(config, name)]
    differing = [name for name in RUN_FLAGS if name in changed]
    if checkpoint.state.get("ranks", 1) > 1 or ranks.world_size() > 1:
        _check_batch(config, checkpoint)
        differing = [name for name in differing if name != "batch_size"]
    if differing:
        there, here = list_flags(differing, saved), list_flags(differing, dataclasses.asdict(config))
        raise UserError(
            f"--resume {checkpoint.path}: its run was made with {there}; this one has {here}; give the same "
            "(to start another run from its weights, give it as --pretrained_model)"
        )
    for name in changed:
        logger.info("changed since the checkpoint: --%s %s (was %s)", name, getattr(config, name), saved[name])


def _check_batch(config: Config, checkpoint: Checkpoint) -> None:
    """An iteration's clips are those of all ranks together: how many share them may change, their number may not."""
    size, count = checkpoint.state["config"].get("batch_size", config.batch_size), checkpoint.state.get("ranks", 1)
    now = ranks.world_size()
    clips = size * count
    if clips == config.batch_size * now:
        if count != now:
            logger.warning(
                "the run was made by %d processes and goes on with %d: an iteration has the same %d clips and the "
                "schedules go on; figures may differ in their last digits",
                count,
                now,
                clips,
            )
        return
    fits = f"give --batch_size {clips // now}" if clips % now == 0 else f"start as many processes as divide {clips}"
    raise UserError(
        f"--resume {checkpoint.path}: its run was made with --batch_size {size}{_processes(count)}, {clips} clips an "
        f"iteration; this one has --batch_size {config.batch_size}{_processes(now)}; {fits} to go on with the same "
        "clips (to start another run from its weights, give it as --pretrained_model)"
    )


def _processes(count: int) -> str:
    return f" on each of {count} processes" if count > 1 else ""


def _check_nothing_newer(config: Config, chosen: Checkpoint) -> None:
    present = numbered(config.save_dir)
    own = is_own(config, chosen)
    in_the_way = [str(number) for number in present if not own or number > chosen.state["iteration"]]
    if in_the_way:
        raise UserError(
            f"--resume {chosen.path}: --save_dir {config.save_dir} holds checkpoints that the run would come upon "
            f"({', '.join(in_the_way[:NAMES_SHOWN])}); give another --save_dir to go on from there, or move them away"
        )


def _check_keeping(config: Config, chosen: Checkpoint) -> None:
    """A flag left out must not delete what the run was told to keep."""
    before, now = chosen.state["config"].get("keep_checkpoints", 0), config.keep_checkpoints
    if now and (not before or now < before):
        raise UserError(
            f"--keep_checkpoints {now}: would delete checkpoints of --save_dir {config.save_dir}, made with "
            f"--keep_checkpoints {before}; give that again, or go on in another folder: --resume {chosen.path} "
            "--save_dir NEW"
        )


def _put_aside(path: str) -> None:
    try:
        target = move_aside(path, DAMAGED)
    except OSError as error:
        raise UserError(f"{path}: is damaged and cannot be renamed ({error.strerror}); move it away") from None
    logger.warning("moved the damaged checkpoint %s to %s", path, target)
