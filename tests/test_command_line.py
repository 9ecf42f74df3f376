"""runp.py as a user calls it: a process of its own, or its main() for the many ways to be wrong."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tqdm import tqdm

import runp
from scripts.make_sample_data import make_tree
from src.checkpoints.checkpoint import checkpoints
from src.config import Config
from tests.helpers import LONGEST_WAIT, ROOT

# The two commands that scripts of other projects and old notes contain, flag for flag.
TRAIN_COMMAND = """--num_save_samples 10 --train_data_paths DATA --is_training True --dataset_name action
 --valid_data_paths DATA --save_dir checkpoints/_kth_e3d_lstm --gen_frm_dir results/_kth_e3d_lstm
 --model_name e3d_lstm --pretrained_model CKPT/50500 --allow_gpu_growth True --img_channel 1 --img_width 128
 --input_length 10 --total_length 30 --filter_size 5 --num_hidden 64,64,64,64 --patch_size 8 --layer_norm True
 --reverse_input False --sampling_stop_iter 50000 --sampling_start_value 1.0 --lr 0.000001 --batch_size 4
 --max_iterations 400000 --display_interval 1 --test_interval 500 --snapshot_interval 500"""
TEST_COMMAND = """--num_save_samples 10 --train_data_paths DATA --is_training False --dataset_name action
 --valid_data_paths DATA --gen_frm_dir results/_kth_e3d_lstm --model_name e3d_lstm --pretrained_model CKPT/50500
 --allow_gpu_growth True --img_channel 1 --img_width 128 --input_length 10 --total_length 30 --filter_size 5
 --num_hidden 64,64,64,64 --patch_size 8 --layer_norm True --reverse_input False --sampling_stop_iter 50000
 --sampling_start_value 1.0 --lr 0.000002 --batch_size 4 --max_iterations 400000 --display_interval 1
 --test_interval 500 --snapshot_interval 500"""
FILES = ("model.safetensors", "state.json")
SMALL_SIZES = {
    "--img_width": "16",
    "--patch_size": "4",
    "--num_hidden": "4,4",
    "--input_length": "3",
    "--total_length": "6",
    "--filter_size": "3",
    "--max_iterations": "2",
    "--batch_size": "2",
}


@pytest.fixture(scope="module")
def kth_sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    make_tree(root, ["01", "17"], ["handwaving"], frames=21, size=(48, 36), seed=3, scenarios=1)
    return root


def arguments_of(command, data, checkpoint, **changes):
    paths = {"DATA": str(data), "CKPT/50500": str(checkpoint)}
    arguments = [paths.get(word, word) for word in command.split()]
    for flag, value in {**SMALL_SIZES, **{f"--{name}": str(value) for name, value in changes.items()}}.items():
        if flag in arguments:
            arguments[arguments.index(flag) + 1] = value
        else:
            arguments += [flag, value]
    return arguments


def run(arguments, folder, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "runp.py"), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=LONGEST_WAIT,
    )


def assert_one_line(capfd, *parts):
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in parts), error


@pytest.fixture(scope="module")
def trained(kth_sample, tmp_path_factory):
    """A folder with a checkpoint of two iterations in checkpoints/first/2."""
    folder = tmp_path_factory.mktemp("trained")
    paths = {"save_dir": folder / "checkpoints" / "first", "gen_frm_dir": folder / "first results"}
    assert runp.main(arguments_of(TRAIN_COMMAND, kth_sample, "", num_workers=0, **paths)) == 0
    return folder


def test_the_two_commands_of_old_scripts_train_and_test(kth_sample, trained):
    checkpoint = trained / "checkpoints" / "first" / "2"
    result = run(arguments_of(TRAIN_COMMAND, kth_sample, checkpoint), trained)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "iteration 2/2, loss " in result.stdout
    assert checkpoints(str(trained / "checkpoints" / "_kth_e3d_lstm")) == [2]

    result = run(arguments_of(TEST_COMMAND, kth_sample, trained / "checkpoints" / "_kth_e3d_lstm" / "2"), trained)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    folder = trained / "results" / "_kth_e3d_lstm" / "test_result"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["sequences"] == 3 and len(metrics["model"]["psnr_per_frame"]) == 3
    assert (folder / "1" / "gt01.png").is_file() and (folder / "1" / "pd06.png").is_file()
    assert "  all |" in result.stdout and str(Path("results/_kth_e3d_lstm/test_result/metrics.json")) in result.stdout


def test_a_wrong_path_is_one_line_and_status_2():
    result = run(["--train_data_paths", "/nonexistent"], ROOT)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and "--train_data_paths /nonexistent" in result.stderr


def test_a_missing_package_is_one_line_and_status_2(kth_sample, tmp_path):
    (tmp_path / "paddle.py").write_text("raise ModuleNotFoundError(\"No module named 'paddle'\", name='paddle')")
    result = run(arguments_of(TRAIN_COMMAND, kth_sample, ""), tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "the package paddle is not installed for" in result.stderr


def test_help_is_status_0():
    result = run(["--help"], ROOT)
    assert result.returncode == 0 and "--train_data_paths" in result.stdout and result.stderr == ""


def truncate(recording):
    path = recording / "image_0004.jpg"
    path.write_bytes(path.read_bytes()[:300])


def change_the_size(recording):
    path = recording / "image_0004.jpg"
    cv2.imwrite(str(path), np.zeros([32, 40], np.uint8))


def leave_gaps(recording):
    for number in (3, 6):
        (recording / f"image_{number:04d}.jpg").unlink()


def replace_by_a_video(recording):
    shutil.rmtree(recording)
    (recording.parent / "person01_boxing_d1_uncomp.avi").write_bytes(b"RIFF")


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (truncate, ["image_0004.jpg"]),
        (change_the_size, ["image_0004.jpg: 40 x 32 pixels"]),
        (leave_gaps, ["--train_data_paths", "6 consecutive frames", "2"]),
        (replace_by_a_video, ["--train_data_paths", "person01_boxing_d1_uncomp.avi"]),
        (lambda recording: recording.parent.rename(recording.parent.parent / "sitting"), ["--train_data_paths"]),
    ],
)
def test_data_that_cannot_be_used_is_one_line_and_status_2(tmp_path, capfd, monkeypatch, spoil, parts):
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path / "data", ["01", "17"], ["boxing"], frames=8, size=(32, 32), seed=0, scenarios=1)
    (recording,) = (tmp_path / "data" / "boxing").glob("person01*")
    spoil(recording)
    assert runp.main(arguments_of(TRAIN_COMMAND, tmp_path / "data", "", num_workers=2)) == 2
    assert_one_line(capfd, *parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"pretrained_model": "nowhere"}, ["--pretrained_model nowhere"]),
        ({"pretrained_model": "empty"}, ["--pretrained_model empty", "model.safetensors"]),
        ({"pretrained_model": "checkpoints/first"}, ["--pretrained_model", "2"]),
        ({"pretrained_model": "cut"}, ["--pretrained_model cut", "model.safetensors"]),
        ({"pretrained_model": "other model"}, ["state.json", "--model_name other"]),
        ({"valid_data_paths": ""}, ["--valid_data_paths"]),
        ({"dataset_name": "mnist"}, ["--valid_data_paths", "Moving MNIST"]),
        ({"batch_size": "four"}, ["--batch_size four"]),
        ({"gen_frm_dir": "/dev/null/x"}, ["--gen_frm_dir /dev/null/x"]),
        ({"device": "gpu:99"}, ["--device gpu:99"]),
        # Flags of the network that differ from the checkpoint's.
        ({"num_hidden": "8,8"}, ["--num_hidden 4,4", "--num_hidden 8,8"]),
        ({"filter_size": "5"}, ["--filter_size 3", "--filter_size 5"]),
        ({"layer_norm": "False"}, ["--layer_norm True", "--layer_norm False"]),
        ({"norm_epsilon": "1.0"}, ["--norm_epsilon 1e-05", "--norm_epsilon 1.0"]),
        ({"residual": "gate"}, ["--residual False", "--residual gate"]),
        ({"center": "3.0"}, ["--center 0.0", "--center 3.0"]),
        ({"patch_size": "8"}, ["--patch_size 4", "--patch_size 8"]),
        ({"img_channel": "3"}, ["--img_channel"]),
    ],
)
def test_what_is_wrong_with_a_test_run_is_one_line_and_status_2(
    kth_sample, trained, capfd, monkeypatch, changes, parts
):
    monkeypatch.chdir(trained)
    for name in ("empty", "cut", "other model"):
        Path(name).mkdir(exist_ok=True)
    weights, state = ((trained / "checkpoints" / "first" / "2" / name).read_bytes() for name in FILES)
    for folder, contents in {
        "cut": (weights[: len(weights) // 2], state),
        "other model": (weights, state.replace(b'"e3d_lstm"', b'"other"')),
    }.items():
        for name, content in zip(FILES, contents):
            Path(folder, name).write_bytes(content)
    assert runp.main(arguments_of(TEST_COMMAND, kth_sample, "checkpoints/first/2", **changes)) == 2
    assert_one_line(capfd, *parts)


def test_a_test_takes_the_flags_of_network_and_frames_from_the_checkpoint(kth_sample, trained, monkeypatch):
    monkeypatch.chdir(trained)
    checkpoint = ["--is_training", "False", "--pretrained_model", "checkpoints/first/2"]
    config = Config.from_command_line(checkpoint)
    there = {"img_width": 16, "patch_size": 4, "num_hidden": "4,4", "input_length": 3, "total_length": 6}
    assert {name: getattr(config, name) for name in there} == there
    assert config.max_iterations == 400000 and config.batch_size == 4  # the training's own flags stay behind
    assert Config(is_training=False, pretrained_model="checkpoints/first/2").img_width == 128  # what Python says counts
    training = ["--pretrained_model", "checkpoints/first/2"]
    assert Config.from_command_line(training).img_width == 128

    data = ["--valid_data_paths", str(kth_sample), "--gen_frm_dir", "no flags", "--num_workers", "0", "--device", "cpu"]
    assert runp.main([*checkpoint, *data]) == 0
    metrics = json.loads((trained / "no flags" / "test_result" / "metrics.json").read_text())
    assert [metrics[name] for name in ("img_width", "input_length", "total_length")] == [16, 3, 6]
    assert "trained_with" not in metrics


def test_frames_that_differ_from_the_training_s_are_used_and_said(kth_sample, trained, capfd, monkeypatch):
    monkeypatch.chdir(trained)
    arguments = ["--is_training", "False", "--pretrained_model", "checkpoints/first/2", "--num_workers", "0"]
    arguments += ["--valid_data_paths", str(kth_sample), "--gen_frm_dir", "longer", "--device", "cpu"]
    assert runp.main([*arguments, "--img_width", "24", "--total_length", "9", "--input_length", "3"]) == 0
    metrics = json.loads((trained / "longer" / "test_result" / "metrics.json").read_text())
    assert metrics["trained_with"] == {"img_width": 16, "total_length": 6}
    assert metrics["img_width"] == 24 and len(metrics["model"]["psnr_per_frame"]) == 6
    said = capfd.readouterr().out
    assert all(flag in said for flag in ("--img_width 16", "--total_length 6", "--img_width 24", "--total_length 9"))


def test_an_unwritable_save_dir_is_one_line_and_status_2(kth_sample, tmp_path, capfd):
    (tmp_path / "ck" / "train.log").mkdir(parents=True)
    for save_dir in ("/dev/null/x", tmp_path / "ck"):
        arguments = arguments_of(TRAIN_COMMAND, kth_sample, "", save_dir=save_dir, gen_frm_dir=tmp_path / "results")
        assert runp.main(arguments) == 2
        assert_one_line(capfd, f"--save_dir {save_dir}", "cannot be written")


def long_run(kth_sample, folder, **changes):
    """A started training that would take hours, once its third iteration is logged."""
    settings = {"max_iterations": 100000, "snapshot_interval": 100000, "save_dir": folder / "ck", **changes}
    arguments = arguments_of(TRAIN_COMMAND, kth_sample, "", **settings)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "runp.py"), *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    for line in process.stdout:
        if "iteration 3/" in line:
            return process
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize(("number", "status", "num_workers"), [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 2)])
def test_a_signal_ends_a_run_after_its_iteration_with_a_checkpoint(kth_sample, tmp_path, number, status, num_workers):
    process = long_run(kth_sample, tmp_path, num_workers=num_workers)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C, and a launcher's SIGTERM
    output, error = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == status and error.endswith(f"runp.py: stopped by {number.name}\n"), error
    (iteration,) = checkpoints(str(tmp_path / "ck"))
    log = (tmp_path / "ck" / "train.log").read_text()
    assert f"iteration {iteration}/100000" in log and f"iteration {iteration + 1}/100000" not in log


def test_a_signal_in_the_middle_of_a_library_s_work_ends_a_test(kth_sample, trained, capfd, monkeypatch):
    def bar(*arguments, **settings):
        with contextlib.suppress(Exception):  # as tqdm does where it starts its thread
            signal.raise_signal(signal.SIGTERM)
        return tqdm(*arguments, **settings)

    monkeypatch.chdir(trained)
    monkeypatch.setattr("src.evaluator.tqdm", bar)
    arguments = arguments_of(TEST_COMMAND, kth_sample, "checkpoints/first/2", gen_frm_dir="stopped", num_workers=0)
    assert runp.main(arguments) == 143
    assert capfd.readouterr().err.endswith("runp.py: stopped by SIGTERM\n")
    assert not (trained / "stopped" / "test_result" / "metrics.json").exists()


SIGTERM_WHILE_LOADING = """
import os, signal, sys
import runp

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "src.trainer":  # Paddle is loaded by then, and has set its own handlers
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder)
sys.exit(runp.main(sys.argv[1:]))
"""


def test_sigterm_while_paddle_loads_is_one_line(kth_sample, tmp_path):
    arguments = arguments_of(TRAIN_COMMAND, kth_sample, "", save_dir=tmp_path / "ck", gen_frm_dir=tmp_path / "results")
    result = subprocess.run(
        [sys.executable, "-c", SIGTERM_WHILE_LOADING, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
    )
    assert (result.returncode, result.stderr, result.stdout) == (143, "runp.py: stopped by SIGTERM\n", "")
    assert not os.listdir(tmp_path / "ck")


def test_streams_that_are_closed_do_not_end_a_training(kth_sample, tmp_path):
    arguments = arguments_of(TRAIN_COMMAND, kth_sample, "", save_dir=tmp_path / "ck", gen_frm_dir=tmp_path / "results")
    command = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, str(ROOT / "runp.py"), *arguments]
    assert subprocess.run(command, timeout=LONGEST_WAIT).returncode == 0
    assert checkpoints(str(tmp_path / "ck")) == [2]


def test_a_closed_pipe_does_not_end_a_training(kth_sample, tmp_path):
    process = long_run(kth_sample, tmp_path, max_iterations=12)
    process.stdout.close()
    assert process.wait(timeout=LONGEST_WAIT) == 0 and process.stderr.read() == ""
    process.stderr.close()
    assert checkpoints(str(tmp_path / "ck")) == [12]


@pytest.fixture
def kth_stub(tmp_path):
    """The environment of a script for KTH: an AI Studio, and a Python that finds KTH and prints all other commands."""
    for data in ("my data", "aistudio/data/kth"):
        (tmp_path / data / "boxing" / "person01_boxing_d1").mkdir(parents=True)
    stub = tmp_path / "python"
    find = f'case "$1" in *find_kth.py) exec "{sys.executable}" "$@";; esac'
    stub.write_text(f'#!/bin/sh\n{find}\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    return {**os.environ, "PYTHON": str(stub), "E3D_AISTUDIO": str(tmp_path / "aistudio")}


@pytest.fixture
def words_of(tmp_path, kth_stub):
    """The words that a script for KTH hands on."""

    def run_script(script, *arguments, **environment):
        command = ["bash", ROOT / "scripts" / script, *arguments]
        environment = {**kth_stub, **environment}
        result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return result.stdout.split("\n")[:-1]

    return run_script


@pytest.mark.parametrize("script", ["paddle_e3d_lstm_kth_train.sh", "paddle_e3d_lstm_kth_test.sh"])
def test_the_experiment_scripts_pass_paths_and_further_flags(tmp_path, kth_stub, words_of, script):
    def flags(*arguments, **environment):
        config = Config.from_command_line(words_of(script, *arguments, **environment)[1:])
        return config.valid_data_paths, config.save_dir, config.pretrained_model, config.batch_size, config.num_hidden

    training = script.endswith("train.sh")
    studio = f"{kth_stub['E3D_AISTUDIO']}/work/checkpoints/_kth_e3d_lstm"
    default = (studio, "") if training else ("checkpoints", f"{studio}/50500")
    assert flags() == flags("", "") == (f"{kth_stub['E3D_AISTUDIO']}/data/kth", *default, 4, "64,64,64,64")
    given = ("second", "third") if training else ("checkpoints", "second")
    assert flags("my data", "second", "third", "--batch_size", "2") == ("my data", *given, 2, "64,64,64,64")
    assert flags("--batch_size", "2", DATA="my data") == ("my data", *default, 2, "64,64,64,64")

    shutil.rmtree(tmp_path / "aistudio")  # a machine without KTH, and the data set as flags of runp.py
    assert flags("--train_data_paths", "other", "--valid_data_paths=other")[0] == "other"
    assert words_of(script, "--help")[-1] == "--help"


def test_the_script_for_several_gpus_launches_the_experiment_with_its_four_clips_an_iteration(kth_stub, words_of):
    def launched(*arguments, **environment):
        words = words_of("paddle_e3d_lstm_kth_train_multi_gpu.sh", *arguments, **environment)
        program = words.index(str(ROOT / "runp.py"))
        config = Config.from_command_line(words[program + 1 :])
        return " ".join(words[:program]), config.batch_size, config.train_data_paths, config.save_dir

    launch = "-m paddle.distributed.launch"
    studio = kth_stub["E3D_AISTUDIO"]
    log, data, ck = "--log_dir logs/launch", f"{studio}/data/kth", f"{studio}/work/checkpoints/_kth_e3d_lstm"
    assert launched() == (f"{launch} --gpus 0,1,2,3 {log}", 1, data, ck)
    assert launched("my data", "second", GPUS="1,3") == (f"{launch} --gpus 1,3 {log}", 2, "my data", "second")
    assert launched("--batch_size", "3", PROCESSES="2") == (f"{launch} --nproc_per_node 2 {log}", 3, data, ck)
    more = "--master 10.0.0.1:6170 --nnodes 2 --rank 1"
    gpus = "0,1,2,3,4,5,6,7"
    words, batch_size, *_ = launched(GPUS=gpus, LAUNCH=more, LAUNCH_LOG="there")
    assert words == f"{launch} --gpus {gpus} --log_dir there {more}" and batch_size == 1
