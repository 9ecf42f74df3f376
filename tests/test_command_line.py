"""runp.py as a user calls it: a process of its own, or its main() for the many ways to be wrong."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture(scope="module")
def trained(kth_sample, tmp_path_factory):
    """A folder with a checkpoint of two iterations in checkpoints/first/2."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = arguments_of(TRAIN_COMMAND, kth_sample, "none", save_dir="checkpoints/first", num_workers=0)
    del arguments[arguments.index("--pretrained_model") : arguments.index("--pretrained_model") + 2]
    result = run(arguments, folder)
    assert result.returncode == 0, result.stderr
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


def test_cpu_settings_of_the_user_are_kept_and_the_rest_set():
    code = "import os, src; print(os.environ.get('MKL_NUM_THREADS'), os.environ.get('OMP_NUM_THREADS'))"
    plain = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    cores = len(os.sched_getaffinity(0))
    for given, expected in [
        ({}, f"{cores} None"),
        ({"MKL_NUM_THREADS": "7"}, "7 None"),
        ({"OMP_NUM_THREADS": "3"}, "None 3"),
    ]:
        command, environment = [sys.executable, "-c", code], {**plain, **given}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.stdout.strip() == expected


def broken_root(tmp_path, kind):
    root = tmp_path / "data"
    make_tree(root, ["01", "17"], ["boxing"], frames=8, size=(32, 32), seed=0, scenarios=1)
    recording = next((root / "boxing").glob("person01*"))
    if kind == "truncated":
        path = recording / "image_0004.jpg"
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "sizes":
        (recording / "image_0004.jpg").unlink()
        other = make_tree(tmp_path / "other", ["01"], ["boxing"], frames=4, size=(40, 32), seed=0, scenarios=1)
        assert other
        source = next((tmp_path / "other" / "boxing").glob("person01*")) / "image_0004.jpg"
        source.rename(recording / "image_0004.jpg")
    elif kind == "short":
        for number in (3, 6):
            (recording / f"image_{number:04d}.jpg").unlink()
    elif kind == "videos":
        for path in recording.iterdir():
            path.unlink()
        recording.rmdir()
        (root / "boxing" / "person01_boxing_d1_uncomp.avi").write_bytes(b"RIFF")
    elif kind == "no folders":
        (root / "boxing").rename(root / "sitting")
    return root


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("truncated", ["image_0004.jpg: cannot be read"]),
        ("sizes", ["image_0004.jpg: 40 x 32 pixels"]),
        ("short", ["--train_data_paths", "no clip of 6 consecutive frames", "longest run is 2"]),
        ("videos", ["--train_data_paths", "person01_boxing_d1_uncomp.avi: 0 frames can be read"]),
        ("no folders", ["--train_data_paths", "none of the folders boxing"]),
    ],
)
def test_data_that_cannot_be_used_is_one_line_and_status_2(tmp_path, capfd, monkeypatch, kind, parts):
    monkeypatch.chdir(tmp_path)
    arguments = arguments_of(TRAIN_COMMAND, broken_root(tmp_path, kind), "", num_workers=2)
    assert runp.main(arguments) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"pretrained_model": "nowhere"}, ["--pretrained_model nowhere: there is no such directory"]),
        ({"pretrained_model": "empty"}, ["--pretrained_model empty: no model.safetensors in it"]),
        ({"pretrained_model": "checkpoints/first"}, ["holds the checkpoints 2; give one of them"]),
        ({"pretrained_model": "cut"}, ["--pretrained_model cut: model.safetensors is damaged"]),
        ({"filter_size": 5}, ["of another network", "--filter_size 3", "--filter_size 5"]),
        ({"num_hidden": "4,4,4"}, ["of another network", "--num_hidden 4,4", "--num_hidden 4,4,4"]),
        ({"valid_data_paths": ""}, ["--valid_data_paths is empty"]),
        ({"dataset_name": "kth"}, ["--dataset_name kth"]),
        ({"model_name": "other"}, ["--model_name other"]),
        ({"batch_size": "-4"}, ["--batch_size -4: expected 1 or more"]),
        ({"batch_size": "four"}, ["--batch_size four: expected a whole number"]),
        ({"batchsize": "4"}, ["--batchsize is not a flag; did you mean --batch_size?"]),
        ({"gen_frm_dir": "/dev/null/x"}, ["--gen_frm_dir /dev/null/x: cannot be written"]),
        ({"device": "gpu:99"}, ["--device gpu:99: this Paddle"]),
        ({"dataset_name": "mnist"}, ["--valid_data_paths", "cannot be read as a Moving MNIST file"]),
    ],
)
def test_what_is_wrong_with_a_test_run_is_one_line_and_status_2(
    kth_sample, trained, capfd, monkeypatch, changes, parts
):
    monkeypatch.chdir(trained)
    (trained / "empty").mkdir(exist_ok=True)
    cut = trained / "cut"
    cut.mkdir(exist_ok=True)
    for name in ("model.safetensors", "state.json"):
        content = (trained / "checkpoints" / "first" / "2" / name).read_bytes()
        (cut / name).write_bytes(content[: len(content) // 2] if name.startswith("model") else content)
    arguments = arguments_of(TEST_COMMAND, kth_sample, "checkpoints/first/2", **changes)
    assert runp.main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.err.count("\n") == 1 and all(part in captured.err for part in parts), captured.err


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
    assert {name: metrics[name] for name in ("img_width", "input_length", "total_length")} == {
        "img_width": 16,
        "input_length": 3,
        "total_length": 6,
    }
    assert "trained_with" not in metrics


def test_frames_that_differ_from_the_training_s_are_used_and_said(kth_sample, trained, capfd, monkeypatch):
    monkeypatch.chdir(trained)
    arguments = ["--is_training", "False", "--pretrained_model", "checkpoints/first/2", "--num_workers", "0"]
    arguments += ["--valid_data_paths", str(kth_sample), "--gen_frm_dir", "longer", "--device", "cpu"]
    assert runp.main([*arguments, "--img_width", "24", "--total_length", "9", "--input_length", "3"]) == 0
    metrics = json.loads((trained / "longer" / "test_result" / "metrics.json").read_text())
    assert metrics["trained_with"] == {"img_width": 16, "total_length": 6}
    assert metrics["img_width"] == 24 and len(metrics["model"]["psnr_per_frame"]) == 6
    said = "trained with --img_width 16, --total_length 6, this run has --img_width 24, --total_length 9"
    assert said in capfd.readouterr().out


def spoilt_checkpoint(trained, **values):
    """A copy of the checkpoint whose state.json has other flags."""
    folder = trained / "spoilt"
    shutil.copytree(trained / "checkpoints" / "first" / "2", folder, dirs_exist_ok=True)
    state = json.loads((folder / "state.json").read_text())
    state["config"].update(values)
    (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize(
    ("flag", "there", "here"),
    [
        ("num_hidden", "4,4", "8,8"),
        ("filter_size", "3", "5"),
        ("layer_norm", "True", "False"),
        ("norm_epsilon", "1e-05", "1.0"),
        ("residual", "False", "True"),
        ("patch_size", "4", "3"),
        ("img_channel", "1", "3"),
    ],
)
def test_a_flag_of_the_network_that_differs_is_refused_with_both_values(kth_sample, trained, capfd, flag, there, here):
    checkpoint = trained / "checkpoints" / "first" / "2"
    arguments = ["--is_training", "False", "--pretrained_model", str(checkpoint), "--valid_data_paths", str(kth_sample)]
    assert runp.main([*arguments, f"--{flag}", here]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and f"made with --{flag} {there}; this run has --{flag} {here};" in error


def test_a_checkpoint_of_a_model_that_is_not_registered_is_one_line(kth_sample, trained, capfd):
    checkpoint = spoilt_checkpoint(trained, model_name="other")
    arguments = ["--is_training", "False", "--pretrained_model", str(checkpoint), "--valid_data_paths", str(kth_sample)]
    assert runp.main(arguments) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "its state.json cannot be used (--model_name other: there is no such" in error


def test_an_unwritable_save_dir_is_one_line_and_status_2(kth_sample, tmp_path, capfd):
    (tmp_path / "ck" / "train.log").mkdir(parents=True)
    for save_dir in ("/dev/null/x", tmp_path / "ck"):
        arguments = arguments_of(TRAIN_COMMAND, kth_sample, "", save_dir=save_dir, gen_frm_dir=tmp_path / "results")
        assert runp.main(arguments) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and f"--save_dir {save_dir}" in error and "cannot be written" in error


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


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_after_its_iteration_with_a_checkpoint(kth_sample, tmp_path, number, status, num_workers):
    process = long_run(kth_sample, tmp_path, num_workers=num_workers)
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C, and a launcher's SIGTERM
    output, error = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == status and error.endswith(f"runp.py: stopped by {number.name}\n"), error
    assert error.count("\n") == 3 and "stopping at the next safe point" in error
    (iteration,) = checkpoints(str(tmp_path / "ck"))
    log = (tmp_path / "ck" / "train.log").read_text()
    assert f"iteration {iteration}/100000" in log and f"iteration {iteration + 1}/100000" not in log
    assert "was killed" not in log


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
        [sys.executable, "-c", SIGTERM_WHILE_LOADING, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stderr, result.stdout) == (143, "runp.py: stopped by SIGTERM\n", "")
    assert not os.listdir(tmp_path / "ck")


def test_streams_that_are_closed_do_not_end_a_training(kth_sample, tmp_path):
    arguments = arguments_of(TRAIN_COMMAND, kth_sample, "", save_dir=tmp_path / "ck", gen_frm_dir=tmp_path / "results")
    command = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, str(ROOT / "runp.py"), *arguments]
    assert subprocess.run(command, timeout=300).returncode == 0
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


@pytest.mark.parametrize("script", ["paddle_e3d_lstm_kth_train.sh", "paddle_e3d_lstm_kth_test.sh"])
def test_the_experiment_scripts_pass_paths_and_further_flags(tmp_path, kth_stub, script):
    def flags(*arguments, **environment):
        result = subprocess.run(
            ["bash", ROOT / "scripts" / script, *arguments],
            env={**kth_stub, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        config = Config.from_command_line(result.stdout.split("\n")[1:-1])
        return config.valid_data_paths, config.save_dir, config.pretrained_model, config.batch_size, config.num_hidden

    training = script.endswith("train.sh")
    studio = f"{kth_stub['E3D_AISTUDIO']}/work/checkpoints/_kth_e3d_lstm"
    default = (studio, "") if training else ("checkpoints", f"{studio}/50500")
    assert flags() == flags("", "") == (f"{kth_stub['E3D_AISTUDIO']}/data/kth", *default, 4, "64,64,64,64")
    given = ("second", "third") if training else ("checkpoints", "second")
    assert flags("my data", "second", "third", "--batch_size", "2") == ("my data", *given, 2, "64,64,64,64")
    assert flags("--batch_size", "2", DATA="my data") == ("my data", *default, 2, "64,64,64,64")

    shutil.rmtree(tmp_path / "aistudio")  # a machine without KTH, and the data set as flags of runp.py
    named = ("--train_data_paths", "other", "--valid_data_paths", "other")
    assert flags(*named)[0] == flags("--train_data_paths=other", "--valid_data_paths=other")[0] == "other"
    shown = subprocess.run(["bash", ROOT / "scripts" / script, "--help"], env=kth_stub, capture_output=True, text=True)
    assert shown.stdout.endswith("--help\n")


def test_the_script_for_several_gpus_launches_the_experiment_with_its_four_clips_an_iteration(tmp_path, kth_stub):
    def launched(*arguments, **environment):
        result = subprocess.run(
            ["bash", ROOT / "scripts" / "paddle_e3d_lstm_kth_train_multi_gpu.sh", *arguments],
            env={**kth_stub, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        words = result.stdout.split("\n")[:-1]
        program = words.index(str(ROOT / "runp.py"))
        config = Config.from_command_line(words[program + 1 :])
        return " ".join(words[:program]), config.batch_size, config.train_data_paths, config.save_dir

    launch = "-m paddle.distributed.launch"
    studio = kth_stub["E3D_AISTUDIO"]
    log, data, ck = "--log_dir logs/launch", f"{studio}/data/kth", f"{studio}/work/checkpoints/_kth_e3d_lstm"
    assert launched() == (f"{launch} --gpus 0,1,2,3 {log}", 1, data, ck)
    assert launched("my data", "second", GPUS="1,3") == (f"{launch} --gpus 1,3 {log}", 2, "my data", "second")
    assert launched("--batch_size", "3", PROCESSES="2") == (f"{launch} --nproc_per_node 2 {log}", 3, data, ck)
    machines = launched(GPUS="0,1,2,3,4,5,6,7", LAUNCH="--master 10.0.0.1:6170 --nnodes 2 --rank 1", LAUNCH_LOG="there")
    assert (
        machines[0] == (f"{launch} --gpus 0,1,2,3,4,5,6,7 --log_dir there --master 10.0.0.1:6170 --nnodes 2 --rank 1")
        and machines[1] == 1
    )
