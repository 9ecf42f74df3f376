"""The training loop."""

from __future__ import annotations

import contextlib
import logging
import time

import paddle

from src.checkpoints.checkpoint import load_weights
from src.checkpoints.run import Run, open_folder
from src.config import Config
from src.data_provider.datasets_factory import build_dataset, validation_flag
from src.data_provider.loader import Batches, spread, train_batches
from src.errors import Diverged, LostFile, UserError
from src.evaluator import evaluate
from src.flag_values import GATE
from src.models.model_factory import build_model
from src.models.parameters import parameter_count, start_at_mean
from src.reports.training_report import Progress, TrainingReport, log_settings
from src.runtime import parallel, ranks
from src.runtime.device import check_precision
from src.runtime.log import log_to
from src.runtime.signals import Stopped, StopRequest
from src.runtime.start import check_same_data, name_of_place, start
from src.step import train_on_batch
from src.utils.optimizer import build_optimizer, build_schedule
from src.utils.scheduled_sampling import sampling_eta

logger = logging.getLogger("e3d_lstm")


def train(config: Config) -> None:
    """Train up to iteration max_iterations, with snapshots and tests on the way; --resume continues a stopped run.

    What cannot be written on the way, or a file of the data set that is lost, is a warning, and the training goes on.

    Raises:
        UserError: data or weights that cannot be used, a folder that cannot be written, a loss that is not finite. The
            checkpoints written before stay.
        Exception: any other leaves a checkpoint too, unless it came while the weights were updated.
    """
    device = start(config)
    checkpoint, is_own = parallel.on_rank_0(lambda: open_folder(config))
    if not ranks.is_first():
        log_to(None)
    check_precision(config.precision)

    train_set, test_set = parallel.on_every_rank(lambda: [build_dataset(config, mode) for mode in ("train", "valid")])
    check_same_data(config, train_data_paths=train_set)
    check_same_data(config, **{validation_flag(config) or "valid_data_paths": test_set})
    test_clips = spread(test_set, config.test_max_clips)

    paddle.seed(config.seed)
    model = build_model(config)
    schedule = build_schedule(config)
    optimizer = build_optimizer(config, schedule, model.parameters())
    logger.info(
        "training on %s: %d clips, %d to test on, %d parameters, Paddle %s",
        name_of_place(device),
        len(train_set),
        len(test_set),
        parameter_count(model),
        paddle.__version__,
    )

    run = Run(config, model, optimizer, len(train_set))
    if checkpoint:
        run.restore(checkpoint, is_own, len(test_clips))
    elif config.pretrained_model:
        parallel.on_rank_0(lambda: load_weights(model, config.pretrained_model, config))
    elif config.start_at_mean or (getattr(model, "residual", False) == GATE and not model.center):
        parallel.on_rank_0(lambda: start_at_mean(model, train_set))
    parallel.share_weights(model)
    if run.average and not checkpoint:
        run.average.restart()
    if config.resume and not checkpoint:
        logger.info("--resume: no checkpoint in %s yet; starting at iteration 1", config.save_dir)
    log_settings(config, run.finished)

    report = TrainingReport(config, run.finished, run.tested, device)
    progress = Progress(config, run.finished)
    stop = StopRequest()
    batches = train_batches(config, train_set, run.finished + 1, stop)
    try:
        with stop:
            _loop(run, schedule, batches, test_clips, report, progress, stop)
        parallel.leave()
    except Diverged as error:  # nothing since the last checkpoint is worth keeping
        parallel.leave()
        raise run.with_advice(error) from None
    except (UserError, Stopped) as error:  # a broken file, a signal: keep what has been learnt
        try:
            run.save_unfinished()
        except UserError as failure:
            raise UserError(f"{error}; {run.with_advice(failure)}") from None
        finally:
            parallel.leave()
        raise
    except Exception as error:  # no user's mistake: memory, a kernel; keep what has been learnt, then show it
        run.try_to_save_unfinished(error)
        raise
    finally:
        batches.close()  # ends the threads that read
        progress.close()
        report.close()
    logger.info("done: %d iterations; the last checkpoint is %s", run.finished, run.path(run.saved))


def _loop(
    run: Run,
    schedule: paddle.optimizer.lr.LRScheduler,
    batches: Batches,
    test_clips: paddle.io.Dataset,
    report: TrainingReport,
    progress: Progress,
    stop: StopRequest,
) -> None:
    config = run.config
    if run.finished > run.tested and run.finished % config.test_interval == 0:  # stopped before its test
        _test(run, test_clips, report, stop)
    for iteration in range(run.finished + 1, config.max_iterations + 1):
        schedule.step(iteration - 1)
        if iteration == config.l1_from > 1 and config.l1_weight:
            logger.info("iteration %d: absolute differences join the loss, which rises by them", iteration)
        started = time.perf_counter()
        frames = parallel.on_every_rank(lambda: next(batches))  # (B, T, H, W, C)
        read = time.perf_counter()
        loss = train_on_batch(config, iteration, run.model, run.optimizer, frames, run.loss_scale, run.begin_update)
        if run.average:
            run.average.update(iteration)
        run.mid_iteration, run.finished = False, iteration
        ended = time.perf_counter()
        lr, eta = run.optimizer.get_lr(), sampling_eta(config, iteration)
        progress.step(iteration, loss.value, lr, eta, ended - started, read - started)
        if iteration % config.display_interval == 0:
            report.step(iteration, loss.value, lr, eta, loss.gradient_norm, ended - started)

        if iteration % config.snapshot_interval == 0 or iteration == config.max_iterations:
            run.try_to_save()
        parallel.on_every_rank(stop.check)
        if iteration % config.test_interval == 0:
            _test(run, test_clips, report, stop)
    if run.saved < run.finished:  # the last one could not be written; the disk may have room again
        run.save()


def _test(run: Run, test_clips: paddle.io.Dataset, report: TrainingReport, stop: StopRequest) -> None:
    """Test the present weights, or their moving average where the run keeps one."""
    iteration = run.finished
    started = time.perf_counter()
    try:
        with run.average.in_use() if run.average else contextlib.nullcontext():
            metrics = evaluate(run.config, run.model, test_clips, str(iteration), iteration, stop, report)
    except LostFile as error:
        logger.warning("no test after iteration %d, as every one of its clips is needed: %s", iteration, error)
        return
    report.advise_on_tests(iteration, metrics["sequences"], time.perf_counter() - started)
    report.test(iteration, metrics)  # first: a kill between the two has the test done again, not its line lost
    run.record_test(metrics)
    report.remove_old_pictures(run.best)
