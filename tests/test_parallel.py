"""Data parallel training on CPUs by Paddle's launcher: N ranks do what one does, and what ends one ends all."""

import csv
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

from src import evaluator, trainer
from src.checkpoints.checkpoint import checkpoints, read_checkpoint
from src.config import Config
from src.data_provider.datasets_factory import build_dataset
from src.data_provider.loader import test_batches, train_batches
from src.errors import UserError
from src.runtime import parallel, ranks
from src.runtime.process_env import usable_cores
from src.utils.metrics import BASELINES
from src.utils.scheduled_sampling import sampling_flags
from tests.conftest import relative_l2, settings_for
from tests.helpers import ROOT, assert_same_checkpoint

RANKS = 2
TIME_LIMIT = 300  # seconds, for machines that are busy with other work


@pytest.fixture
def start(tmp_path):
    """Start a job: ``start(config, name)``, or of another program; its logs go to <tmp_path>/<name>."""
    jobs = []

    def start(config, name, *launcher_flags, program=None):
        flags = launcher_flags or ("--nproc_per_node", str(RANKS))
        program = program or [ROOT / "runp.py", *flags_of(config)]
        command = [sys.executable, "-m", "paddle.distributed.launch", *flags, "--log_dir", tmp_path / name, *program]
        # Ranks share the cores as users' do, whatever the tests themselves were given.
        environment = {key: value for key, value in os.environ.items() if key not in ("MKL_NUM_THREADS",)}
        job = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.kill()  # its ranks end with it
        job.communicate()


def flags_of(config):
    return [
        part
        for flag in dataclasses.fields(Config)
        for part in (f"--{flag.name}", str(getattr(config, flag.name)))
        if flag.name != "resume"
    ] + (["--resume"] if config.resume else [])


def end_of(job, status=0):
    output, _ = job.communicate(timeout=TIME_LIMIT)
    assert job.returncode == status, output
    return output


def log_of(tmp_path, name, rank):
    return (tmp_path / name / f"workerlog.{rank}").read_text()


def wait_for(job, tmp_path, name, text):
    """Wait until rank 0 of a job has said so."""
    path = tmp_path / name / "workerlog.0"
    until = time.monotonic() + TIME_LIMIT
    while time.monotonic() < until and job.poll() is None:
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {text!r} in {path.read_text()}")


def rows_of(config, name):
    with open(os.path.join(config.save_dir, name), newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def folders(kth_sample, tmp_path, name, **settings):
    (tmp_path / name).mkdir()
    common = {
        "batch_size": 2,
        "max_iterations": 12,
        "snapshot_interval": 5,
        "test_interval": 4,
        "test_max_clips": 7,
        "sampling_start_value": 0.6,
        "sampling_changing_rate": 0.01,
        "grad_clip": 5.0,
        "num_save_samples": 3,
    }
    return settings_for(kth_sample, tmp_path / name, **{**common, **settings})


@pytest.mark.usefixtures("undrawn")
def test_two_ranks_are_one_with_twice_the_batch_and_a_stopped_job_goes_on_exactly(kth_sample, tmp_path, start):
    """One process with 4 clips; two launchers with a rank of 2 clips each, as on two machines; a launcher with two
    ranks that is sent a SIGTERM, and goes on."""
    alone = folders(kth_sample, tmp_path, "alone", batch_size=4)
    trainer.train(alone)

    job = folders(kth_sample, tmp_path, "job", num_workers=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{free.getsockname()[1]}"
    machines = [
        start(job, f"machine{number}", "--master", master, "--nnodes", 2, "--rank", number, "--nproc_per_node", 1)
        for number in range(2)
    ]
    for machine in machines:
        end_of(machine)
    assert "training on 2 processes (cpu)" in log_of(tmp_path, "machine0", 0)
    assert "iteration" not in log_of(tmp_path, "machine1", 0)  # rank 0 alone prints

    assert checkpoints(job.save_dir) == [5, 10, 12]
    for iteration in (5, 12):
        one, two = (read_checkpoint("", f"{config.save_dir}/{iteration}") for config in (alone, job))
        for name, array in one.weights.items():
            np.testing.assert_allclose(two.weights[name], array, rtol=0, atol=1e-6, err_msg=name)
    for first, second in zip(rows_of(alone, "losses.csv"), rows_of(job, "losses.csv"), strict=True):
        assert {key: float(second[key]) for key in first} == pytest.approx(
            {key: float(value) for key, value in first.items()}, rel=1e-5
        )

    stopped = folders(kth_sample, tmp_path, "stopped", num_workers=2, resume="newest")
    launcher = start(stopped, "first_start")
    wait_for(launcher, tmp_path, "first_start", "iteration 2/12")
    launcher.send_signal(signal.SIGTERM)
    end_of(launcher, signal.SIGTERM)  # the launcher's own way to say so
    (iteration,) = checkpoints(stopped.save_dir)
    assert 2 <= iteration < 12, "it was to be stopped on its way"
    read_checkpoint("", f"{stopped.save_dir}/{iteration}")  # whole
    assert "runp.py: stopped by SIGTERM" in log_of(tmp_path, "first_start", 0)
    end_of(start(stopped, "second_start"))
    assert "going on from" in log_of(tmp_path, "second_start", 0)
    assert_same_checkpoint(f"{job.save_dir}/12", f"{stopped.save_dir}/12")
    assert rows_of(job, "losses.csv") == rows_of(stopped, "losses.csv")
    assert rows_of(job, "metrics.csv") == rows_of(stopped, "metrics.csv")


@pytest.mark.usefixtures("undrawn")
def test_two_ranks_with_the_recipe_are_one_with_twice_the_batch(kth_sample, tmp_path, start):
    """Without norms, with Adam, the mean of the clips at the start, an average of the weights."""
    recipe = {
        "layer_norm": False,
        "optimizer": "adam",
        "weight_decay": 0,
        "start_at_mean": True,
        "ema": 0.9,
        "l1_weight": 0.3,
        "l1_from": 3,
        "lr_schedule": "cosine:1e-3:4:1",
        "max_iterations": 4,
    }
    alone = folders(kth_sample, tmp_path, "alone", batch_size=4, **recipe)
    trainer.train(alone)
    job = folders(kth_sample, tmp_path, "job", **recipe)
    end_of(start(job, "logs"))
    one, two = (read_checkpoint("", f"{config.save_dir}/4") for config in (alone, job))
    for arrays, others in ((one.weights, two.weights), (one.average, two.average)):
        assert arrays.keys() == others.keys() and arrays
        for name, array in arrays.items():
            # Adam divides by the size of a gradient: one that is nothing but rounding moves a weight by a whole step.
            assert relative_l2(others[name], array) < 1e-3, name
    figures = [[float(row["psnr"]) for row in rows_of(config, "metrics.csv")] for config in (alone, job)]
    assert len(figures[0]) == 1 and figures[0] == pytest.approx(figures[1], abs=0.01)


def test_a_test_by_two_ranks_takes_every_clip_once(kth_sample, tmp_path, start):
    """7 clips in batches of 2: four batches for two ranks, the last with one clip."""
    config = folders(kth_sample, tmp_path, "run", max_iterations=1, test_max_clips=7, model_name="conv_lstm")
    trainer.train(config)
    weights = f"{config.save_dir}/1"
    root = small_set(kth_sample, tmp_path, 7)
    figures, pictures = [], []
    for name in ("alone", "job"):
        results = tmp_path / f"results_{name}"
        testing = dataclasses.replace(
            config, is_training=False, pretrained_model=weights, gen_frm_dir=str(results), valid_data_paths=str(root)
        )
        if name == "job":
            output = end_of(start(testing, "testing"))
            assert "test of 7 clips" in output and log_of(tmp_path, "testing", 1).count("test of") == 0
        else:
            evaluator.test(testing)
        figures.append(json.loads((results / "test_result" / "metrics.json").read_text()))
        found = sorted(results.rglob("*.png"))
        pictures.append({path.relative_to(results): path.read_bytes() for path in found})
    alone, job = figures
    assert alone["sequences"] == job["sequences"] == 7
    for forecast in ("model", *BASELINES):
        assert flat(job[forecast]) == pytest.approx(flat(alone[forecast]), rel=1e-6)
        for action, of_action in alone["actions"].items():
            assert job["actions"][action]["sequences"] == of_action["sequences"]
            assert flat(job["actions"][action][forecast]) == pytest.approx(flat(of_action[forecast]), rel=1e-6)
    assert list(job["actions"]) == list(alone["actions"]) == ["boxing", "running"]
    assert {str(path.parent) for path in pictures[0]} == {"test_result", *(f"test_result/{n}" for n in (1, 2, 3))}
    assert pictures[0].keys() == pictures[1].keys()
    samples = [path for path in pictures[0] if path.name.startswith(("gt", "pd"))]
    assert len(samples) == 3 * 9 and all(pictures[0][path] == pictures[1][path] for path in samples)


def small_set(kth_sample, tmp_path, clips):
    """The test person's recordings, cut so that they have just so many clips of 6 frames."""
    root = tmp_path / "small"
    for action in os.listdir(kth_sample):
        for recording in os.listdir(kth_sample / action):
            (root / action / recording).mkdir(parents=True)
            for image in os.listdir(kth_sample / action / recording):
                os.link(kth_sample / action / recording / image, root / action / recording / image)
    config = settings_for(root, tmp_path)
    for image in sorted((root / "running").glob("person17*/*.jpg")):
        if len(build_dataset(config, "test")) <= clips:
            break
        image.unlink()
    assert len(build_dataset(config, "test")) == clips
    return root


def flat(figures):
    return [number for name in sorted(figures) for number in np.atleast_1d(figures[name]).astype(float)]


def test_the_death_of_a_rank_ends_the_job_with_its_reason_and_a_checkpoint(kth_sample, tmp_path, start):
    config = folders(kth_sample, tmp_path, "run", max_iterations=10**6, snapshot_interval=10**6, test_interval=10**6)
    launcher = start(config, "logs")
    wait_for(launcher, tmp_path, "logs", "iteration 3/")
    (victim,) = (process for process in processes_of(tmp_path / "logs") if process.rank == "1")
    os.kill(victim.number, signal.SIGKILL)
    output, _ = launcher.communicate(timeout=TIME_LIMIT)
    assert launcher.returncode not in (0, signal.SIGTERM)
    assert "Container rank 1 status failed" in output and "code -9" in output
    (iteration,) = checkpoints(config.save_dir)
    read_checkpoint("", f"{config.save_dir}/{iteration}")
    assert iteration >= 3 and not processes_of(tmp_path / "logs")
    last = rows_of(config, "losses.csv")[-1]["iteration"]
    assert int(last) == iteration  # nothing that was logged is lost

    # One process takes it over with the same clips an iteration; another number of clips is refused.
    again = dataclasses.replace(config, resume="newest", max_iterations=iteration + 1)
    with pytest.raises(UserError, match="on each of 2 processes, 4 clips an iteration.*give --batch_size 4 to go on"):
        trainer.train(again)
    trainer.train(dataclasses.replace(again, batch_size=4))
    log = (Path(config.save_dir) / "train.log").read_text()
    assert "was made by 2 processes and goes on with 1: an iteration has the same 4 clips" in log
    assert checkpoints(config.save_dir) == [iteration, iteration + 1]


@dataclasses.dataclass
class Rank:
    number: int
    rank: str


def processes_of(logs):
    """The ranks whose launcher writes to ``logs``; not the processes that read for them."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            variables = dict(
                entry.split("=", 1) for entry in (folder / "environ").read_text().split("\0") if "=" in entry
            )
        except (OSError, UnicodeDecodeError):
            continue
        if variables.get("PADDLE_LOG_DIR") == str(logs):
            found.append(Rank(int(folder.name), variables["PADDLE_TRAINER_ID"]))
    return found


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
    logs = [log_of(tmp_path, "logs", rank).splitlines() for rank in range(RANKS)]
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


def test_ranks_share_the_cores_and_the_user_has_the_last_word():
    code = "import src, os; print(os.environ.get('MKL_NUM_THREADS'))"
    cores = usable_cores()
    launched = {"PADDLE_LOCAL_SIZE": "2", "PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0", "OMP_NUM_THREADS": "1"}
    for variables, expected in [
        ({}, str(cores)),
        (launched, str(max(1, cores // 2))),
        ({"OMP_NUM_THREADS": "1"}, "None"),
        ({**launched, "MKL_NUM_THREADS": "3"}, "3"),
        ({**launched, "OMP_NUM_THREADS": "4"}, "None"),
        ({**launched, "PADDLE_LOCAL_SIZE": "1000"}, "1"),
    ]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("PADDLE_") and key not in ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
        }
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**kept, **variables}, capture_output=True, text=True
        )
        assert result.stdout.strip() == expected, variables
