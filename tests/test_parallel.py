"""Data parallel training on CPUs by Paddle's launcher: N ranks do what one does, and what ends one ends all."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import paddle
import psutil
import pytest

from src import evaluator, trainer
from src.checkpoints.checkpoint import checkpoints, read_checkpoint
from src.data_provider.datasets_factory import build_dataset
from src.data_provider.loader import test_batches, train_batches
from src.errors import UserError
from src.runtime import parallel, ranks
from src.utils.metrics import BASELINES
from src.utils.scheduled_sampling import sampling_flags
from tests.conftest import settings_for
from tests.helpers import LONGEST_WAIT, ROOT, assert_same_checkpoint, losses_of, rows_of

RANKS = 2

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def start(tmp_path):
    """Start a job: ``start(config, name)``, or of another program; its logs go to <tmp_path>/<name>."""
    jobs = []

    def start(config, name, *launcher_flags, program=None):
        flags = launcher_flags or ("--nproc_per_node", RANKS)
        program = program or [ROOT / "runp.py", *flags_of(config)]
        command = [sys.executable, "-m", "paddle.distributed.launch", *flags, "--log_dir", tmp_path / name, *program]
        job = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            # Ranks share the cores as users' do, whatever the tests themselves were given.
            env={key: value for key, value in os.environ.items() if key != "MKL_NUM_THREADS"},
        )
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.kill()  # its ranks end with it
        job.communicate()


def flags_of(config):
    flags = [f"--{name}={value}" for name, value in dataclasses.asdict(config).items() if name != "resume"]
    return [*flags, "--resume"] if config.resume else flags


def end_of(job, status=0):
    output, _ = job.communicate(timeout=LONGEST_WAIT)
    assert job.returncode == status, output
    return output


def rank_log(tmp_path, name, rank):
    return (tmp_path / name / f"workerlog.{rank}").read_text()


def wait_for(job, tmp_path, name, text):
    """Wait until rank 0 of a job has said so."""
    path = tmp_path / name / "workerlog.0"
    until = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < until and job.poll() is None:
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {text!r} in {path.read_text()}")


def run_in(tmp_path, name, kth_sample, **settings):
    (tmp_path / name).mkdir()
    common = {"max_iterations": 24, "snapshot_interval": 10, "grad_clip": 5.0, "num_save_samples": 3}
    return settings_for(kth_sample, tmp_path / name, **{**common, **settings})


def test_two_ranks_are_one_with_twice_the_batch_and_a_stopped_job_goes_on_exactly(kth_sample, tmp_path, start):
    """One process with 4 clips; two launchers with a rank of 2 clips each, as on two machines; a launcher with two
    ranks that is sent a SIGTERM, and goes on."""
    settings = {
        "test_interval": 9,
        "test_max_clips": 7,
        "sampling_start_value": 0.6,
        "sampling_changing_rate": 0.01,
        "start_at_mean": True,
        "ema": 0.9,
        "l1_weight": 0.3,
        "l1_from": 3,
        "lr_schedule": "cosine:1e-3:24:2",
    }
    alone = run_in(tmp_path, "alone", kth_sample, batch_size=4, **settings)
    trainer.train(alone)

    job = run_in(tmp_path, "job", kth_sample, **settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{free.getsockname()[1]}"
    machines = [
        start(job, f"machine{number}", "--master", master, "--nnodes", 2, "--rank", number, "--nproc_per_node", 1)
        for number in range(2)
    ]
    stopped = run_in(tmp_path, "stopped", kth_sample, resume="newest", **settings)
    launcher = start(stopped, "first_start")
    wait_for(launcher, tmp_path, "first_start", "iteration 2/24")
    launcher.send_signal(signal.SIGTERM)
    for machine in machines:
        end_of(machine)
    assert "training on 2 processes (cpu)" in rank_log(tmp_path, "machine0", 0)
    assert "iteration" not in rank_log(tmp_path, "machine1", 0)  # rank 0 alone prints

    assert checkpoints(job.save_dir) == [10, 20, 24]
    one, two = (read_checkpoint("", f"{config.save_dir}/24") for config in (alone, job))
    for arrays, others in ((one.weights, two.weights), (one.average, two.average)):
        for name, array in arrays.items():
            np.testing.assert_allclose(others[name], array, rtol=0, atol=1e-6, err_msg=name)
    for first, second in zip(losses_of(alone), losses_of(job), strict=True):
        assert [float(value) for value in second.values()] == pytest.approx(list(map(float, first.values())), rel=1e-5)

    end_of(launcher, signal.SIGTERM)  # the launcher's own way to say so
    (iteration,) = checkpoints(stopped.save_dir)
    assert 2 <= iteration < 24, "it was to be stopped on its way"
    assert "runp.py: stopped by SIGTERM" in rank_log(tmp_path, "first_start", 0)
    end_of(start(stopped, "second_start"))
    assert_same_checkpoint(f"{job.save_dir}/24", f"{stopped.save_dir}/24")
    assert losses_of(job) == losses_of(stopped)
    tests = [[{**row, "seconds": 0} for row in rows_of(config, "metrics.csv")] for config in (job, stopped)]
    assert tests[0] == tests[1]


def test_a_test_by_two_ranks_takes_every_clip_once(kth_sample, tmp_path, start):
    """9 clips in batches of 2: three batches for one rank, two for the other, the last with one clip."""
    config = run_in(tmp_path, "run", kth_sample, max_iterations=1, model_name="conv_lstm")
    trainer.train(config)
    figures, pictures = [], []
    for name in ("alone", "job"):
        results = tmp_path / f"results_{name}"
        testing = dataclasses.replace(
            config, is_training=False, pretrained_model=f"{config.save_dir}/1", gen_frm_dir=str(results)
        )
        if name == "job":
            end_of(start(testing, "testing"))
            assert rank_log(tmp_path, "testing", 1).count("test of") == 0  # rank 0 alone prints
        else:
            evaluator.test(testing)
        figures.append(json.loads((results / "test_result" / "metrics.json").read_text()))
        pictures.append({path.relative_to(results): path.read_bytes() for path in results.rglob("*.png")})
    alone, job = figures
    assert alone["sequences"] == job["sequences"] == 9 and list(alone["actions"]) == ["boxing", "running"]
    for of_all, expected in (
        (job, alone),
        *((job["actions"][name], alone["actions"][name]) for name in job["actions"]),
    ):
        assert of_all["sequences"] == expected["sequences"]
        for forecast in ("model", *BASELINES):
            assert flat(of_all[forecast]) == pytest.approx(flat(expected[forecast]), rel=1e-6)
    assert pictures[0].keys() == pictures[1].keys()
    samples = [path for path in pictures[0] if path.name.startswith(("gt", "pd"))]
    assert len(samples) == 3 * 9 and all(pictures[0][path] == pictures[1][path] for path in samples)


def flat(figures):
    return [number for name in sorted(figures) for number in np.atleast_1d(figures[name]).astype(float)]


def ranks_of(job):
    """The ranks that a launcher has started, by number; not the processes that read for them."""
    return {child.environ()["PADDLE_TRAINER_ID"]: child for child in psutil.Process(job.pid).children()}


def test_the_death_of_a_rank_ends_the_job_with_its_reason_and_a_checkpoint(kth_sample, tmp_path, start):
    config = run_in(tmp_path, "run", kth_sample, max_iterations=10**6, snapshot_interval=10**6, test_interval=10**6)
    launcher = start(config, "logs")
    wait_for(launcher, tmp_path, "logs", "iteration 3/")
    started = ranks_of(launcher)
    started["1"].kill()
    output, _ = launcher.communicate(timeout=LONGEST_WAIT)
    assert launcher.returncode not in (0, signal.SIGTERM) and "code -9" in output
    (iteration,) = checkpoints(config.save_dir)
    read_checkpoint("", f"{config.save_dir}/{iteration}")
    assert iteration >= 3 and not any(process.is_running() for process in started.values())
    assert int(losses_of(config)[-1]["iteration"]) == iteration  # nothing that was logged is lost

    # One process takes it over with the same clips an iteration; another number of clips is refused.
    again = dataclasses.replace(config, resume="newest", max_iterations=iteration + 1)
    with pytest.raises(UserError, match="--batch_size 4"):
        trainer.train(again)
    trainer.train(dataclasses.replace(again, batch_size=4))
    assert checkpoints(config.save_dir) == [iteration, iteration + 1]


ON_RANKS = """
import sys
from itertools import product
sys.path.insert(0, sys.argv[1])
import src
import numpy as np, paddle
from src.config import Config
from src.errors import LostFile, UserError
from src.models.model_factory import build_model
from src.runtime.start import check_same_data, check_same_flags
from src.step import prediction_loss
from src.runtime import parallel, ranks
from src.runtime.signals import Stopped

paddle.set_device("cpu")
parallel.start("cpu")
rank = ranks.rank()

def attempt(function):
    try:
        return repr(function())
    except (UserError, Stopped) as error:
        return f"{type(error).__name__}: {error}"

def fail(*errors):
    def function():
        if errors[rank] is not None:
            raise errors[rank]
        return rank
    return function

print("result", attempt(lambda: parallel.on_rank_0(lambda: {"made on": rank, "array": np.arange(3)})))
print("result", attempt(lambda: parallel.on_rank_0(fail(UserError("--flag x: is wrong"), None))))
print("result", attempt(lambda: parallel.all_gather({"rank": rank})))
print("own", attempt(lambda: parallel.on_every_rank(fail(None, None))))
print("result", attempt(lambda: parallel.on_every_rank(fail(None, LostFile("image.jpg: has gone")))))
print("result", attempt(lambda: parallel.on_every_rank(fail(LostFile("a"), UserError("b")))))
print("result", attempt(lambda: parallel.on_every_rank(fail(Stopped(15), None))))
print("result", attempt(lambda: check_same_flags(Config(seed=rank, save_dir=str(rank)))))
print("result", attempt(lambda: check_same_flags(Config(seed=1, save_dir=str(rank)))))
print("result", attempt(lambda: check_same_data(Config(valid_data_paths="data"), valid_data_paths="x" * (rank + 3))))

# Gradients of two clips of this rank, against those of all four here.
for model_name, recompute in product(("conv_lstm", "e3d_lstm"), (False, True)):
    paddle.seed(1)
    config = Config(img_width=8, patch_size=4, input_length=2, total_length=5, num_hidden="4,4", filter_size=3,
                    recompute=recompute, model_name=model_name)
    model = build_model(config)
    patches = paddle.to_tensor(np.random.default_rng(0).random([4, 5, 2, 2, 16], np.float32))
    flags = paddle.to_tensor(np.random.default_rng(1).random([4, 2]).round().astype("float32"))
    found = []
    for part in (slice(0, 4), slice(2 * rank, 2 * rank + 2)):
        loss = prediction_loss(model(patches[part], flags[part]), patches[part])
        loss.backward()
        value = float(loss)
        if part != slice(0, 4):
            parallel.all_reduce_gradients(model.parameters())
            value = parallel.mean(value)
        found.append((value, [parameter.grad.numpy() for parameter in model.parameters()]))
        for parameter in model.parameters():
            parameter.clear_gradient()
    (whole, gradients), (mean, averaged) = found
    np.testing.assert_allclose(mean, whole, rtol=1e-5)
    for one, other in zip(gradients, averaged):
        np.testing.assert_allclose(other, one, rtol=0, atol=2e-6 * np.abs(one).max())

for parameter in model.parameters():
    parameter.set_value(parameter + rank)
parallel.share_weights(model)
print("result", attempt(lambda: sum(float(parameter.sum()) for parameter in model.parameters())))
parallel.leave()
print("result done")
"""


def test_what_one_rank_finds_ends_all_of_them_and_gradients_are_averaged(tmp_path, start):
    (tmp_path / "program.py").write_text(ON_RANKS)
    end_of(start(None, "logs", program=[tmp_path / "program.py", ROOT]))
    logs = [rank_log(tmp_path, "logs", rank).splitlines() for rank in range(RANKS)]
    results = [[line[len("result ") :] for line in log if line.startswith("result ")] for log in logs]
    assert results[0] == results[1] and results[0][-1] == "done"
    made, wrong, gathered, gone, worse, stopped, flags, same, data, *_ = results[0]
    assert made == "{'made on': 0, 'array': array([0, 1, 2])}"
    assert wrong == "UserError: --flag x: is wrong"
    assert gathered == "[{'rank': 0}, {'rank': 1}]"
    assert gone == "LostFile: image.jpg: has gone (on rank 1)"
    assert worse == "UserError: b (on rank 1)"  # a lost file may not end a run, this does
    assert stopped == "Stopped: stopped by SIGTERM"
    assert flags == "UserError: rank 0 has --seed 0, rank 1 has --seed 1; give every machine the same flags"
    assert same == "None"
    assert data.startswith("UserError: --valid_data_paths data: rank 0 finds 3 clips there, rank 1 4;")
    assert [line for log in logs for line in log if line.startswith("own ")] == ["own 0", "own 1"]


# ---- parts of it, in this process


def of_rank(monkeypatch, rank, count=RANKS):
    monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(count))
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", str(count))


@pytest.mark.parametrize("count", [2, 3])
def test_the_parts_of_the_ranks_are_the_batch_of_one(kth_sample, tmp_path, monkeypatch, count):
    config = settings_for(
        kth_sample, tmp_path, batch_size=2, max_iterations=5, total_length=8, sampling_start_value=0.5
    )
    alone = dataclasses.replace(config, batch_size=2 * count)
    dataset = build_dataset(config, "train")
    whole = [batch.numpy() for batch in train_batches(alone, dataset)]
    draws = sampling_flags(alone, 3, 2 * count)
    parts, flags = [], []
    for rank in range(count):
        with monkeypatch.context() as context:
            of_rank(context, rank, count)
            parts.append([batch.numpy() for batch in train_batches(config, dataset)])
            flags.append(sampling_flags(config, 3, 2))
    for iteration in range(5):
        np.testing.assert_array_equal(np.concatenate([part[iteration] for part in parts]), whole[iteration])
    np.testing.assert_array_equal(np.concatenate(flags), draws)
    assert any((flags[0] != other).any() for other in flags[1:])


@pytest.mark.parametrize("clips", [1, 2, 3, 7, 9])
def test_every_clip_is_tested_by_one_rank(kth_sample, tmp_path, monkeypatch, clips):
    config = settings_for(kth_sample, tmp_path, batch_size=2)
    dataset = paddle.io.Subset(build_dataset(config, "train"), list(range(clips)))
    alone = [batch.numpy() for batch in test_batches(config, dataset)]
    dealt = []
    for rank in range(RANKS):
        with monkeypatch.context() as context:
            of_rank(context, rank)
            dealt.append([batch.numpy() for batch in test_batches(config, dataset)])
    assert sum(len(part) for part in dealt) == len(alone)
    for number, batch in enumerate(alone):
        np.testing.assert_array_equal(dealt[number % RANKS][number // RANKS], batch)


@pytest.mark.parametrize("left", ["1", "one"])
@pytest.mark.parametrize("count", [None, "2", "two"])
def test_numbers_left_in_the_environment_make_no_job_of_a_process_alone(monkeypatch, left, count):
    monkeypatch.setenv("PADDLE_TRAINER_ID", left)
    if count:
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", count)
    assert ranks.is_first() and ranks.world_size() == 1 and ranks.shard([1, 2]) == [1, 2]
    parallel.start("cpu")  # meets nobody
    assert parallel.all_gather("mine") == ["mine"]


def test_a_rank_has_the_card_that_the_launcher_gave_it(monkeypatch):
    assert parallel.own_device("gpu:1") == "gpu:1" and parallel.own_device("auto") == "auto"
    of_rank(monkeypatch, 1)
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", "2")
    assert parallel.own_device("auto") == "cpu" and parallel.own_device("cpu") == "cpu"
    with pytest.raises(UserError, match="--device gpu:1: is one card for 2 processes.*--gpus 0,1 runp.py"):
        parallel.own_device("gpu:1")
    monkeypatch.setenv("FLAGS_selected_gpus", "3")
    assert parallel.own_device("auto") == parallel.own_device("gpu") == "gpu:3"
    assert parallel.own_device("cpu") == "cpu"
    of_rank(monkeypatch, 0, count=1)  # a launcher with one card
    assert parallel.own_device("auto") == "gpu:3" and parallel.own_device("gpu:1") == "gpu:1"
