"""The training loop and the test loop."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import os
import sys
import time
from typing import Any

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from src.config import Config
from src.data_provider.datasets_factory import build_dataset, test_batches, train_batches
from src.errors import UserError
from src.models.model_factory import build_model
from src.utils.checkpoint import checkpoints, load_weights, record_best, save_checkpoint
from src.utils.preprocess import reshape_patch, reshape_patch_back
from src.utils.results import BASELINE, Figures, remove_pictures, table, write_metrics, write_pictures
from src.utils.scheduled_sampling import no_true_frames, sampling_eta, sampling_flags
from src.utils.signals import Stopped, StopRequest

LOSS_SCALE = 128  # the scale that the learning rates of the README were tuned with
SPEED_MEMORY = 0.95  # how much of the mean time of an iteration is carried over to the next
LOG_FILE = "train.log"

logger = logging.getLogger("e3d_lstm")


class Diverged(UserError):
    """Loss or weights are not finite."""

    def __init__(self, config: Config, what: str) -> None:
        good = checkpoints(config.save_dir)
        start = f"start from {_path(config, good[-1])}" if good else "start again"
        super().__init__(f"--lr {config.lr:g}: {what}; lower the rate and {start}")


def train(config: Config) -> None:
    """Train from iteration 1 to max_iterations, with snapshots and tests on the way.

    Raises:
        UserError: data or weights that cannot be used, a folder that cannot be written, a loss that is not finite. The
            checkpoints written before stay.
    """
    _refuse_to_overwrite(config)
    _log_to(config.save_dir)
    device = set_device(config.device)
    paddle.seed(config.seed)
    train_set, test_set = build_dataset(config, "train"), build_dataset(config, "test")
    model = build_model(config)
    if config.pretrained_model:
        load_weights(model, config.pretrained_model, config)
    # A number as weight_decay is Paddle's coupled L2 decay: its gradient is added to the loss's.
    optimizer = paddle.optimizer.SGD(config.lr, parameters=model.parameters(), weight_decay=config.weight_decay)
    logger.info(
        "training on %s: %d clips, %d to test on, %d parameters, Paddle %s",
        device, len(train_set), len(test_set), parameter_count(model), paddle.__version__,
    )  # fmt: skip
    logger.debug("settings: %s", dataclasses.asdict(config))

    progress = _Progress(config)
    batches = train_batches(config, train_set)
    best: dict[str, float] | None = None
    finished = saved = 0
    try:
        with StopRequest() as stop:
            for iteration in range(1, config.max_iterations + 1):
                started = time.perf_counter()
                frames = next(batches)
                read = time.perf_counter()
                loss = train_on_batch(config, iteration, model, optimizer, frames)
                finished = iteration
                ended = time.perf_counter()
                progress.step(iteration, loss, optimizer.get_lr(), ended - started, read - started)

                if iteration % config.snapshot_interval == 0 or iteration == config.max_iterations:
                    _snapshot(config, iteration, model, optimizer, best)
                    saved = iteration
                stop.check()
                if iteration % config.test_interval == 0:
                    metrics = evaluate(config, model, test_set, str(iteration), iteration, stop)
                    best = _better(best, {"iteration": iteration, **_means(metrics["model"])})
                    if saved == iteration:
                        record_best(_path(config, saved), best)
    except Diverged:  # nothing since the last checkpoint is worth keeping
        raise
    except (UserError, Stopped):  # a broken file, a full disk, a signal: keep what has been learnt
        if finished > saved:
            _snapshot(config, finished, model, optimizer, best)
        raise
    finally:
        batches.close()  # ends the processes that read; left to the end of the program, Paddle 2.6 complains
        progress.close()
    logger.info("done: %d iterations; the last checkpoint is %s", config.max_iterations, _path(config, saved))


def test(config: Config) -> None:
    """Test --pretrained_model on every clip of the test set; write figures and pictures to <gen_frm_dir>/test_result.

    Raises:
        UserError: data or weights that cannot be used, a folder that cannot be written.
    """
    _log_to(None)
    device = set_device(config.device)
    dataset = build_dataset(config, "test")
    model = build_model(config)
    state = load_weights(model, config.pretrained_model, config)
    logger.info("testing %s on %s: %d clips", config.pretrained_model, device, len(dataset))
    evaluate(config, model, dataset, "test_result", state.get("iteration"))


test.__test__ = False  # the name is no test's


def train_on_batch(
    config: Config, iteration: int, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, frames: paddle.Tensor
) -> float:
    """One iteration: a step on the clips, and with --reverse_input a second one on the clips played backwards.

    Args:
        config: settings of the run.
        iteration: counted from 1; decides the scheduled sampling.
        model, optimizer: changed in place.
        frames: ``[B, T, H, W, C]`` in [0, 1].

    Returns:
        the loss before the step (the mean of the two with --reverse_input).

    Raises:
        UserError: the loss is not finite; the step is not taken.
    """
    model.train()
    flags = sampling_flags(config, iteration, frames.shape[0])
    flags = paddle.to_tensor(flags) if flags.size else None
    clips = [frames, frames.flip(axis=1)] if config.reverse_input else [frames]
    losses = []
    for clip in clips:
        patches = reshape_patch(clip, config.patch_size)
        loss = prediction_loss(model(patches, flags), patches)
        losses.append(float(loss))
        if not math.isfinite(losses[-1]):
            raise Diverged(config, f"the loss of iteration {iteration} is {losses[-1]}")
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    return float(np.mean(losses))


def prediction_loss(predictions: paddle.Tensor, patches: paddle.Tensor) -> paddle.Tensor:
    """(sum(d^2) / 2 + sum(|d|)) / B / 128 over all the predicted frames 1 .. T-1.

    Args:
        predictions: ``[B, T-1, H/p, W/p, p*p*C]``.
        patches: the clip, ``[B, T, H/p, W/p, p*p*C]``.
    """
    difference = predictions - patches[:, 1:]
    total = difference.square().sum() / 2 + difference.abs().sum()
    return total / patches.shape[0] / LOSS_SCALE


def evaluate(
    config: Config,
    model: nn.Layer,
    dataset: paddle.io.Dataset,
    name: str,
    iteration: int | None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Predict every clip of the dataset once; print the table, write metrics.json and pictures.

    Args:
        config: settings of the run.
        model: network; left in training mode as it was.
        dataset: clips to test on.
        name: folder under gen_frm_dir.
        iteration: iterations the weights were trained for, if known.
        stop: asked between batches; a signal ends the test without figures.

    Returns:
        what metrics.json holds.
    """
    directory = os.path.join(config.gen_frm_dir, name)
    remove_pictures(directory)
    figures, baseline = Figures(), Figures()
    count = math.ceil(len(dataset) / config.batch_size)
    bar = tqdm(test_batches(config, dataset), total=count, desc="test", unit="batch", leave=False, disable=None)
    for number, batch in enumerate(bar, start=1):
        if stop is not None:
            stop.check()
        pred = predict(config, model, batch)
        if not np.isfinite(pred).all():
            raise UserError(
                f"--pretrained_model {config.pretrained_model}: predictions of test batch {number} are not finite; "
                "its training diverged: give an earlier checkpoint"
                if not config.is_training
                else f"--lr {config.lr:g}: predictions of test batch {number} are not finite; lower the rate"
            )
        frames = batch.numpy()
        true = frames[:, config.input_length :]
        last_given = frames[:, config.input_length - 1 : config.input_length]
        figures.add(pred, true)
        baseline.add(np.broadcast_to(last_given, true.shape), true)
        if number <= config.num_save_samples:
            write_pictures(os.path.join(directory, str(number)), frames[0], pred[0])
    metrics = {
        "iteration": iteration,
        "checkpoint": None if config.is_training else config.pretrained_model,
        "dataset": config.valid_data_paths,
        "sequences": len(dataset),
        "input_length": config.input_length,
        "total_length": config.total_length,
        "img_width": config.img_width,
        "model": figures.summary(),
        BASELINE: baseline.summary(),
    }
    path = write_metrics(directory, metrics)
    logger.info(
        "test of %d clips%s; repeat = the last given frame, repeated\n%s\nfigures: %s%s",
        len(dataset), "" if iteration is None else f" after {iteration} iterations", table(metrics), path,
        f"\npictures: {directory}/1 ..." if config.num_save_samples else "",
    )  # fmt: skip
    return metrics


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
    with paddle.no_grad():
        flags = no_true_frames(config, frames.shape[0])
        predictions = model(reshape_patch(frames, config.patch_size), paddle.to_tensor(flags) if flags.size else None)
        forecast = reshape_patch_back(predictions[:, config.input_length - 1 :], config.patch_size)
    if training:
        model.train()
    return forecast.numpy()


def set_device(device: str) -> str:
    """Make Paddle use the device of --device and return its name.

    Raises:
        UserError: a GPU is asked for that Paddle does not see.
    """
    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    if device == "auto":
        device = "gpu" if gpus else "cpu"
    if device.startswith("gpu"):
        index = int(device[4:] or 0)
        if index >= gpus:
            build = f"sees {gpus} GPUs" if paddle.device.is_compiled_with_cuda() else "is the build for CPUs"
            raise UserError(f"--device {device}: this Paddle ({paddle.__version__}) {build}; give cpu or auto")
        device = f"gpu:{index}"
    paddle.set_device(device)
    return device


def parameter_count(model: nn.Layer) -> int:
    """Numbers that are trained; the network has no others."""
    return sum(int(np.prod(parameter.shape)) for parameter in model.parameters())


def _refuse_to_overwrite(config: Config) -> None:
    # Any folder with a number for its name: the checkpoints of other programs look the same.
    present = sorted((int(name) for name in os.listdir(config.save_dir) if name.isdecimal()), reverse=True)
    if present:
        whole = checkpoints(config.save_dir)
        advice = f" (and --pretrained_model {_path(config, whole[-1])} to start from its weights)" if whole else ""
        raise UserError(
            f"--save_dir {config.save_dir}: already holds checkpoints of a run (the newest: {present[0]}); "
            f"give another --save_dir{advice}"
        )


def _snapshot(
    config: Config, iteration: int, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, best: dict | None
) -> None:
    # The loss of an iteration is that of the weights before its step, so a step that ruins them shows here first.
    ruined = [name for name, parameter in model.named_parameters() if not bool(paddle.isfinite(parameter).all())]
    if ruined:
        raise Diverged(config, f"after iteration {iteration} {ruined[0]} is not finite")
    logger.info("checkpoint: %s", save_checkpoint(config, iteration, model, optimizer, best))


def _means(figures: dict[str, Any]) -> dict[str, float]:
    return {name: figures[name] for name in ("psnr", "ssim", "mse")}


def _better(best: dict[str, float] | None, latest: dict[str, float]) -> dict[str, float]:
    """The test with the higher mean PSNR; None stands for a forecast without any error."""
    if best is None or (latest["psnr"] or math.inf) > (best["psnr"] or math.inf):
        return latest
    return best


def _path(config: Config, iteration: int) -> str:
    return os.path.join(config.save_dir, str(iteration))


class _Progress:
    """A bar on a terminal, plain lines elsewhere; the log file gets the lines either way."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.mean_seconds: float | None = None
        self.bar = tqdm(total=config.max_iterations, unit="it", dynamic_ncols=True, disable=None)

    def step(self, iteration: int, loss: float, lr: float, seconds: float, reading: float) -> None:
        memory = 0.0 if self.mean_seconds is None else SPEED_MEMORY
        self.mean_seconds = memory * (self.mean_seconds or 0.0) + (1 - memory) * seconds
        self.bar.update()
        if iteration % self.config.display_interval:
            return
        eta = sampling_eta(self.config, iteration)
        speed = self.config.batch_size * self.config.total_length / seconds
        left = datetime.timedelta(seconds=round(self.mean_seconds * (self.config.max_iterations - iteration)))
        # The bar itself shows time per iteration and time left; 80 columns have to hold it all.
        self.bar.set_postfix_str(f"loss {loss:.4g}, lr {lr:.3g}, eta {eta:.3f}, {speed:.0f} f/s")
        logger.info(
            "iteration %d/%d, loss %.4f, lr %.3g, eta %.4f, %.3f s/it (reading %.3f), %.1f frames/s, left %s",
            iteration, self.config.max_iterations, loss, lr, eta, seconds, reading, speed, left,
            extra={"on_bar": True},
        )  # fmt: skip

    def close(self) -> None:
        self.bar.close()


class _Terminal(logging.Handler):
    """Standard output that a bar does not tear apart; lines that the bar shows are left out where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not (sys.stderr.isatty() and sys.stdout.isatty()):
                print(self.format(record), flush=True)
            elif not getattr(record, "on_bar", False):
                tqdm.write(self.format(record))
        except BrokenPipeError:  # piped to head, say: no reason to end a training; the log file has every line
            pass


def _log_to(save_dir: str | None) -> None:
    logger.setLevel(logging.DEBUG)  # the log file takes everything
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(_Terminal(logging.INFO))
    if save_dir is not None:
        path = os.path.join(save_dir, LOG_FILE)
        try:
            log_file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"--save_dir {save_dir}: {path} cannot be written ({error.strerror})") from None
        log_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(log_file)
