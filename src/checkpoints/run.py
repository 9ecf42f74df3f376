"""A run's folder, save_dir: which checkpoint the run goes on from, what it saves, and what goes again.

The program removes its own files alone: those that a checkpoint consists of, in a folder whose state.json shows that
it is a checkpoint of this program. What else lies in such a folder stays, and the folder with it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
import traceback
from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn

from src.checkpoint_files import STATE_FILE, DamagedCheckpoint, read_state
from src.checkpoints.checkpoint import (
    FILES,
    ITERATION,
    NAMES_SHOWN,
    NEEDED,
    PREVIOUS,
    Checkpoint,
    checkpoints,
    names_in,
    numbered,
    read_checkpoint,
    restore,
    save_checkpoint,
    state_json,
)
from src.config import FRAME_FLAGS, NETWORK_FLAGS, Config
from src.data_provider.datasets_factory import clips_of_tests
from src.errors import Diverged, UserError, WriteError, reason_of
from src.flag_values import NEWEST, list_flags
from src.reports.own_folder import check_test_folders, take_log_dir
from src.runtime import ranks
from src.runtime.files import PARTIAL, free_name, hidden_name, remove_files, write_whole
from src.runtime.log import log_to, warn_if_unwritable
from src.utils.loss_scale import LossScale
from src.utils.metrics import UNITS
from src.utils.weight_average import WeightAverage

# Those that decide the clips, their order, and whether the optimizer's state fits: a run goes on with the same ones.
RUN_FLAGS = (*NETWORK_FLAGS, "dataset_name", "validation_persons", *FRAME_FLAGS, "batch_size", "seed", "optimizer")
CLIPS_MAY_DIFFER = 0.01  # part of the training clips that may have gone or come since the checkpoint
BEST = "best"
EARLIER, DAMAGED = "earlier", "damaged"  # marks of what is renamed: best.earlier-1, 500.damaged-1
# What a killed process was writing or removing; earlier versions called it 500.partial.
UNFINISHED = re.compile(
    rf"\.?({ITERATION.pattern}|{BEST}|{BEST}{re.escape(PREVIOUS)})(\.[0-9a-f]{{8}})?{re.escape(PARTIAL)}"
)

logger = logging.getLogger("e3d_lstm")


def open_folder(config: Config) -> tuple[Checkpoint | None, bool]:
    """Make save_dir the run's own and open its log; for rank 0 alone.

    Returns:
        the checkpoint that --resume continues from, None where the run is new; and whether it lies in save_dir.

    Raises:
        UserError: save_dir holds another run, another process trains there, no checkpoint can be continued, a
            user's files are where checkpoints or tests are to go, or --log_dir is another run's.
    """
    if not config.resume:  # before the log is opened
        _refuse_to_overwrite(config)
    log_to(config.save_dir)
    checkpoint = find_checkpoint(config) if config.resume else None
    if checkpoint is None:
        _refuse_to_overwrite(config)
    best = os.path.join(config.save_dir, BEST)
    for path in (best, best + PREVIOUS):
        others = sorted(set(names_in(path)) - set(FILES))
        if others and STATE_FILE not in names_in(path):
            what = f"{path} holds {', '.join(others[:NAMES_SHOWN])}, which is not of a checkpoint"
            raise UserError(f"--save_dir {config.save_dir}: {what}; move it away, or give another --save_dir")
    check_test_folders(config, checkpoint.state["iteration"] if checkpoint else 0)
    if config.log_dir:
        take_log_dir(config)
    # After the last refusal: a folder of a run that may not begin stays as it is.
    restore_best(config.save_dir)
    _remove_unfinished(config.save_dir, checkpoint)
    return checkpoint, checkpoint is not None and _is_in_save_dir(config, checkpoint)


def _refuse_to_overwrite(config: Config) -> None:
    present = numbered(config.save_dir)
    if present or any(os.path.isdir(os.path.join(config.save_dir, name)) for name in (BEST, BEST + PREVIOUS)):
        newest = present[-1] if present else BEST
        advice = "give --resume to go on with it, or another --save_dir to start a new one"
        raise UserError(
            f"--save_dir {config.save_dir}: already holds checkpoints of a run (the newest: {newest}); "
            + (advice if checkpoints(config.save_dir) else "give another --save_dir")
        )


def _is_in_save_dir(config: Config, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint lies in save_dir under the number of its iteration."""
    own = os.path.join(config.save_dir, str(checkpoint.state["iteration"]))
    return os.path.exists(own) and os.path.samefile(own, checkpoint.path)


# ---- --resume: which checkpoint the run goes on from, and whether it may


def find_checkpoint(config: Config) -> Checkpoint | None:
    """The checkpoint that --resume names, or the newest whole one of save_dir; None where save_dir has none at all.

    Newer ones that are damaged are reported, and renamed to ``<N>.damaged-1``. Nothing is deleted.

    Raises:
        UserError: the checkpoint is of a run with other flags (they are listed), none is whole, or going on from it
            would overwrite newer ones.
    """
    if config.resume != NEWEST:
        chosen = read_checkpoint(f"--resume {config.resume}", config.resume)
        _check_flags(config, chosen)
        _check_nothing_newer(config, chosen)
        if _is_in_save_dir(config, chosen):
            _check_keeping(config, chosen)
        return chosen
    damaged: list[str] = []
    for iteration in reversed(numbered(config.save_dir)):
        path = os.path.join(config.save_dir, str(iteration))
        if not set(FILES) & set(names_in(path)):
            continue  # another program's
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
            try:
                logger.warning("moved the damaged checkpoint %s to %s", path, _move_aside(path, DAMAGED))
            except OSError as error:
                what = f"is damaged and cannot be renamed ({reason_of(error)})"
                raise UserError(f"{path}: {what}; move it away") from None
        return chosen
    if damaged:
        raise UserError(
            f"--resume: no checkpoint in --save_dir {config.save_dir} is whole (tried {', '.join(damaged)}); "
            "give another --save_dir to start again"
        )
    return None


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
    own = _is_in_save_dir(config, chosen)
    in_the_way = [str(n) for n in numbered(config.save_dir) if not own or n > chosen.state["iteration"]]
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


def check_clips(checkpoint: Checkpoint, clips: int) -> None:
    """Compare the training set with the one of the checkpoint: a few lost clips are reported, more are refused.

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


# ---- what is renamed and what goes


def _move_aside(path: str, mark: str) -> str:
    """Rename a folder to ``<path>.<mark>-1`` (or a higher number that is free) and return that."""
    aside = free_name(path, mark)
    os.rename(path, aside)
    return aside


def is_removable(directory: str) -> bool:
    """Whether a folder is a checkpoint of this program, which its state.json shows; of any other nothing is removed."""
    try:
        return NEEDED <= read_state(directory, directory).keys()
    except UserError:
        return False


def _remove(path: str) -> None:
    """Remove a checkpoint; of one that the user keeps elsewhere the link alone."""
    if os.path.islink(path):
        os.remove(path)
        return
    if set(names_in(path)) <= set(FILES):  # after a kill the next start finishes what has a hidden name
        hidden = hidden_name(path)
        os.rename(path, hidden)
        path = hidden
    remove_files(path, FILES)


def remove_old(config: Config) -> None:
    """Remove all but the newest --keep_checkpoints checkpoints; the best is another folder and stays.

    Checkpoints of other programs stay and do not count.
    """
    if not config.keep_checkpoints:
        return
    try:
        paths = [os.path.join(config.save_dir, str(number)) for number in numbered(config.save_dir)]
        for path in [path for path in paths if is_removable(path)][: -config.keep_checkpoints]:
            _remove(path)
    except OSError as error:
        logger.warning("old checkpoints cannot be removed (%s)", error)


def restore_best(save_dir: str) -> None:
    """Bring the best checkpoint back to its name where a kill came while its place was taken.

    Where the place is taken, what stood there before gets a name of its own: it may as well be a user's copy.
    """
    path = os.path.join(save_dir, BEST)
    if os.path.isdir(path + PREVIOUS):
        os.rename(path + PREVIOUS, free_name(path, EARLIER) if os.path.isdir(path) else path)


def _remove_unfinished(save_dir: str, but: Checkpoint | None) -> None:
    """Remove what a killed process has left of checkpoints that it wrote or removed, but the one a user has named."""
    for name in filter(UNFINISHED.fullmatch, names_in(save_dir)):
        path = os.path.join(save_dir, name)
        is_named = but is not None and os.path.realpath(path) == os.path.realpath(but.path)
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        if is_folder and not is_named and set(names_in(path)) <= set(FILES):
            remove_files(path, FILES)


def _best_in(directory: str) -> Mapping[str, Any] | None:
    """The figures of the best test so far, as a checkpoint has them; None where they cannot be read."""
    try:
        return read_state(directory, directory).get("best")
    except UserError:
        return None


def is_better(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether a test's mean PSNR is above another's; None stands for a forecast without any error."""
    one, other = (math.inf if figures["psnr"] is None else figures["psnr"] for figures in (first, second))
    return one > other


# ---- the run


class Run:
    """A training on its way: what a checkpoint holds, and which iterations are done and saved.

    Args:
        config: settings of the run.
        model, optimizer: what is trained.
        train_clips: size of the training set; a resumed run is to have the same.
    """

    def __init__(
        self, config: Config, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, train_clips: int
    ) -> None:
        self.config, self.model, self.optimizer, self.train_clips = config, model, optimizer, train_clips
        self.finished = self.saved = 0  # iterations
        self.best: dict[str, Any] | None = None  # metrics of the best test so far
        self.tested = 0  # iteration of the last test
        self.mid_iteration = False  # from the first change of an iteration to its end
        self.loss_scale = LossScale() if config.precision == "fp16" else None
        self.average = WeightAverage(model, config.ema) if config.ema else None

    def restore(self, checkpoint: Checkpoint, is_own: bool, test_clips: int) -> None:
        """Continue from a checkpoint: weights, the optimizer's state, and what is known of tests.

        Args:
            checkpoint: as from :func:`open_folder`.
            is_own: whether it lies in save_dir; if not, save_dir has no checkpoint of its iteration yet.
            test_clips: clips of a test; the best of a test on another number of them is forgotten.

        Raises:
            UserError: the checkpoint does not fit the network, or is of another data set.
        """
        check_clips(checkpoint, self.train_clips)
        restore(checkpoint, self.model, self.optimizer, self.average)
        self.finished = checkpoint.state["iteration"]
        self.saved = self.finished if is_own else 0
        self.best, self.tested = checkpoint.state.get("best"), checkpoint.state.get("tested", 0)
        if self.loss_scale and checkpoint.state.get("loss_scale"):  # none in a checkpoint of another precision
            self.loss_scale = LossScale(**checkpoint.state["loss_scale"])
        logger.info("going on from %s", checkpoint.path)
        if self.best and self.best.get("clips") not in (None, test_clips):
            logger.warning("tests take %d clips now, %d before: the best starts anew", test_clips, self.best["clips"])
            self.best = None

    @property
    def record(self) -> dict[str, Any]:
        """What state.json holds beside the iteration and the flags."""
        return {
            "best": self.best,
            "best_chosen_on": clips_of_tests(self.config),
            "tested": self.tested,
            "train_clips": self.train_clips,
            "ranks": ranks.world_size(),
            "loss_scale": dataclasses.asdict(self.loss_scale) if self.loss_scale else None,
        }

    def save(self) -> None:
        """Write a checkpoint of the last finished iteration and remove old ones; of a job's ranks rank 0 does it.

        Raises:
            Diverged: weights are not finite.
            WriteError: it cannot be written.
        """
        # The loss of an iteration is that of the weights before its step, so a step that ruins them shows here first.
        for name, parameter in self.model.named_parameters():
            if not bool(paddle.isfinite(parameter).all()):
                raise Diverged(f"after iteration {self.finished} {name} is not finite")
        if ranks.is_first():
            logger.info("checkpoint: %s", self._write(self.record))
            remove_old(self.config)
        self.saved = self.finished

    def _write(self, record: Mapping[str, Any], name: str = "") -> str:
        return save_checkpoint(self.config, self.finished, self.model, self.optimizer, record, self.average, name)

    def try_to_save(self) -> None:
        """Write a checkpoint; a full or lost disk is a warning, and the next one may succeed: hours are at stake."""
        with warn_if_unwritable(self.config.is_training):
            self.save()

    def begin_update(self) -> None:
        """From here on weights, optimizer, loss scale and average are of no whole iteration, until it is finished."""
        self.mid_iteration = True

    def save_unfinished(self) -> None:
        """Write a checkpoint of what an error or a signal interrupts, unless that is saved or half an iteration."""
        if self.finished > self.saved and self._is_whole:
            self.save()

    def try_to_save_unfinished(self, error: Exception) -> None:
        """The same after an error that is no user's: whatever goes wrong here too must not take that error's place."""
        traceback.clear_frames(error.__traceback__)  # they hold the activations; a checkpoint needs memory too
        try:
            self.save_unfinished()
        except Exception as another:
            logger.warning("no checkpoint of iteration %d: %s", self.finished, reason_of(another))
        if self.finished > self.saved and not self._is_whole:
            logger.warning("no checkpoint of iteration %d: the error came while weights were changed", self.finished)

    @property
    def _is_whole(self) -> bool:
        """Whether the network has the weights of the last finished iteration."""
        return not self.mid_iteration and (self.average is None or self.average.replaced is None)

    def record_test(self, metrics: dict[str, Any]) -> None:
        """Keep the metrics of a test of the present weights, and the weights themselves, if it is the best so far."""
        self.tested = self.finished
        if not ranks.is_first():
            return
        # "clips": metrics of different test sets are not compared.
        latest = {"iteration": self.finished, "clips": metrics["sequences"]}
        latest |= {name: metrics["model"][name] for name in UNITS}
        if self.best is None or is_better(latest, self.best):
            with warn_if_unwritable(self.config.is_training):
                self._save_best(latest)
                self.best = latest  # not where it could not be written: the next good test is to take its place
        if self.saved == self.finished:
            with warn_if_unwritable(self.config.is_training):
                self._record_in_checkpoint()

    def _save_best(self, latest: Mapping[str, Any]) -> None:
        """Put a checkpoint in the place of ``<save_dir>/best/`` unless what stands there is better.

        A run that went on from an older checkpoint may find a better one there, of iterations not reached again.

        Raises:
            WriteError: it cannot be written, or what stands there cannot be renamed.
        """
        save_dir = self.config.save_dir
        path = os.path.join(save_dir, BEST)
        try:
            restore_best(save_dir)
            present = _best_in(path)
            if present and present.get("clips") != latest["clips"]:
                _move_aside(path, EARLIER)  # the best of other tests
            elif present and is_better(present, latest):
                return
            self._write({**self.record, "best": latest}, BEST)
            if is_removable(path + PREVIOUS):
                _remove(path + PREVIOUS)
            restore_best(save_dir)  # gives a name to what holds a user's files too
        except OSError as error:
            raise WriteError(f"--save_dir {save_dir}: {path} cannot be replaced ({reason_of(error)})") from None
        logger.info("best so far: %s", path)

    def _record_in_checkpoint(self) -> None:
        """Write ``best`` and ``tested`` into a checkpoint saved before its test; state.json is old or new, never half.

        Raises:
            WriteError: the checkpoint's state.json cannot be written.
        """
        path = os.path.join(self.path(self.saved), STATE_FILE)
        try:
            state = read_state(path, self.path(self.saved))
            if not state:
                raise WriteError(f"{path}: has gone")
            write_whole(path, state_json({**state, **self.record}), flush=True)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written ({reason_of(error)})") from None
        except UserError as error:
            raise WriteError(str(error)) from None

    def path(self, iteration: int) -> str:
        """Where the checkpoint of an iteration lies."""
        return os.path.join(self.config.save_dir, str(iteration))

    def with_advice(self, error: UserError) -> UserError:
        """A Diverged with what to do about it; any other error as it is."""
        if not isinstance(error, Diverged):
            return error
        config, good = self.config, checkpoints(self.config.save_dir)
        rate = f"--lr_schedule {config.lr_schedule}" if config.lr_schedule else f"--lr {config.lr:g}"
        advice = f"lower the rate and go on from {self.path(good[-1])} with --resume" if good else "lower the rate"
        return Diverged(f"{rate}: {error}; {advice}, or clip the gradients with --grad_clip")
