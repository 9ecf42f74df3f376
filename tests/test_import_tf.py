"""scripts/import_tf_checkpoint.py: checkpoints of the official TensorFlow code as ours."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from scripts.import_tf_checkpoint import import_variables, main, network_variables, prefix_of
from src.checkpoints.checkpoint import load_weights
from src.config import Config
from src.errors import UserError
from src.models.model_factory import build_model
from tests.conftest import load_golden
from tests.helpers import OFFICIAL_EPSILON, OUTPUT_TOLERANCE, network_of, variables_of

# A Python that has TensorFlow may be of another environment.
OWN = sys.executable if importlib.util.find_spec("tensorflow") else ""
TENSORFLOW = os.environ.get("E3D_TENSORFLOW_PYTHON", OWN)
ADAM = (
    "beta1_power",
    "beta2_power",
    "generator/e3d-lstm/e3d0/conv3d/kernel/Adam",
    "generator/e3d-lstm/e3d0/conv3d/kernel/Adam_1",
    "global_step",
)
WRITER = """
import sys
import numpy, tensorflow
v1 = tensorflow.compat.v1
v1.disable_eager_execution()
arrays = numpy.load(sys.argv[1])
variables = [v1.Variable(arrays[name], name=name) for name in arrays.files]
with v1.Session() as session:
    session.run(v1.global_variables_initializer())
    v1.train.Saver(variables).save(session, sys.argv[2], global_step=50000)
"""


def saved_variables(golden):
    """What a training's checkpoint holds: the network's variables, biases before its norms, those of Adam."""
    network = {name.replace(".", "/"): array for name, array in variables_of(golden).items()}
    network["generator/e3d-lstm/e3d0/conv3d/bias"] = np.full(
        network["generator/e3d-lstm/e3d0/conv3d/kernel"].shape[-1], -0.25, np.float32
    )
    return {**network, **{name: np.ones(2, np.float32) for name in ADAM}}


def flags_for(golden, folder):
    settings = network_of(golden)[1]
    flags = {
        "img_width": "img_width",
        "patch_size": "patch",
        "img_channel": "channel",
        "input_length": "input",
        "total_length": "total",
    }
    return ["--save_dir", str(folder), *(f"--{flag}={settings[name]}" for flag, name in flags.items())]


def assert_forecasts_are_those_of_the_golden(path, golden):
    """Its network's flags come from the checkpoint, as in a test of it."""
    config = Config.from_command_line(["--is_training", "False", "--pretrained_model", path])
    model = build_model(config, norm_epsilon=OFFICIAL_EPSILON)
    load_weights(model, path, config)
    frames = paddle.to_tensor(network_of(golden)[2])
    found = model(frames, paddle.to_tensor(golden["real_input_token"])).numpy()
    np.testing.assert_allclose(found, golden["gen_images"], rtol=0, atol=OUTPUT_TOLERANCE)


@pytest.mark.parametrize("name", ["net_small.npz", "net_k5.npz", "net_rgb.npz"])
def test_variables_of_the_official_code_become_a_checkpoint_that_forecasts_the_same(tmp_path, name):
    golden = load_golden(name)
    path, left_out = import_variables(saved_variables(golden), 50000, flags_for(golden, tmp_path))
    assert path == f"{tmp_path}/50000" and left_out == 0.25
    assert_forecasts_are_those_of_the_golden(path, golden)


@pytest.mark.parametrize(
    ("flags", "spoil", "message"),
    [
        (["--patch_size", "8"], None, "--patch_size 8, --img_channel 1: that is 64 values a position, the weights"),
        (["--num_hidden", "4,4,4"], None, "--num_hidden 4,4,4: the weights have "),
        (["--layer_norm", "False"], None, "--layer_norm False: the weights have True; leave it out"),
        ([], lambda all: all.pop("generator/e3d-lstm/e3d1/conv3d/kernel"), "missing generator.e3d-lstm.e3d1.conv3d"),
        ([], lambda all: all.update(other=np.ones(1)), "unknown other"),
        ([], dict.clear, "no variable generator.e3d-lstm.e3d0.conv3d.kernel of an E3D-LSTM in it; it has none"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, flags, spoil, message):
    golden = load_golden("net_small.npz")
    variables = saved_variables(golden)
    if spoil:
        spoil(variables)
    with pytest.raises(UserError, match=message):
        import_variables(variables, 1, [*flags_for(golden, tmp_path / "ck"), *flags])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_network_without_norms_keeps_its_biases():
    names = ("e3d0/conv3d/kernel", "e3d0/conv3d/bias", "conv3d/kernel")
    variables = {f"generator/e3d-lstm/{name}": np.zeros([1] * 5) for name in names}
    network, left_out = network_variables(variables)
    assert len(network) == 3 and not left_out


def test_a_checkpoint_is_found_by_any_of_its_files_and_by_its_folder(tmp_path):
    for name in ("model.ckpt-500.index", "model.ckpt-500.data-00000-of-00001"):
        (tmp_path / name).touch()
    prefix = str(tmp_path / "model.ckpt-500")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-500"\nall_model_ch...: "x"\n')
    for path in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001", str(tmp_path)):
        assert prefix_of(path) == prefix


def test_a_mistake_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "model.ckpt").write_bytes(b"a pickle")
    (tmp_path / "model.ckpt-1.index").touch()
    (tmp_path / "empty").mkdir()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without any package
    python.chmod(0o755)
    for arguments, message in (
        (["nowhere"], "nowhere: there is no nowhere.index; expected what tf.train.Saver writes"),
        ([str(tmp_path / "model.ckpt")], "(a pickled model.ckpt cannot be read)"),
        ([str(tmp_path / "empty")], "no file 'checkpoint' in it"),
        ([str(tmp_path / "model.ckpt-1"), "--tensorflow", "nowhere"], "--tensorflow nowhere: cannot be run"),
        ([str(tmp_path / "model.ckpt-1"), "--tensorflow", str(python)], "no TensorFlow (No module named "),
        ([str(tmp_path / "model.ckpt-1"), "--patch_sizes", "4"], "--patch_sizes is not a flag; did you mean"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error, error


@pytest.mark.skipif(not TENSORFLOW, reason="no TensorFlow; E3D_TENSORFLOW_PYTHON may name a Python that has it")
def test_a_checkpoint_that_tensorflow_writes_is_imported(tmp_path, capsys):
    golden = load_golden("net_small.npz")
    np.savez(tmp_path / "variables.npz", **saved_variables(golden))
    command = [TENSORFLOW, "-c", WRITER, tmp_path / "variables.npz", tmp_path / "tf" / "model.ckpt"]
    (tmp_path / "tf").mkdir()
    subprocess.run(command, check=True, capture_output=True)
    arguments = [str(tmp_path / "tf"), "--tensorflow", TENSORFLOW, *flags_for(golden, tmp_path / "ck")]
    assert main(arguments) == 0, capsys.readouterr().err
    assert "left out: the biases before the norms, values up to 0.25" in capsys.readouterr().out
    assert_forecasts_are_those_of_the_golden(str(tmp_path / "ck" / "50000"), golden)

    (tmp_path / "tf" / "model.ckpt-50000.index").write_bytes(b"cut")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "model.ckpt-50000: TensorFlow cannot read it (" in error
