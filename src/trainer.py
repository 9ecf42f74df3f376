"""The training loop and the test loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from src.checkpoints.checkpoint import (
    BEST,
    Checkpoint,
    checkpoints,
    is_better,
    list_flags,
    load_weights,
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
from src.config import Config, lr_schedule_length
from src.data_provider.datasets_factory import build_dataset
from src.data_provider.folder import film_name, read_film
from src.data_provider.loader import test_batches, train_batches
from src.errors import LostFile, UserError, WriteError
from src.layers.precision import autocast, check_precision
from src.models.model_factory import build_model
from src.reports.forecast_report import (
    METRICS_FILE,
    Figures,
    remove_forecast,
    remove_pictures,
    table,
    write_metrics,
    write_pictures,
)
from src.reports.pictures import FRAMES_PER_SECOND, PER_FRAME_FILE, VIDEO_FILE, animation, draw_per_frame, write_mp4
from src.reports.training_report import Records
from src.runtime import parallel, ranks
from src.runtime.device import set_device
from src.runtime.log import Progress, log_to
from src.runtime.signals import Stopped, StopRequest
from src.utils.loss_scale import LossScale
from src.utils.metrics import BASELINE, UNITS
from src.utils.optimizer import build_optimizer, build_schedule, gradient_norm
from src.utils.preprocess import reshape_patch, reshape_patch_back
from src.utils.scheduled_sampling import no_true_frames, sampling_eta, sampling_flags
from src.utils.weight_average import WeightAverage

MEAN_CLIPS = 100  # whose mean --start_at_mean takes
LOSS_SCALE = 128  # the scale that the learning rates of the README were tuned with
# Flags that the machines of a job may be given differently.
MACHINE_FLAGS = (
    "train_data_paths", "valid_data_paths", "save_dir", "gen_frm_dir", "log_dir", "device", "allow_gpu_growth",
    "num_workers", "video_cache_mb",
)  # fmt: skip

logger = logging.getLogger("e3d_lstm")


class Diverged(UserError):
    """Loss or weights are not finite."""

    def __init__(self, config: Config, what: str) -> None:
        good = checkpoints(config.save_dir)
        rate = f"--lr_schedule {config.lr_schedule}" if config.lr_schedule else f"--lr {config.lr:g}"
        advice = f"lower the rate and go on from {_path(config, good[-1])} with --resume" if good else "lower the rate"
        super().__init__(f"{rate}: {what}; {advice}, or clip the gradients with --grad_clip")


def train(config: Config) -> None:
    """Train up to iteration max_iterations, with snapshots and tests on the way; --resume goes on where a run stopped.

    A snapshot, figures or pictures that cannot be written are told and the training goes on, as does a file of the
    data set that is lost on the way.

    Raises:
        UserError: data or weights that cannot be used, a folder that cannot be written, a loss that is not finite. The
            checkpoints written before stay.
    """
    device = set_device(parallel.own_device(config.device))
    parallel.start(device)
    _check_same_flags(config)
    start, own = parallel.first(lambda: _take_folder(config))
    if not ranks.is_first():
        log_to(None)
    check_precision(config.precision)
    train_set, test_set = parallel.together(lambda: (build_dataset(config, "train"), build_dataset(config, "test")))
    _check_same_data(config, train_data_paths=train_set, valid_data_paths=test_set)
    paddle.seed(config.seed)
    model = build_model(config)
    schedule = build_schedule(config)
    optimizer = build_optimizer(config, schedule, model.parameters())
    logger.info(
        "training on %s: %d clips, %d to test on, %d parameters, Paddle %s",
        _place(device), len(train_set), len(test_set), parameter_count(model), paddle.__version__,
    )  # fmt: skip
    run = _Run(config, model, optimizer, len(train_set))
    if start is not None:
        check_clips(start, len(train_set))
        restore(start, model, optimizer, run.average)
        run.finished = start.state["iteration"]
        run.saved = run.finished if own else 0
        run.best, run.tested = start.state.get("best"), start.state.get("tested", 0)
        if run.loss_scale and start.state.get("loss_scale"):  # none in a checkpoint of another precision
            run.loss_scale = LossScale(**start.state["loss_scale"])
        logger.info("going on from %s", start.path)
        clips = len(_spread(test_set, config.test_max_clips))
        if run.best and run.best.get("clips") not in (None, clips):
            logger.warning("tests take %d clips now, %d before: the best starts anew", clips, run.best["clips"])
            run.best = None
    elif config.pretrained_model:
        parallel.first(lambda: load_weights(model, config.pretrained_model, config))
    elif config.start_at_mean:
        parallel.first(lambda: _start_at_mean(model, train_set))
    parallel.share_weights(model)
    if run.average and start is None:
        run.average.restart()
    if start is None and config.resume:
        logger.info("--resume: no checkpoint in %s yet; starting at iteration 1", config.save_dir)
    logger.debug("settings: %s", dataclasses.asdict(config))
    if run.finished > config.max_iterations:
        logger.warning("--max_iterations %d: the run has %d already", config.max_iterations, run.finished)
    _tell_of_unused_schedule(config)
    _tell_of_other_loss(config)

    records = Records(config, run.finished, run.tested, device)
    progress = Progress(config, run.finished)
    batches = train_batches(config, train_set, run.finished + 1)
    try:
        with StopRequest() as stop:
            if run.finished > run.tested and run.finished % config.test_interval == 0:  # stopped before its test
                _test_in_training(run, test_set, records, stop)
            for iteration in range(run.finished + 1, config.max_iterations + 1):
                schedule.step(iteration - 1)
                if iteration == config.l1_from > 1 and config.l1_weight:
                    logger.info("iteration %d: absolute differences join the loss, which rises by them", iteration)
                started = time.perf_counter()
                frames = parallel.together(lambda: next(batches))
                read = time.perf_counter()
                run.torn = config.reverse_input
                loss = train_on_batch(config, iteration, model, optimizer, frames, run.loss_scale)
                if run.average:
                    run.average.update(iteration)
                run.torn, run.finished = False, iteration
                ended = time.perf_counter()
                lr, eta = optimizer.get_lr(), sampling_eta(config, iteration)
                progress.step(iteration, loss.value, lr, eta, ended - started, read - started)
                if iteration % config.display_interval == 0:
                    records.step(iteration, loss.value, lr, eta, loss.gradient_norm, ended - started)

                if iteration % config.snapshot_interval == 0 or iteration == config.max_iterations:
                    run.try_to_save()
                parallel.together(stop.check)
                if iteration % config.test_interval == 0:
                    _test_in_training(run, test_set, records, stop)
            if run.saved < run.finished:  # the last one could not be written; the disk may have room again
                run.save()
        parallel.leave()
    except Diverged:  # nothing since the last checkpoint is worth keeping
        parallel.leave()
        raise
    except (UserError, Stopped) as error:  # a broken file, a signal: keep what has been learnt
        try:
            if run.finished > run.saved and not run.torn:
                run.save()
        except UserError as failure:
            raise UserError(f"{error}; {failure}") from None
        finally:
            parallel.leave()
        raise
    finally:
        batches.close()  # ends the processes that read; left to the end of the program, Paddle 2.6 complains
        progress.close()
        records.close()
    logger.info("done: %d iterations; the last checkpoint is %s", run.finished, _path(config, run.saved))


def _take_folder(config: Config) -> tuple[Checkpoint | None, bool]:
    """Make save_dir the run's own; return the checkpoint that --resume goes on from, and whether it lies there."""
    if not config.resume:  # before the log is opened
        _refuse_to_overwrite(config)
    log_to(config.save_dir)
    restore_best(config.save_dir)
    start = find_checkpoint(config) if config.resume else None
    if start is None:
        _refuse_to_overwrite(config)
    remove_partial(config.save_dir, start.path if start else "")
    return start, start is not None and is_own(config, start)


def _check_same_flags(config: Config) -> None:
    """Ranks with other flags would wait for one another for good; paths and what a machine can do may differ."""
    mine = {name: value for name, value in dataclasses.asdict(config).items() if name not in MACHINE_FLAGS}
    flags = parallel.gathered(mine)
    other = next((rank for rank, theirs in enumerate(flags) if theirs != flags[0]), None)
    if other is not None:
        differing = [name for name in mine if flags[0][name] != flags[other][name]]
        raise UserError(
            f"rank 0 has {list_flags(differing, flags[0])}, rank {other} has {list_flags(differing, flags[other])}; "
            "give every machine the same flags"
        )


def _check_same_data(config: Config, **datasets: paddle.io.Dataset) -> None:
    """Every rank reads the data sets itself, and has to see the same clips; they are given under their flags' names."""
    for flag, dataset in datasets.items():
        sizes = parallel.gathered(len(dataset))
        other = next((rank for rank, size in enumerate(sizes) if size != sizes[0]), None)
        if other is not None:
            raise UserError(
                f"--{flag} {getattr(config, flag)}: rank 0 finds {sizes[0]} clips there, rank {other} {sizes[other]}; "
                "give every machine the same data under the same path"
            )


def _place(device: str) -> str:
    count = ranks.rank_count()
    return device if count == 1 else f"{count} processes ({device.partition(':')[0]})"


class _Run:
    """A training on its way: what a checkpoint holds, and which iterations are done and saved."""

    def __init__(
        self, config: Config, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, train_clips: int
    ) -> None:
        self.config, self.model, self.optimizer, self.train_clips = config, model, optimizer, train_clips
        self.finished = self.saved = 0  # iterations
        self.best: dict[str, Any] | None = None  # figures of the best test so far
        self.tested = 0  # iteration of the last test
        self.torn = False  # between the two steps of an iteration with --reverse_input
        self.loss_scale = LossScale() if config.precision == "fp16" else None
        self.average = WeightAverage(model, config.ema) if config.ema else None

    @property
    def record(self) -> dict[str, Any]:
        """What state.json holds beside the iteration and the flags."""
        return {
            "best": self.best, "tested": self.tested, "train_clips": self.train_clips, "ranks": ranks.rank_count(),
            "loss_scale": dataclasses.asdict(self.loss_scale) if self.loss_scale else None,
        }  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint of the last finished iteration and remove old ones; of a job's ranks the first does it.

        Raises:
            Diverged: weights are not finite.
            WriteError: it cannot be written.
        """
        # The loss of an iteration is that of the weights before its step, so a step that ruins them shows here first.
        for name, parameter in self.model.named_parameters():
            if not bool(paddle.isfinite(parameter).all()):
                raise Diverged(self.config, f"after iteration {self.finished} {name} is not finite")
        if ranks.is_first():
            path = save_checkpoint(
                self.config, self.finished, self.model, self.optimizer, self.record, self.average
            )
            logger.info("checkpoint: %s", path)
            remove_old(self.config)
        self.saved = self.finished

    def try_to_save(self) -> None:
        """Write a checkpoint; on a full or lost disk say so and leave it to the next time: hours are at stake."""
        with _written_or_told(self.config):
            self.save()

    def take_test(self, metrics: dict[str, Any]) -> None:
        """Keep the figures of a test of the present weights, and the weights themselves, if it is the best so far."""
        self.tested = self.finished
        if not ranks.is_first():
            return
        # "clips": figures of different test sets are not compared.
        latest = {"iteration": self.finished, "clips": metrics["sequences"]}
        latest |= {name: metrics["model"][name] for name in UNITS}
        if self.best is None or is_better(latest, self.best):
            with _written_or_told(self.config):
                record = {**self.record, "best": latest}
                path = save_best(self.config, self.finished, self.model, self.optimizer, record, self.average)
                self.best = latest  # not where it could not be written: the next good test is to take its place
                if path:
                    logger.info("best so far: %s", path)
        if self.saved == self.finished:
            with _written_or_told(self.config):
                record_test(_path(self.config, self.saved), self.record)


def _test_in_training(run: _Run, test_set: paddle.io.Dataset, records: Records, stop: StopRequest) -> None:
    iteration = run.finished
    clips = _spread(test_set, run.config.test_max_clips)
    try:
        with run.average.in_use() if run.average else contextlib.nullcontext():
            metrics = evaluate(run.config, run.model, clips, str(iteration), iteration, stop, records)
    except LostFile as error:
        logger.warning("no test after iteration %d, as every one of its clips is needed: %s", iteration, error)
        return
    records.test(iteration, metrics)  # first: a kill between the two has the test done again, not its line lost
    run.take_test(metrics)


def _spread(dataset: paddle.io.Dataset, limit: int) -> paddle.io.Dataset:
    """At most ``limit`` clips (0: all), spread evenly over the data set, the same ones at every test."""
    if not limit or limit >= len(dataset):
        return dataset
    return paddle.io.Subset(dataset, [index * len(dataset) // limit for index in range(limit)])


@contextlib.contextmanager
def _written_or_told(config: Config) -> Iterator[None]:
    """In a training what cannot be written is told and the training goes on; elsewhere it is an error."""
    try:
        yield
    except WriteError as error:
        if not config.is_training:
            raise
        logger.warning("%s; the training goes on", error)


def _tell_of_unused_schedule(config: Config) -> None:
    length = lr_schedule_length(config.lr_schedule)
    if length > config.max_iterations:
        logger.warning(
            "--max_iterations %d ends before the %d iterations of --lr_schedule", config.max_iterations, length
        )


def _tell_of_other_loss(config: Config) -> None:
    """Say which loss a training has where it is not the paper's: figures of the two cannot be compared."""
    if config.l1_weight == 1 and config.l1_from <= 1:
        return
    since = f", these from iteration {config.l1_from} on" if config.l1_weight and config.l1_from > 1 else ""
    logger.info("loss: squares / 2 + %g x absolute differences%s", config.l1_weight, since)


def test(config: Config) -> None:
    """Test --pretrained_model on every clip of the test set; write figures and pictures to <gen_frm_dir>/test_result.

    Raises:
        UserError: data or weights that cannot be used, a folder that cannot be written.
    """
    log_to(None)
    device = set_device(parallel.own_device(config.device))
    parallel.start(device)
    check_precision(config.precision)
    _check_same_flags(config)
    dataset = parallel.together(lambda: build_dataset(config, "test"))
    _check_same_data(config, valid_data_paths=dataset)
    model = build_model(config)
    state = parallel.first(lambda: load_weights(model, config.pretrained_model, config))
    parallel.share_weights(model)
    logger.info("testing %s on %s: %d clips", config.pretrained_model, _place(device), len(dataset))
    evaluate(config, model, dataset, "test_result", state.get("iteration"))
    parallel.leave()


test.__test__ = False  # the name is no test's


class Loss(NamedTuple):
    """Of one iteration, before its step; with --reverse_input the means of the two steps."""

    value: float
    # Before --grad_clip; only where it is logged, every --display_interval, and not of a step that was skipped.
    gradient_norm: float | None


def train_on_batch(
    config: Config,
    iteration: int,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    frames: paddle.Tensor,
    loss_scale: LossScale | None = None,
) -> Loss:
    """One iteration: a step on the clips, and with --reverse_input a second one on the clips played backwards.

    With a loss scale a step whose gradients are not finite is skipped and told.

    Args:
        config: settings of the run.
        iteration: counted from 1; decides the scheduled sampling.
        model, optimizer: changed in place.
        frames: ``[B, T, H, W, C]`` in [0, 1].
        loss_scale: of a training in float16, changed in place.

    Raises:
        UserError: the loss is not finite, in float16 that which float32 gives; the step is not taken. Or steps go on
            being skipped with the smallest loss scale.
    """
    model.train()
    flags = sampling_flags(config, iteration, frames.shape[0])
    flags = paddle.to_tensor(flags) if flags.size else None
    clips = [frames, frames.flip(axis=1)] if config.reverse_input else [frames]
    l1_weight = l1_weight_at(config, iteration)
    parameters = model.parameters()
    losses, norms = [], []
    for clip in clips:
        patches = reshape_patch(clip, config.patch_size)
        loss = _loss(config.precision, model, patches, flags, l1_weight)
        if loss_scale:
            loss_scale.backward(loss, parameters)
        else:
            loss.backward()
        losses.append(parallel.averaged(float(loss), parameters))
        if loss_scale and not math.isfinite(losses[-1]):  # a convolution may have left the range of float16
            with paddle.no_grad():
                losses[-1] = parallel.mean(float(_loss("fp32", model, patches, flags, l1_weight)))
        if not math.isfinite(losses[-1]):
            raise Diverged(config, f"the loss of iteration {iteration} is {losses[-1]}")
        norm = gradient_norm(parameters) if loss_scale or iteration % config.display_interval == 0 else None
        if loss_scale and not _fits(config, iteration, norm, loss_scale):
            norm = None
        else:
            optimizer.step()
        optimizer.clear_grad()
        if norm is not None:
            norms.append(norm)
    return Loss(float(np.mean(losses)), float(np.mean(norms)) if norms else None)


def _loss(
    precision: str, model: nn.Layer, patches: paddle.Tensor, flags: paddle.Tensor | None, l1_weight: float
) -> paddle.Tensor:
    with autocast(precision):
        predictions = model(patches, flags)
    return prediction_loss(predictions, patches, l1_weight)


def _fits(config: Config, iteration: int, norm: float, loss_scale: LossScale) -> bool:
    """Whether the gradients, of this global norm, are finite; note it in the loss scale, and tell where they are not.

    A loss that is not finite comes here too: its gradients are not, and the scale may be the cause.
    """
    scale = loss_scale.value
    loss_scale.update(math.isfinite(norm))
    if math.isfinite(norm):
        return True
    # A line for each: every one halves the scale, which takes thousands of steps to grow again.
    logger.warning(
        "iteration %d: gradients are not finite at loss scale %g; step skipped (%d so far)",
        iteration, scale, loss_scale.skipped,
    )  # fmt: skip
    if loss_scale.exhausted:
        what = f"gradients are not finite at the smallest loss scale, {loss_scale.bad_steps} steps in a row"
        raise Diverged(config, f"iteration {iteration}: {what} (--precision bf16 has the range of float32)")
    return False


def prediction_loss(predictions: paddle.Tensor, patches: paddle.Tensor, l1_weight: float = 1.0) -> paddle.Tensor:
    """(sum(d^2) / 2 + l1_weight * sum(|d|)) / B / 128 over all the predicted frames 1 .. T-1.

    Args:
        predictions: ``[B, T-1, H/p, W/p, p*p*C]``.
        patches: the clip, ``[B, T, H/p, W/p, p*p*C]``.
        l1_weight: 1 in the paper.
    """
    difference = predictions - patches[:, 1:]
    total = difference.square().sum() / 2
    if l1_weight:
        total = total + l1_weight * difference.abs().sum()
    return total / patches.shape[0] / LOSS_SCALE


def l1_weight_at(config: Config, iteration: int) -> float:
    """The weight of the absolute differences in an iteration's loss: 0 before --l1_from, --l1_weight from it on."""
    return config.l1_weight if iteration >= config.l1_from else 0.0


def _start_at_mean(model: nn.Layer, train_set: paddle.io.Dataset) -> None:
    """Begin the decoder's bias at the mean of each colour over a sample of the training clips."""
    sample = _spread(train_set, MEAN_CLIPS)
    sums = [sample[index].astype(np.float64).mean(axis=(0, 1, 2)) for index in range(len(sample))]
    brightness = [float(mean) for mean in np.mean(sums, axis=0)]
    model.start_at(brightness)
    logger.info(
        "the decoder's bias begins at the mean of %d training clips: %s",
        len(sample), ", ".join(f"{mean:.4f}" for mean in brightness),
    )  # fmt: skip


def evaluate(
    config: Config,
    model: nn.Layer,
    dataset: paddle.io.Dataset,
    name: str,
    iteration: int | None,
    stop: StopRequest | None = None,
    records: Records | None = None,
) -> dict[str, Any]:
    """Predict every clip of the dataset once; print the table, write metrics.json and pictures.

    The ranks of a job share the batches; the first one prints and writes.

    Args:
        config: settings of the run.
        model: network; left in training mode as it was.
        dataset: clips to test on.
        name: folder under gen_frm_dir.
        iteration: iterations the weights were trained for, if known.
        stop: asked between batches; a signal ends the test without figures.
        records: given the saved forecasts.

    Returns:
        what metrics.json holds.

    Raises:
        UserError: a clip that cannot be read (LostFile where it could be at the start), predictions that are not
            finite, and, when testing, a file that cannot be written.
    """
    directory = os.path.join(config.gen_frm_dir, name)
    if ranks.is_first():
        with _written_or_told(config):
            remove_pictures(directory)
    figures, baseline = Figures(), Figures()
    count = math.ceil(len(dataset) / config.batch_size)
    batches = test_batches(config, dataset)
    bar = tqdm(total=count, desc="test", unit="batch", leave=False, disable=None)

    def forecast() -> tuple[np.ndarray, np.ndarray] | None:
        """Frames and predictions of this rank's next batch; None where there is none left."""
        if stop is not None:
            stop.check()
        batch = next(batches, None)
        return None if batch is None else (batch.numpy(), predict(config, model, batch))

    def take(frames: np.ndarray, pred: np.ndarray) -> None:
        true = frames[:, config.input_length :]
        last_given = frames[:, config.input_length - 1 : config.input_length]
        figures.add(pred, true)
        baseline.add(np.broadcast_to(last_given, true.shape), true)

    def show(number: int, frames: np.ndarray, pred: np.ndarray) -> None:
        given, true = frames[: config.input_length], frames[config.input_length :]
        with _written_or_told(config):
            write_pictures(os.path.join(directory, str(number)), given, true, pred)
        if records is not None:
            records.forecast(iteration, number, true, pred)

    # The figures of a batch, 1 ms a frame of 128 x 128, while the next one is predicted.
    with contextlib.closing(batches), bar, ThreadPoolExecutor(max_workers=1) as figures_thread:
        begun: list[Future] = []
        for first in range(1, count + 1, ranks.rank_count()):  # of the batches that the ranks have now
            mine = parallel.together(forecast)
            finite = parallel.gathered(mine is None or bool(np.isfinite(mine[1]).all()))
            if not all(finite):
                what = f"predictions of test batch {first + finite.index(False)} are not finite"
                if config.is_training:
                    raise Diverged(config, what)
                raise UserError(
                    f"--pretrained_model {config.pretrained_model}: {what}; its training diverged: give an earlier one"
                )
            while begun:
                begun.pop().result()  # its errors, and no more than two batches in memory
            if mine is not None:
                begun.append(figures_thread.submit(take, *mine))
            if first <= config.num_save_samples:
                samples = parallel.gathered(mine and (mine[0][0], mine[1][0]))
                for number, sample in enumerate(samples[: config.num_save_samples - first + 1], start=first):
                    if sample is not None and ranks.is_first():
                        begun.append(figures_thread.submit(show, number, *sample))
            bar.update(len(finite))
        while begun:
            begun.pop().result()
    figures, baseline = Figures.of(parallel.gathered(figures)), Figures.of(parallel.gathered(baseline))
    checkpoint = None if config.is_training else config.pretrained_model
    metrics = {
        "iteration": iteration, "checkpoint": checkpoint, "dataset": config.valid_data_paths,
        "sequences": len(dataset), **_summary(config, figures, baseline),
    }  # fmt: skip
    if not ranks.is_first():
        return metrics
    with _written_or_told(config):
        write_metrics(directory, metrics)
    path = os.path.join(directory, METRICS_FILE)
    logger.info(
        "test of %d clips%s; repeat = the last given frame, repeated\n%s\nfigures: %s%s",
        len(dataset), "" if iteration is None else f" after {iteration} iterations", table(metrics), path,
        f"\npictures: {directory}/1 ..." if config.num_save_samples else "",
    )  # fmt: skip
    _draw_per_frame(config, os.path.join(directory, PER_FRAME_FILE), metrics)
    return metrics


def _summary(config: Config, figures: Figures, baseline: Figures) -> dict[str, Any]:
    return {
        "input_length": config.input_length,
        "total_length": config.total_length,
        "img_width": config.img_width,
        "model": figures.summary(),
        BASELINE: baseline.summary(),
    }


def predict_video(config: Config) -> None:
    """Forecast how --predict_video goes on; write pictures, a GIF and an MP4 to <gen_frm_dir>/<its name>.

    Where the film goes on too, the truth stands beside the forecast, and the figures go to metrics.json.

    Raises:
        UserError: a film or weights that cannot be used, a folder that cannot be written.
    """
    if not ranks.is_first():  # one film, one process
        return
    log_to(None)
    device = set_device(parallel.own_device(config.device))
    check_precision(config.precision)
    steps = config.total_length - config.input_length
    try:
        film = read_film(
            config.predict_video, config.predict_start, config.input_length, steps, config.img_width, config.img_channel
        )
    except UserError as error:
        raise UserError(f"--predict_video {error}") from None
    model = build_model(config)
    state = load_weights(model, config.pretrained_model, config)
    unknown = np.zeros([steps, *film.given.shape[1:]], np.float32)
    pred = predict(config, model, paddle.to_tensor(np.concatenate([film.given, unknown])[None]))[0]
    if not np.isfinite(pred).all():
        raise UserError(f"--pretrained_model {config.pretrained_model}: its predictions are not finite; give another")

    directory = os.path.join(config.gen_frm_dir, film_name(config.predict_video))
    if os.path.isdir(directory) and os.path.realpath(directory) == os.path.realpath(config.predict_video):
        raise UserError(f"--gen_frm_dir {config.gen_frm_dir}: the forecast would go among the film's own frames")
    remove_forecast(directory)
    write_pictures(directory, film.given, film.truth, pred)
    write_mp4(os.path.join(directory, VIDEO_FILE), animation(film.given, film.truth, pred), FRAMES_PER_SECOND)
    last_given = film.first_number + config.input_length - 1
    logger.info(
        "%s on %s: frames %d to %d are given, %d to %d are predicted\nforecast: %s",
        config.predict_video, device, film.first_number, last_given, last_given + 1, last_given + steps, directory,
    )  # fmt: skip
    if len(film.truth):
        truth, figures, baseline = film.truth[None], Figures(), Figures()
        figures.add(pred[None, : len(film.truth)], truth)
        baseline.add(np.broadcast_to(film.given[-1], truth.shape), truth)
        metrics = {
            "iteration": state.get("iteration"), "checkpoint": config.pretrained_model, "film": config.predict_video,
            "first_frame": film.first_number, **_summary(config, figures, baseline),
        }  # fmt: skip
        write_metrics(directory, metrics)
        logger.info("against how it went on; repeat = the last given frame, repeated\n%s", table(metrics))
        _draw_per_frame(config, os.path.join(directory, PER_FRAME_FILE), metrics)


def _draw_per_frame(config: Config, path: str, metrics: dict[str, Any]) -> None:
    """Draw the figures; where matplotlib is not fit to, that is told: metrics.json holds them all."""
    try:
        with _written_or_told(config):
            draw_per_frame(path, metrics)
            logger.info("curves: %s", path)
    except WriteError:
        raise
    except (ImportError, ValueError, RuntimeError) as error:  # not installed, or a font or a setting of it is broken
        logger.warning("%s is not drawn (matplotlib: %s); pip install -r requirements-base.txt", path, error)


def predict(config: Config, model: nn.Layer, frames: paddle.Tensor) -> np.ndarray:
    """The frames after the given ones, each predicted from predictions.

    Args:
        config: settings of the run.
        model: network; its mode is restored.
        frames: ``[B, T, H, W, C]`` in [0, 1]; of the frames from input_length on, only the number matters.

    Returns:
        float32 ``[B, T-input_length, H, W, C]``, not clipped.
    """
    training = model.training
    model.eval()
    with paddle.no_grad(), autocast(config.precision):
        flags = no_true_frames(config, frames.shape[0])
        predictions = model(reshape_patch(frames, config.patch_size), paddle.to_tensor(flags) if flags.size else None)
        forecast = reshape_patch_back(predictions[:, config.input_length - 1 :], config.patch_size)
    if training:
        model.train()
    return forecast.numpy()


def parameter_count(model: nn.Layer) -> int:
    """Numbers that are trained; the network has no others."""
    return sum(int(np.prod(parameter.shape)) for parameter in model.parameters())


def _refuse_to_overwrite(config: Config) -> None:
    present = numbered(config.save_dir)
    if present or os.path.isdir(os.path.join(config.save_dir, BEST)):
        newest = present[-1] if present else BEST
        ours = checkpoints(config.save_dir)
        advice = "give --resume to go on with it, or another --save_dir to start a new one"
        raise UserError(
            f"--save_dir {config.save_dir}: already holds checkpoints of a run (the newest: {newest}); "
            + (advice if ours else "give another --save_dir")
        )


def _path(config: Config, iteration: int) -> str:
    return os.path.join(config.save_dir, str(iteration))
