"""What happens at night: kills, full and lost disks, damaged files, files from strangers."""

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import paddle
import psutil
import pytest

from scripts.make_sample_data import make_tree
from src import trainer
from src.checkpoints.checkpoint import checkpoints, load_weights, read_checkpoint
from src.config import Config
from src.data_provider.loader import test_batches
from src.errors import UserError
from src.models.model_factory import build_model
from src.step import prediction_loss
from src.utils.weight_average import WeightAverage
from tests.conftest import settings_for
from tests.helpers import LONGEST_WAIT, ROOT

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def log_of(config):
    return (Path(config.save_dir) / "train.log").read_text()


def at_iteration(monkeypatch, actions):
    """Run actions[n]() just before iteration n."""
    original = trainer.train_on_batch

    def step(config, iteration, *arguments):
        actions.get(iteration, lambda: None)()
        return original(config, iteration, *arguments)

    monkeypatch.setattr(trainer, "train_on_batch", step)


# ---- SIGKILL


KILLED_RUNS = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
import src
from src import trainer  # before the forks: loading paddle takes seconds
from src.config import Config
from src.checkpoints.checkpoint import checkpoints, read_checkpoint

rng = np.random.default_rng(0)
flags = eval(sys.argv[2])
save_dir = flags["save_dir"]
reached, killed, rounds = 0, 0, 0
while killed < int(sys.argv[3]):
    rounds += 1
    assert rounds < 100, "the runs end by themselves"
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, "w")
        try:
            trainer.train(Config(**flags))
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\\n".encode())
            os._exit(1)
        os._exit(0)
    # Half of the kills anywhere, start-up included; half after the run has gone on by some iterations.
    if rounds % 2:
        while max(checkpoints(save_dir), default=0) <= reached and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.6))
    try:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    except (ProcessLookupError, ChildProcessError):
        raise SystemExit("a run ended by itself")
    assert os.WIFSIGNALED(status), "a run ended by itself"
    killed += 1
    for iteration in checkpoints(save_dir):
        found = read_checkpoint("listed", os.path.join(save_dir, str(iteration)))
        assert found.state["iteration"] == iteration
    newest = max(checkpoints(save_dir), default=0)
    assert newest >= reached, (newest, reached)
    reached = newest
print(killed, reached)
"""


def is_alive_with(process, argument):
    try:
        return argument in " ".join(process.cmdline())
    except psutil.Error:  # a zombie, or gone
        return False


def test_after_a_kill_at_any_moment_every_listed_checkpoint_is_whole_and_the_run_goes_on(kth_sample, tmp_path):
    config = settings_for(
        kth_sample,
        tmp_path,
        max_iterations=100000,
        snapshot_interval=1,
        test_interval=5,
        optimizer="adam",
        resume="newest",
        keep_checkpoints=3,
        num_workers=2,
        test_max_clips=2,
    )
    flags = repr(dataclasses.asdict(config))
    result = subprocess.run(
        [sys.executable, "-c", KILLED_RUNS, str(ROOT), flags, "12"],
        capture_output=True,
        text=True,
        timeout=2 * LONGEST_WAIT,
    )
    assert result.returncode == 0, result.stderr
    killed, reached = map(int, result.stdout.split())
    assert killed == 12 and reached >= 6  # every other run was left alone until it had gone on
    until = time.monotonic() + LONGEST_WAIT
    while [process for process in psutil.process_iter() if is_alive_with(process, str(tmp_path))]:
        assert time.monotonic() < until, "processes were left behind"
        time.sleep(0.1)
    last = dataclasses.replace(config, max_iterations=reached + 1)
    trainer.train(last)
    assert checkpoints(config.save_dir)[-1] == reached + 1
    assert f"going on from {config.save_dir}/{reached}" in log_of(config)
    assert not [name for name in os.listdir(config.save_dir) if "partial" in name or "previous" in name]


def test_a_kill_between_the_renames_of_the_best_checkpoint_loses_neither(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=1, test_interval=1)
    trainer.train(config)
    best = tmp_path / "ck" / "best"
    best.rename(f"{best}.previous")
    shutil.copytree(f"{best}.previous", f"{best}.partial")
    trainer.train(dataclasses.replace(config, resume="newest"))
    assert read_checkpoint("", str(best)).state["iteration"] == 1
    assert not [name for name in os.listdir(config.save_dir) if name.startswith("best.")]


# ---- the disk


@contextlib.contextmanager
def no_file_above(size):
    """A limit of the kernel: writing past it fails as a full disk does, at a byte in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_for_a_while_costs_snapshots_but_not_the_run(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=8, snapshot_interval=2, test_interval=4)
    limit = contextlib.ExitStack()
    at_iteration(monkeypatch, {3: lambda: limit.enter_context(no_file_above(20000)), 7: limit.close})
    with limit:
        trainer.train(config)
    assert checkpoints(config.save_dir) == [2, 8]
    log = log_of(config)
    for iteration in (4, 6):
        assert f"checkpoint {iteration} cannot be written (File too large)" in log
    assert log.count("the training goes on") >= 2 and "iteration 8/8, loss " in log
    assert not [name for name in os.listdir(config.save_dir) if "partial" in name]
    load_weights(build_model(config), f"{config.save_dir}/8", config)


def test_a_disk_that_stays_full_ends_the_run_with_one_line_and_the_older_checkpoints(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=5, snapshot_interval=2)
    limit = contextlib.ExitStack()
    at_iteration(monkeypatch, {3: lambda: limit.enter_context(no_file_above(20000))})
    message = "--save_dir .*checkpoint 5 cannot be written .File too large.; make room"
    with limit, pytest.raises(UserError, match=message):
        trainer.train(config)
    assert checkpoints(config.save_dir) == [2]
    monkeypatch.undo()
    trainer.train(dataclasses.replace(config, resume="newest"))
    assert checkpoints(config.save_dir) == [2, 4, 5]


@contextlib.contextmanager
def permissions_that_count():
    """Root writes where it has no permission; without the capability to do so it is refused like any user."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    before, after = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    if libc.capget(header, before):
        pytest.skip("capabilities cannot be read")
    libc.capget(header, after)
    after[0] &= ~(1 << 1 | 1 << 2)  # effective: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    if libc.capset(header, after):
        pytest.skip("capabilities cannot be dropped")
    try:
        yield
    finally:
        libc.capset(header, before)


def test_a_save_dir_that_becomes_read_only_for_a_while_costs_snapshots_but_not_the_run(
    kth_sample, tmp_path, monkeypatch
):
    config = settings_for(kth_sample, tmp_path, max_iterations=8, snapshot_interval=2, test_interval=4)
    folders = [Path(config.save_dir), Path(config.gen_frm_dir)]
    folders[1].mkdir()

    def allow(mode):
        for folder in folders:
            folder.chmod(mode)

    at_iteration(monkeypatch, {3: lambda: allow(0o555), 7: lambda: allow(0o755)})
    with permissions_that_count():
        trainer.train(config)
    assert checkpoints(config.save_dir) == [2, 8]
    log = log_of(config)
    assert "checkpoint 4 cannot be written (Permission denied)" in log
    assert "results/4" in log and "iteration 8/8, loss " in log
    assert [line for line in (tmp_path / "ck" / "metrics.csv").read_text().splitlines()[1:]]


def test_a_best_checkpoint_that_could_not_be_written_leaves_its_place_to_the_next(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=3, test_interval=1)
    limit = contextlib.ExitStack()
    at_iteration(monkeypatch, {1: lambda: limit.enter_context(no_file_above(20000)), 3: limit.close})
    with limit:
        trainer.train(config)
    third = json.loads((tmp_path / "results" / "3" / "metrics.json").read_text())["model"]["psnr"]
    assert "the best checkpoint cannot be written" in log_of(config)
    best = read_checkpoint("", f"{config.save_dir}/best").state["best"]
    assert best == read_checkpoint("", f"{config.save_dir}/3").state["best"] and best["psnr"] == third


def test_a_file_system_that_cannot_flush_directories_holds_checkpoints(kth_sample, tmp_path, monkeypatch):
    flush = os.fsync

    def refuse_directories(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    config = settings_for(kth_sample, tmp_path, max_iterations=1)
    trainer.train(config)
    assert checkpoints(config.save_dir) == [1]


def test_what_cannot_be_read_for_want_of_permission_is_not_taken_for_damaged(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=2, snapshot_interval=1)
    trainer.train(config)
    again = dataclasses.replace(config, resume="newest", max_iterations=3)
    folder = tmp_path / "ck" / "2"
    with permissions_that_count():
        for path in (folder / "model.safetensors", folder / "state.json", folder, tmp_path / "ck"):
            mode = path.stat().st_mode
            path.chmod(0o300 if path == tmp_path / "ck" else 0)
            with pytest.raises(UserError, match="cannot be read .Permission denied|no such directory"):
                trainer.train(again)
            path.chmod(mode)
    assert checkpoints(config.save_dir) == [1, 2] and not (tmp_path / "ck" / "2.damaged-1").exists()


# ---- damaged checkpoints


def cut(path):
    os.truncate(path, os.path.getsize(path) // 2)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut, flip_a_byte, os.remove])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(kth_sample, tmp_path, damage, name):
    if name == "state.json" and damage is flip_a_byte:
        pytest.skip("a flipped bit may leave valid JSON: see the test below")
    config = settings_for(kth_sample, tmp_path, max_iterations=3, snapshot_interval=1, optimizer="adam")
    trainer.train(config)
    whole = read_checkpoint("", f"{config.save_dir}/3")
    damage(tmp_path / "ck" / "3" / name)
    trainer.train(dataclasses.replace(config, resume="newest"))
    log = log_of(config)
    assert f"{config.save_dir}/3: {name} is " in log or f"{config.save_dir}/3: no {name} in it" in log
    assert f"going on from {config.save_dir}/2" in log
    assert sorted(os.listdir(config.save_dir))[:4] == ["1", "2", "3", "3.damaged-1"]
    again = read_checkpoint("", f"{config.save_dir}/3")
    for key, array in whole.weights.items():
        np.testing.assert_array_equal(again.weights[key], array)


def test_when_every_checkpoint_is_damaged_nothing_is_touched(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=2, snapshot_interval=1)
    trainer.train(config)
    for iteration in (1, 2):
        cut(tmp_path / "ck" / str(iteration) / "model.safetensors")
    with pytest.raises(UserError, match="--resume: no checkpoint in --save_dir .* is whole .tried .*ck/2, .*ck/1"):
        trainer.train(dataclasses.replace(config, resume="newest"))
    assert checkpoints(config.save_dir) == [1, 2]


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_place_of_a_file_runs_no_code(kth_sample, tmp_path, name):
    config = settings_for(kth_sample, tmp_path, max_iterations=1, optimizer="adam")
    trainer.train(config)
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Payload(trap)))
    assert trap.exists()  # the trap works
    trap.unlink()
    folder = tmp_path / "ck" / "1"
    state = json.loads((folder / "state.json").read_text())
    (folder / name).write_bytes(pickle.dumps(Payload(trap)))
    # With its checksum in order, as one who means harm would leave it.
    if name != "state.json":
        state["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read_checkpoint("--resume", str(folder))
    with pytest.raises(UserError, match="no checkpoint in --save_dir .* is whole"):
        trainer.train(dataclasses.replace(config, resume="newest", max_iterations=2))
    if name != "optimizer.safetensors":  # weights alone are read from these two
        with pytest.raises(UserError, match=f"{name} is damaged"):
            load_weights(build_model(config), str(folder), config)
    assert not trap.exists()


# ---- errors that are no user's mistake


def fail_in_iteration_4(monkeypatch, where):
    """An error of iteration 4, in its backward pass, or when some of its weights have been changed."""

    def fail():
        raise MemoryError("Fail to alloc memory of 1 size")

    if where == "gradients":
        at_iteration(monkeypatch, {4: fail})
        return
    build, calls = trainer.build_optimizer, []

    def build_failing(config, schedule, parameters):
        optimizer = build(config, schedule, parameters)
        step = optimizer.step

        def half_a_step():
            step()
            calls.append(1)
            if len(calls) == (7 if config.reverse_input else 4):
                raise RuntimeError("an error of a kernel")

        monkeypatch.setattr(optimizer, "step", half_a_step)
        return optimizer

    monkeypatch.setattr(trainer, "build_optimizer", build_failing)


def test_an_error_of_any_kind_leaves_a_checkpoint_of_the_last_whole_iteration(kth_sample, tmp_path, monkeypatch):
    settings = {"optimizer": "adam", "ema": 0.9, "precision": "fp16"}
    undisturbed = settings_for(kth_sample, tmp_path, **settings)
    trainer.train(undisturbed)
    (tmp_path / "other").mkdir()
    config = settings_for(kth_sample, tmp_path / "other", max_iterations=8, **settings)
    fail_in_iteration_4(monkeypatch, "gradients")
    with pytest.raises(MemoryError, match="Fail to alloc"):
        trainer.train(config)
    assert checkpoints(config.save_dir) == [3]
    one, two = (read_checkpoint("", f"{folder}/3") for folder in (undisturbed.save_dir, config.save_dir))
    for expected, found in (one.weights, two.weights), (one.optimizer, two.optimizer), (one.average, two.average):
        for name, array in expected.items():
            np.testing.assert_array_equal(array, found[name], err_msg=name)
    assert one.state["loss_scale"] == two.state["loss_scale"]


@pytest.mark.parametrize("reverse_input", [False, True])
def test_an_error_in_the_update_of_the_weights_saves_no_half_changed_ones(
    kth_sample, tmp_path, monkeypatch, reverse_input
):
    config = settings_for(kth_sample, tmp_path, max_iterations=8, snapshot_interval=2, reverse_input=reverse_input)
    fail_in_iteration_4(monkeypatch, "update")
    with pytest.raises(RuntimeError, match="an error of a kernel"):
        trainer.train(config)
    assert checkpoints(config.save_dir) == [2]
    assert "no checkpoint of iteration 3: the error came while weights were changed" in log_of(config)


def test_an_average_that_is_in_the_place_of_the_weights_is_not_saved_for_them(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=8, test_interval=2, ema=0.9)
    give, calls = WeightAverage._give, []

    def fail_to_give_back(average, weights):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        give(average, weights)

    monkeypatch.setattr(WeightAverage, "_give", fail_to_give_back)
    with pytest.raises(MemoryError):
        trainer.train(config)
    assert checkpoints(config.save_dir) == []
    assert "no checkpoint of iteration 2: the error came while weights were changed" in log_of(config)


def test_a_checkpoint_that_cannot_be_written_after_an_error_does_not_hide_it(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=8)
    fail_in_iteration_4(monkeypatch, "gradients")
    with no_file_above(20000), pytest.raises(MemoryError, match="Fail to alloc"):
        trainer.train(config)
    assert "no checkpoint of iteration 3: --save_dir" in log_of(config)


OUT_OF_MEMORY = """
import resource, sys
import runp
from src import trainer  # loads Paddle, which takes address space too
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 250 * 2**20, resource.RLIM_INFINITY))
for arguments in eval(sys.argv[1]):
    print(runp.main(arguments))
"""


def test_out_of_memory_is_one_line_with_what_to_lower(kth_sample, tmp_path):
    config = settings_for(kth_sample, tmp_path, max_iterations=1)
    trainer.train(config)
    (tmp_path / "new").mkdir()
    small = {**dataclasses.asdict(settings_for(kth_sample, tmp_path / "new")), "batch_size": 1}
    film = next(Path(kth_sample).glob("boxing/person01*"))
    forecast = {"predict_video": film, "pretrained_model": f"{config.save_dir}/1"}
    cases = [
        ({"num_hidden": "100000,100000"}, "lower one of --img_width 16, --total_length 6, --num_hidden 100000,"),
        ({"img_width": 512, "batch_size": 2}, "lower one of --batch_size 2, --img_width 512"),
        ({"img_width": 1024, **forecast}, "lower one of --img_width 1024, --total_length 6, --num_hidden 4,4\n"),
    ]
    arguments = [[f"--{name}={value}" for name, value in {**small, **case}.items()] for case, _ in cases]
    result = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, repr(arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    lines = result.stderr.splitlines(keepends=True)
    assert len(lines) == len(cases) and result.stdout.split("\n").count("2") == len(cases), result.stderr
    for line, (_, advice) in zip(lines, cases, strict=True):
        assert re.match(r"runp.py: out of memory \((Fail to alloc memory of|Unable to allocate) [\d.]+ \w+\); ", line)
        assert advice in line


def test_memory_that_is_short_where_clips_are_read_is_no_other_error():
    class Clips(paddle.io.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise MemoryError("Unable to allocate 1.00 TiB")

    with pytest.raises(MemoryError, match="Unable to allocate"):
        next(test_batches(Config(), Clips()))


# ---- signals


class AskTwice(paddle.autograd.PyLayer):
    """The identity; its backward pass is stopped twice, as by an impatient user's Ctrl-C."""

    @staticmethod
    def forward(context, x):
        return x * 1

    @staticmethod
    def backward(context, gradient):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        return gradient


def test_a_second_ctrl_c_in_a_backward_pass_is_no_error_of_paddle(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=8)
    original, calls = prediction_loss, []

    def loss(*arguments):
        calls.append(1)
        return AskTwice.apply(original(*arguments)) if len(calls) == 3 else original(*arguments)

    monkeypatch.setattr("src.step.prediction_loss", loss)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config)
    assert checkpoints(config.save_dir) == []  # at once


# ---- data


@pytest.fixture
def data(tmp_path):
    """Train: 5 clips of one recording; test: 5 of another."""
    make_tree(tmp_path / "data", ["01", "17"], ["boxing"], frames=30, size=(32, 32), seed=0, scenarios=1)
    return tmp_path / "data"


def spoil(path, how):
    time.sleep(0.02)  # the file system's clock ticks every few milliseconds
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(("how", "num_workers"), [("gone", 0), ("broken", 2)])
def test_an_image_lost_during_a_run_is_told_once_and_another_clip_takes_its_place(
    data, tmp_path, monkeypatch, how, num_workers
):
    config = settings_for(data, tmp_path, batch_size=1, max_iterations=20, num_workers=num_workers, test_interval=10)
    image = next(data.glob("boxing/person01*/image_0015.jpg"))
    at_iteration(monkeypatch, {2: lambda: spoil(image, how)})
    trainer.train(config)
    log = log_of(config)
    assert log.count(f"lost: {image}: cannot be read") == 1 and "another clip takes its place" in log
    assert checkpoints(config.save_dir) == [20] and "iteration 20/20, loss " in log


def test_a_test_whose_image_is_lost_is_left_out_and_the_training_goes_on(data, tmp_path, monkeypatch):
    config = settings_for(data, tmp_path, batch_size=1, max_iterations=5, test_interval=2)
    image = next(data.glob("boxing/person17*/image_0015.jpg"))
    at_iteration(monkeypatch, {3: lambda: spoil(image, "gone")})
    trainer.train(config)
    assert "no test after iteration 4, as every one of its clips is needed:" in log_of(config)
    assert checkpoints(config.save_dir) == [5]
    assert (tmp_path / "results" / "2" / "metrics.json").exists()
    assert not (tmp_path / "results" / "4" / "metrics.json").exists()


def test_a_data_set_that_is_gone_ends_the_run_with_a_checkpoint(data, tmp_path, monkeypatch):
    config = settings_for(data, tmp_path, batch_size=1, max_iterations=50, num_workers=2)
    at_iteration(monkeypatch, {4: lambda: shutil.rmtree(data)})
    with pytest.raises(UserError, match=r"image_\d+.jpg: cannot be read .No such file"):
        trainer.train(config)
    assert len(checkpoints(config.save_dir)) == 1


# ---- numbers


@pytest.mark.parametrize("where", ["loss", "weights"])
def test_numbers_that_are_not_finite_end_the_run_before_they_are_saved(kth_sample, tmp_path, monkeypatch, where):
    config = settings_for(kth_sample, tmp_path, max_iterations=9, snapshot_interval=2)
    original = prediction_loss
    if where == "loss":
        calls = []

        def loss(predictions, patches, l1_weight):
            calls.append(1)
            return original(predictions, patches, l1_weight) * (float("nan") if len(calls) == 6 else 1.0)

        monkeypatch.setattr("src.step.prediction_loss", loss)
        found = "the loss of iteration 6 is nan"
    else:
        step = trainer.train_on_batch

        def ruining_step(config, iteration, model, *arguments):
            loss = step(config, iteration, model, *arguments)
            if iteration == 6:
                model.decoder.bias.set_value(model.decoder.bias * float("inf"))
            return loss

        monkeypatch.setattr(trainer, "train_on_batch", ruining_step)
        found = "after iteration 6 decoder.bias is not finite"
    with pytest.raises(UserError, match=f"({found}).*go on from .*ck/4 with --resume"):
        trainer.train(config)
    assert checkpoints(config.save_dir) == [2, 4]
    monkeypatch.undo()
    trainer.train(dataclasses.replace(config, resume="newest", lr=1e-4, max_iterations=6))
    assert checkpoints(config.save_dir) == [2, 4, 6]


def test_the_limit_on_file_size_is_the_kernels():
    with tempfile.NamedTemporaryFile() as file, no_file_above(1000), pytest.raises(OSError):
        file.write(b"x" * 5000)
        file.flush()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x" * 5000)
        file.flush()
