"""Make a checkpoint of this project from one that the official TensorFlow code has saved.

    python scripts/import_tf_checkpoint.py models/model.ckpt-50000 --save_dir checkpoints/official --patch_size 8

It takes what tf.train.Saver writes: model.ckpt-50000.index with its .data files, or the folder with the file
"checkpoint". The number at the end names the folder, here checkpoints/official/50000, to give as --pretrained_model.
num_hidden, filter_size and layer_norm are read from the weights. What they do not tell, as patch_size, img_channel,
img_width, input_length and total_length, are flags of runp.py and have their defaults.

TensorFlow reads the file, in a process of its own: `pip install tensorflow-cpu`, best in an environment of its own
whose Python --tensorflow names.

Forecasts are not those of the official code: its memory never moves, and it has biases before its norms, which are
left out here. See "The model, and where it differs" in README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.checkpoint_files import INDEX  # noqa: E402
from src.config import Config, command_line_parser  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402

FOLDER_FILE = "checkpoint"  # that names the newest one of a folder
OF_THE_OPTIMIZER = re.compile(r"(.*[./])?(Adam(_\d+)?|beta[12]_power(_\d+)?|global_step)")
BEFORE_A_NORM = re.compile(r"generator\.e3d-lstm\.e3d\d+\.(conv3d|conv3d_1|conv3d_2)\.bias")
LAYER = re.compile(r"generator\.e3d-lstm\.e3d(\d+)\.")
FIRST_KERNEL = "generator.e3d-lstm.e3d0.conv3d.kernel"  # (2, k, k, n, 4n), see src/utils/tf_weights.py
DECODER = "generator.e3d-lstm.conv3d.kernel"  # (2, 1, 1, n, p*p*C)
# Run by the Python that has TensorFlow; it may have no package of this project.
READER = """
import sys
try:
    import numpy, tensorflow
except ImportError as error:
    sys.exit(f"no TensorFlow ({error})")
reader = tensorflow.train.load_checkpoint(sys.argv[1])
numpy.savez(sys.argv[2], **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})
"""


def prefix_of(path: str) -> str:
    """What TensorFlow calls a checkpoint: the path of its files without .index and .data-...

    Raises:
        UserError: there is no such checkpoint.
    """
    if os.path.isdir(path):
        listed = os.path.join(path, FOLDER_FILE)
        text = Path(listed).read_text("utf-8", "replace") if os.path.isfile(listed) else ""
        newest = re.search(r'^model_checkpoint_path: "(.*)"', text, re.MULTILINE)
        if not newest:
            raise UserError(f"{path}: no file 'checkpoint' in it that names one; give the path of a {INDEX} file")
        path = os.path.join(path, os.path.basename(newest[1]))  # the folder may have been moved
    prefix = re.sub(rf"({re.escape(INDEX)}|\.data-\d+-of-\d+)$", "", path)
    if not os.path.isfile(prefix + INDEX):
        raise UserError(
            f"{path}: there is no {prefix}{INDEX}; expected what tf.train.Saver writes, an {INDEX} file and .data "
            "files, or their folder (a pickled model.ckpt cannot be read)"
        )
    return prefix


def read_variables(prefix: str, python: str) -> dict[str, np.ndarray]:
    """Each variable of a TensorFlow checkpoint, by its name.

    Raises:
        UserError: ``python`` cannot be run or has no TensorFlow, or the checkpoint is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        arrays = os.path.join(folder, "variables.npz")
        command = [python, "-c", READER, prefix, arrays]
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        try:
            result = subprocess.run(command, capture_output=True, text=True, env=quiet)
        except OSError as error:
            raise UserError(f"--tensorflow {python}: cannot be run ({error.strerror}); give a Python") from None
        reason = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        if reason.startswith("no TensorFlow"):
            raise UserError(
                f"--tensorflow {python}: {reason}; pip install tensorflow-cpu, best in an environment of its own, and "
                "give its Python"
            )
        if result.returncode:
            raise UserError(f"{prefix}: TensorFlow cannot read it ({reason}); copy its files again")
        with np.load(arrays, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}


def network_variables(variables: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The variables of the network, with dots for slashes, and the biases before a norm that have no place in ours.

    Those of the optimizer, as Adam's, are left out.

    Raises:
        UserError: these are not the variables of an E3D-LSTM.
    """
    named = {name.split(":")[0].replace("/", "."): array for name, array in variables.items()}
    network = {name: array for name, array in named.items() if not OF_THE_OPTIMIZER.fullmatch(name)}
    missing = [name for name in (FIRST_KERNEL, DECODER) if network.get(name, np.empty(0)).ndim != 5]
    if missing:
        found = ", ".join(sorted(network)[:4]) or "none"
        raise UserError(f"no variable {missing[0]} of an E3D-LSTM in it; it has {found} ...")
    biases = [name for name in network if BEFORE_A_NORM.fullmatch(name)] if layer_norm_of(network) else []
    return network, {name: network.pop(name) for name in biases}


def layer_norm_of(network: Mapping[str, np.ndarray]) -> bool:
    """Whether the gates have norms."""
    return "generator.e3d-lstm.e3d0.hidden.gamma" in network


def flags_of(network: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The flags that decide the shapes of these variables."""
    layers = {int(match[1]) for match in map(LAYER.match, network) if match}
    kernel = network[FIRST_KERNEL]
    return {
        "model_name": "e3d_lstm",
        "num_hidden": ",".join([str(kernel.shape[3])] * len(layers)),
        "filter_size": kernel.shape[1],
        "layer_norm": layer_norm_of(network),
    }


def config_of(network: Mapping[str, np.ndarray], flags: Sequence[str]) -> Config:
    """The settings of the network: what its weights tell, and flags for the rest.

    Raises:
        UserError: a flag is wrong, or is not that of the weights.
    """
    told = flags_of(network)
    given = Config.from_command_line(flags)
    for name in vars(command_line_parser().parse_args(flags)):
        if name in told and getattr(given, name) != told[name]:
            raise UserError(f"--{name} {getattr(given, name)}: the weights have {told[name]}; leave it out")
    config = dataclasses.replace(given, **told)
    channels = network[DECODER].shape[-1]
    if config.patch_channels != channels:
        raise UserError(
            f"--patch_size {config.patch_size}, --img_channel {config.img_channel}: that is {config.patch_channels} "
            f"values a position, the weights have {channels}; give those of the training"
        )
    return config


def import_variables(variables: Mapping[str, np.ndarray], iteration: int, flags: Sequence[str]) -> tuple[str, float]:
    """Write ``<save_dir>/<iteration>/``.

    Returns:
        its path, and the largest absolute value of a bias before a norm that was left out.

    Raises:
        UserError: variables of another network, a flag that does not fit, or the checkpoint is there already.
    """
    network, biases = network_variables(variables)
    config = config_of(network, flags)
    import paddle  # takes seconds: after the flags are known to be right

    from src.checkpoints.checkpoint import save_checkpoint
    from src.models.model_factory import build_model
    from src.utils.tf_weights import load_tf_variables

    paddle.set_device("cpu")
    model = build_model(config)
    try:
        load_tf_variables(model, network)
    except ValueError as error:
        raise UserError(str(error)) from None
    os.makedirs(config.save_dir, exist_ok=True)
    optimizer = paddle.optimizer.SGD(config.lr, parameters=model.parameters())
    path = save_checkpoint(config, iteration, model, optimizer)
    return path, max((float(np.abs(bias).max()) for bias in biases.values()), default=0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="scripts/import_tf_checkpoint.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s CHECKPOINT [--flag value ...]",
    )
    parser.add_argument("checkpoint", help="path without .index, or the folder with the file 'checkpoint'")
    parser.add_argument("--tensorflow", metavar="PYTHON", default=sys.executable, help="a Python that has TensorFlow")
    try:
        given, flags = parser.parse_known_args(arguments)
        Config.from_command_line(flags)  # a wrong flag is answered before TensorFlow is loaded
        prefix = prefix_of(given.checkpoint)
        number = re.search(r"-([1-9]\d*)$", prefix)
        variables = read_variables(prefix, given.tensorflow)
        path, left_out = import_variables(variables, int(number[1]) if number else 1, flags)
    except (UserError, OSError) as error:
        print(f"import_tf_checkpoint.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("import_tf_checkpoint.py: interrupted", file=sys.stderr)
        return 130
    if left_out:
        print(f"left out: the biases before the norms, values up to {left_out:.3g}; train on before you judge it")
    print(f"wrote {path}; use it with --pretrained_model {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
