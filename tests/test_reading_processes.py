"""The processes that read frames (--num_workers): their end, their signals, and what happens when one is killed."""

import os
import subprocess
import sys
import time

import numpy as np
import paddle
import psutil
import pytest

from src import trainer
from src.checkpoints.checkpoint import read_checkpoint
from src.config import Config
from src.data_provider.loader import test_batches
from src.errors import UserError
from src.runtime.signals import SIGNALS
from tests.conftest import assert_same_weights, settings_for
from tests.helpers import LONGEST_WAIT, ROOT, at_iteration, log_of

pytestmark = pytest.mark.usefixtures("undrawn")


class Clips(paddle.io.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return np.full([6, 16, 16, 1], index, np.float32)


def workers():
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_a_reading_process_that_is_killed_is_started_again_and_the_run_is_the_same(kth_sample, tmp_path, monkeypatch):
    weights = []
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
        config = settings_for(kth_sample, tmp_path / name, max_iterations=12, num_workers=2)
        if name == "killed":
            at_iteration(monkeypatch, {3: lambda: workers()[0].kill()})
        trainer.train(config)
        weights.append(read_checkpoint("", f"{config.save_dir}/12").weights)
    assert "a process that reads frames was killed; starting it again" in log_of(config)
    assert_same_weights(*weights)


def test_reading_processes_that_are_killed_again_and_again_end_the_run_with_advice(kth_sample, tmp_path, monkeypatch):
    config = settings_for(kth_sample, tmp_path, max_iterations=50, num_workers=1, batch_size=1)
    monkeypatch.setattr("src.data_provider.loader._prepare_worker", lambda worker, parent: os.kill(os.getpid(), 9))
    with pytest.raises(UserError, match="--num_workers 1"):
        trainer.train(config)


def test_reading_processes_leave_the_signals_of_a_terminal_or_a_launcher_to_the_main_one(
    kth_sample, tmp_path, monkeypatch
):
    config = settings_for(kth_sample, tmp_path, max_iterations=12, num_workers=2)
    seen = []

    def send():
        seen.append(workers())
        for worker in seen[0] * 3:
            for number in SIGNALS:
                worker.send_signal(number)

    at_iteration(monkeypatch, {3: send, 12: lambda: seen.append(workers())})
    trainer.train(config)
    assert len(seen[0]) == 2 and seen[0] == seen[1] and "was killed" not in log_of(config)


@pytest.mark.parametrize("batches_read", [1, 8])
def test_the_processes_that_read_end_with_the_reading(batches_read, caplog):
    """Early, as at a signal and after the last iteration of a training, or after the last batch."""
    for _ in range(10):
        batches = test_batches(Config(num_workers=2, batch_size=1), Clips())
        assert [next(batches).numpy().max() for _ in range(batches_read)] == list(range(batches_read))
        assert len(workers()) == 2
        batches.close()
        assert not workers()
    assert not caplog.messages


LEFT_OPEN = """
import os, sys
import src, paddle, psutil
from src.config import Config
from src.data_provider.loader import test_batches
from tests.test_reading_processes import Clips
batches = test_batches(Config(num_workers=2, batch_size=1), Clips())
next(batches)
print(*(child.pid for child in psutil.Process().children()), flush=True)
"""


@pytest.mark.parametrize(("end", "status"), [("", 0), ("os.kill(os.getpid(), 9)", -9)])
def test_reading_processes_end_with_a_program_that_leaves_the_reading_open(end, status):
    command = [sys.executable, "-c", LEFT_OPEN + end]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LONGEST_WAIT)
    assert result.returncode == status
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2
    until = time.monotonic() + LONGEST_WAIT  # the system ends them soon, on a busy machine less so
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < until, "processes were left behind"
        time.sleep(0.05)
