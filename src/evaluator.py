"""Tests and forecasts of films: what trained weights predict, measured and drawn."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from src.checkpoints.checkpoint import load_weights
from src.config import FRAME_FLAGS, Config
from src.data_provider.datasets_factory import (
    TEST_SET,
    VALIDATION_SET,
    build_dataset,
    clips_of_tests,
    validation_flag,
)
from src.data_provider.folder import film_name, read_film
from src.data_provider.loader import actions_of, test_batches
from src.errors import Diverged, UserError
from src.flag_values import list_flags
from src.models.model_factory import build_model
from src.reports.forecast_report import (
    ForecastMetrics,
    open_test_folder,
    report_film,
    report_test,
    write_film,
    write_pictures,
)
from src.reports.own_folder import FILM, TEST, check_own
from src.reports.training_report import TrainingReport
from src.runtime import parallel, ranks
from src.runtime.device import check_precision
from src.runtime.log import log_to, warn_if_unwritable
from src.runtime.signals import StopRequest
from src.runtime.start import check_same_data, name_of_place, start, use_device
from src.step import predict

logger = logging.getLogger("e3d_lstm")

TEST_FOLDER = "test_result"  # under gen_frm_dir

Batch = tuple[np.ndarray, np.ndarray]  # frames [B, T, H, W, C], predictions [B, T-input_length, H, W, C]


def test(config: Config) -> None:
    """Test --pretrained_model on every clip of the test set; write metrics and pictures to <gen_frm_dir>/test_result.

    Raises:
        UserError: data or weights that cannot be used, a folder that cannot be written.
    """
    log_to(None)
    device = start(config)
    parallel.on_rank_0(lambda: check_own(os.path.join(config.gen_frm_dir, TEST_FOLDER), TEST))
    check_precision(config.precision)
    # The weights first: a checkpoint that is damaged may have left the size of the frames to the flags' defaults.
    model = build_model(config)
    state = parallel.on_rank_0(lambda: load_weights(model, config.pretrained_model, config))
    parallel.share_weights(model)
    dataset = parallel.on_every_rank(lambda: build_dataset(config, "test"))
    check_same_data(config, valid_data_paths=dataset)
    logger.info("testing %s on %s: %d clips", config.pretrained_model, name_of_place(device), len(dataset))
    details = {**frames_in_training(config, state), **choice_of_best(config, state, len(dataset))}
    with StopRequest() as stop:  # an exception in the middle of a batch may be swallowed by a library, or abort it
        evaluate(config, model, dataset, TEST_FOLDER, state.get("iteration"), stop, details=details)
    parallel.leave()


test.__test__ = False  # the name is no test's


def frames_in_training(config: Config, state: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of the frames whose values in the training are not this run's; a line of the log says so.

    Args:
        config: settings of this run.
        state: the checkpoint's state.json; empty where it has none.

    Returns:
        for metrics.json, ``{"trained_with": {"total_length": 20}}``; empty where nothing differs.
    """
    saved = state.get("config", {})
    differing = {name: saved[name] for name in FRAME_FLAGS if name in saved and saved[name] != getattr(config, name)}
    if not differing:
        return {}
    there, here = list_flags(list(differing), differing), list_flags(list(differing), dataclasses.asdict(config))
    logger.info("frames differ from the training's: trained with %s, this run has %s", there, here)
    return {"trained_with": differing}


def choice_of_best(config: Config, state: Mapping[str, Any], clips: int) -> dict[str, Any]:
    """Which clips the best checkpoint of a training was chosen on: on those of this test, its figures flatter.

    Args:
        config: settings of this run.
        state: the checkpoint's state.json; empty where it has none.
        clips: of this test.

    Returns:
        for metrics.json, ``{"best_chosen_on": "test set"}``, or ``"validation set"`` for clips that this test has not;
        empty where nothing was chosen.
    """
    best = state.get("best")
    if not best:
        return {}
    before, is_same = state.get("config", {}).get("valid_data_paths"), best.get("clips") == clips
    if before:  # a checkpoint that is handed on names no paths
        is_same = os.path.realpath(before) == os.path.realpath(config.valid_data_paths)
    is_apart = state.get("best_chosen_on") == VALIDATION_SET or not is_same
    return {"best_chosen_on": VALIDATION_SET if is_apart else TEST_SET}


def evaluate(
    config: Config,
    model: nn.Layer,
    dataset: paddle.io.Dataset,
    name: str,
    iteration: int | None,
    stop: StopRequest | None = None,
    report: TrainingReport | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Predict every clip of the dataset once; print the table, write metrics.json and pictures.

    The ranks of a job share the batches; rank 0 prints and writes.

    Args:
        config: settings of the run.
        model: network; left in training mode as it was.
        dataset: clips to test on.
        name: folder under gen_frm_dir.
        iteration: iterations the weights were trained for, if known.
        stop: asked between batches and while one is read; a signal ends the test without metrics.
        report: given the saved forecasts.
        details: what else metrics.json is to hold.

    Returns:
        what metrics.json holds.

    Raises:
        UserError: a clip that cannot be read (LostFile where it could be at the start), predictions that are not
            finite (Diverged in a training), and, when testing, a file that cannot be written.
    """
    metrics, given, actions = ForecastMetrics(), config.input_length, actions_of(dataset)
    directory = open_test_folder(config, os.path.join(config.gen_frm_dir, name)) if ranks.is_first() else None

    def add(start: int, frames: np.ndarray, pred: np.ndarray) -> None:
        metrics.add(frames[:, :given], frames[:, given:], pred, actions[start : start + len(frames)])

    def draw(number: int, frames: np.ndarray, pred: np.ndarray) -> None:
        if directory is not None:
            with warn_if_unwritable(config.is_training):
                write_pictures(os.path.join(directory, str(number)), frames[:given], frames[given:], pred)
        if report is not None:
            report.forecast(iteration, number, frames[given:], pred)

    # The metrics of a batch, 1 ms a frame of 128 x 128, while the next one is predicted.
    forecasts = _forecasts(config, model, dataset, stop)
    with contextlib.closing(forecasts), ThreadPoolExecutor(max_workers=1) as thread:
        begun: list[Future] = []
        for first, mine in forecasts:
            while begun:
                begun.pop().result()  # its errors, and no more than two batches in memory
            if mine is not None:
                begun.append(thread.submit(add, (first - 1 + ranks.rank()) * config.batch_size, *mine))
            if first <= config.num_save_samples:
                samples = parallel.all_gather(mine and (mine[0][0], mine[1][0]))
                for number, sample in enumerate(samples[: config.num_save_samples - first + 1], start=first):
                    if sample is not None and ranks.is_first():
                        begun.append(thread.submit(draw, number, *sample))
        while begun:
            begun.pop().result()
    result = {
        "iteration": iteration,
        "checkpoint": None if config.is_training else config.pretrained_model,
        "dataset": getattr(config, (config.is_training and validation_flag(config)) or "valid_data_paths"),
        "sequences": len(dataset),
        **(details or ({"best_chosen_on": clips_of_tests(config)} if config.is_training else {})),
        **ForecastMetrics(parallel.all_gather(metrics)).summary(config),
    }
    if ranks.is_first():
        report_test(config, directory, result)
    return result


def _forecasts(
    config: Config, model: nn.Layer, dataset: paddle.io.Dataset, stop: StopRequest | None
) -> Iterator[tuple[int, Batch | None]]:
    """The test batches, as many at a time as there are ranks: the number of the first one, from 1, and this rank's
    batch with its predictions (None where there is none left for it).

    Raises:
        UserError: as :func:`evaluate`.
    """
    batches = test_batches(config, dataset, stop)
    count = math.ceil(len(dataset) / config.batch_size)

    def forecast() -> Batch | None:
        if stop is not None:
            stop.check()
        frames = next(batches, None)
        return None if frames is None else (frames.numpy(), predict(config, model, frames))

    bar = tqdm(total=count, desc="test", unit="batch", leave=False, disable=None)
    with contextlib.closing(batches), bar:
        for first in range(1, count + 1, ranks.world_size()):
            mine = parallel.on_every_rank(forecast)
            finite = parallel.all_gather(mine is None or bool(np.isfinite(mine[1]).all()))
            if not all(finite):
                what = f"predictions of test batch {first + finite.index(False)} are not finite"
                if config.is_training:
                    raise Diverged(what)
                raise UserError(
                    f"--pretrained_model {config.pretrained_model}: {what}; its training diverged: give an earlier one"
                )
            yield first, mine
            bar.update(len(finite))


def predict_video(config: Config) -> None:
    """Forecast how --predict_video goes on; write pictures, a GIF and an MP4 to <gen_frm_dir>/<its name>.

    Where the film goes on too, the truth stands beside the forecast, and the metrics go to metrics.json.

    Raises:
        UserError: a film or weights that cannot be used, a folder that cannot be written.
    """
    if not ranks.is_first():  # one film, one process
        return
    log_to(None)
    directory = _forecast_folder(config)
    device = use_device(config)
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
    details = frames_in_training(config, state)
    unknown = np.zeros([steps, *film.given.shape[1:]], np.float32)
    pred = predict(config, model, paddle.to_tensor(np.concatenate([film.given, unknown])[None]))[0]  # (steps, H, W, C)
    if not np.isfinite(pred).all():
        raise UserError(f"--pretrained_model {config.pretrained_model}: its predictions are not finite; give another")

    write_film(directory, film.given, film.truth, pred)
    last_given = film.first_number + config.input_length - 1
    logger.info(
        "%s on %s: frames %d to %d are given, %d to %d are predicted\nforecast: %s",
        config.predict_video,
        device,
        film.first_number,
        last_given,
        last_given + 1,
        last_given + steps,
        directory,
    )
    if len(film.truth):
        metrics = ForecastMetrics()
        metrics.add(film.given[None], film.truth[None], pred[None, : len(film.truth)])
        result = {
            "iteration": state.get("iteration"),
            "checkpoint": config.pretrained_model,
            "film": config.predict_video,
            "first_frame": film.first_number,
            **details,
            **metrics.summary(config),
        }
        report_film(config, directory, result)


def _forecast_folder(config: Config) -> str:
    """Where the forecast of --predict_video goes: to no folder of another's, and not beside or into the film itself.

    Raises:
        UserError: it would.
    """
    directory = os.path.join(config.gen_frm_dir, film_name(config.predict_video))
    film, place = os.path.realpath(config.predict_video), os.path.realpath(directory)
    if os.path.commonpath([film, place]) in (film, place):  # one holds the other
        raise UserError(
            f"--gen_frm_dir {config.gen_frm_dir}: the forecast would go among the film's own frames "
            f"({directory}); give another --gen_frm_dir"
        )
    check_own(directory, FILM)
    return directory
