"""A run's folder, save_dir: taken at the start, restored from, saved to, and the best checkpoint kept in it."""

from __future__ import annotations

import dataclasses
import logging
import os
import traceback
from typing import Any

import paddle
from paddle import nn

from src.checkpoints.checkpoint import (
    BEST,
    PREVIOUS,
    Checkpoint,
    check_not_foreign,
    checkpoints,
    is_better,
    numbered,
    record_test,
    remove_old,
    remove_partial,
    restore,
    restore_best,
    save_best,
    save_checkpoint,
)
from src.checkpoints.resume import check_clips, find_checkpoint, is_own
from src.checkpoints.state_file import one_line
from src.config import Config
from src.errors import Diverged, UserError
from src.reports.own_folder import check_test_folders, take_log_dir
from src.runtime import ranks
from src.runtime.log import log_to, warn_if_unwritable
from src.utils.loss_scale import LossScale
from src.utils.metrics import UNITS
from src.utils.weight_average import WeightAverage

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
    check_not_foreign(config.save_dir)
    check_test_folders(config, checkpoint.state["iteration"] if checkpoint else 0)
    if config.log_dir:
        take_log_dir(config)
    # After the last refusal: a folder of a run that may not begin stays as it is.
    restore_best(config.save_dir)
    remove_partial(config.save_dir, checkpoint.path if checkpoint else "")
    return checkpoint, checkpoint is not None and is_own(config, checkpoint)


def _refuse_to_overwrite(config: Config) -> None:
    present = numbered(config.save_dir)
    if present or any(os.path.isdir(os.path.join(config.save_dir, name)) for name in (BEST, BEST + PREVIOUS)):
        newest = present[-1] if present else BEST
        ours = checkpoints(config.save_dir)
        advice = "give --resume to go on with it, or another --save_dir to start a new one"
        raise UserError(
            f"--save_dir {config.save_dir}: already holds checkpoints of a run (the newest: {newest}); "
            + (advice if ours else "give another --save_dir")
        )


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
            path = save_checkpoint(self.config, self.finished, self.model, self.optimizer, self.record, self.average)
            logger.info("checkpoint: %s", path)
            remove_old(self.config)
        self.saved = self.finished

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
            logger.warning("no checkpoint of iteration %d: %s", self.finished, one_line(another))
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
                record = {**self.record, "best": latest}
                path = save_best(self.config, self.finished, self.model, self.optimizer, record, self.average)
                self.best = latest  # not where it could not be written: the next good test is to take its place
                if path:
                    logger.info("best so far: %s", path)
        if self.saved == self.finished:
            with warn_if_unwritable(self.config.is_training):
                record_test(self.path(self.saved), self.record)

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
