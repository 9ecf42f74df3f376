"""Config: every flag once, with its type, default, help and checks. The command line is made from it.

    Config(img_width=64, num_hidden="64,64", patch_size=4)        in Python
    Config.from_command_line(["--img_width", "64", ...])          from a shell, see runp.py

This module does not import paddle, so a wrong flag is answered at once. The models and data sets that can be chosen are
what src/models/model_factory.py and src/data_provider/datasets_factory.py list.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import partial
from typing import Any

from src.checkpoint_files import STATE_FILE, no_checkpoint, read_state
from src.data_provider.datasets_factory import DATASETS
from src.errors import UserError
from src.flag_values import (
    FLOAT32_LIMIT,
    NEWEST,
    did_you_mean,
    list_flags,
    parse_betas,
    parse_bool,
    parse_device,
    parse_float,
    parse_int,
    parse_persons,
    parse_residual,
    parse_resume,
    parse_schedule,
    parse_sizes,
    parse_text,
    split_paths,
)
from src.models.model_factory import MODELS
from src.one_line_parser import OneLineParser

GROUPS = ("run", "data", "network", "training", "testing", "machine")  # of flags, in the order of --help
OPTIMIZERS = ("sgd", "adam")
PRECISIONS = ("fp32", "fp16", "bf16")
# The flags that decide which parameters a network has, and their meaning; and those of the frames it was shown.
NETWORK_FLAGS = (
    "model_name",
    "num_hidden",
    "filter_size",
    "layer_norm",
    "norm_epsilon",
    "residual",
    "center",
    "patch_size",
    "img_channel",
)
# Not named in older checkpoints, and what these were made with.
LATER_FLAGS = {"norm_epsilon": 1e-5, "residual": False, "center": 0.0}
FRAME_FLAGS = ("img_width", "input_length", "total_length")
CHANNELS = {1: "1 (grey)", 3: "3 (colour)"}  # of a frame, by --img_channel
SSIM_WINDOW = 7  # pixels; smaller frames have no SSIM


def _flag(
    group: str,
    default: Any,
    parse: Callable[[Any], Any],
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Collection[str] | None = None,
    aliases: Sequence[str] = (),
    metavar: str = "",
) -> Any:
    return field(
        default=default,
        metadata={
            "group": group,
            "parse": parse,
            "help": help,
            "minimum": minimum,
            "maximum": maximum,
            "above": above,
            "choices": choices,
            "aliases": aliases,
            "metavar": metavar,
        },
    )


# A field of Config is made by the group that --help shows its flag in.
_run, _data, _network, _training, _testing, _machine = (partial(_flag, group) for group in GROUPS)


def _one_of(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


@dataclass
class Config:
    """The settings of one run; a field is a flag of ``runp.py`` with the same name and default.

    Values may be given as strings, as on the command line.

    Raises:
        UserError: (a ValueError) names the flag, what was found and what was expected.
    """

    is_training: bool = _run(
        True, parse_bool, "True trains, False tests --pretrained_model: a network and frames as it was trained with"
    )
    train_data_paths: str = _data("", parse_text, "data set to train on: the root of KTH or own films, or .npz")
    valid_data_paths: str = _data("", parse_text, "data set to test on; for KTH the same root (the split is by person)")
    validation_persons: str = _data(
        "",
        parse_persons,
        "of KTH, as 14,15,16: not trained on; tests during a training take them, and the test persons stay unseen",
        metavar="N,N,...",
    )
    dataset_name: str = _data(
        "action", parse_text, _one_of(f"{name} ({entry.help})" for name, entry in DATASETS.items()), choices=DATASETS
    )
    save_dir: str = _run("checkpoints", parse_text, "where checkpoints and the log go")
    gen_frm_dir: str = _run("results", parse_text, "where predicted frames and metrics.json go")
    model_name: str = _network(
        "e3d_lstm",
        parse_text,
        "network: " + _one_of(f"{name} ({entry.help})" for name, entry in MODELS.items()),
        choices=MODELS,
    )
    pretrained_model: str = _run(
        "",
        parse_text,
        "checkpoint directory whose weights to start from, or to test (needed when testing)",
        metavar="DIR",
    )
    resume: str = _run(
        "",
        parse_resume,
        "continue the run in save_dir from its newest whole checkpoint, or start it where there is none yet; "
        "--resume DIR: from that checkpoint",
        metavar="DIR",
    )
    predict_video: str = _testing(
        "",
        parse_text,
        "a video, GIF or folder of numbered pictures: forecast how it goes on with --pretrained_model",
        metavar="FILM",
    )
    predict_start: int = _testing(
        0,
        parse_int,
        "number of the first given frame of --predict_video, from 1; 0: the last frames are given",
        minimum=0,
        metavar="FRAME",
    )
    num_save_samples: int = _testing(10, parse_int, "test batches whose first sequence is saved as pictures", minimum=0)

    img_channel: int = _data(
        1,
        parse_int,
        "channels of a frame: 1; also 3 (colour) with --dataset_name "
        + _one_of(name for name, entry in DATASETS.items() if 3 in entry.channels),
        minimum=1,
    )
    img_width: int = _data(
        128,
        parse_int,
        "frames are resized to this width and height, in pixels",
        minimum=1,
        maximum=4096,
        metavar="PIXELS",
    )
    patch_size: int = _network(
        8,
        parse_int,
        "side of the square of pixels that becomes one position; divides img_width",
        minimum=1,
        metavar="PIXELS",
    )
    input_length: int = _data(10, parse_int, "frames given", minimum=1, metavar="FRAMES")
    total_length: int = _data(30, parse_int, "frames given + predicted", minimum=2, maximum=10000, metavar="FRAMES")
    filter_size: int = _network(5, parse_int, "rows and columns of the convolution kernels; odd", minimum=1)
    num_hidden: str = _network(
        "64,64,64,64", parse_sizes, "hidden channels of each layer, equal, with commas between", metavar="N,N,..."
    )
    layer_norm: bool = _network(True, parse_bool, "layer norm after the convolutions of the gates (e3d_lstm alone)")
    norm_epsilon: float = _network(
        1e-5,
        parse_float,
        "added to the variance in every norm; 1 keeps small states small, which learns sooner",
        above=0.0,
        maximum=FLOAT32_LIMIT,
    )
    residual: bool | str = _network(
        False,
        parse_residual,
        "True: the decoder predicts what is added to the frame fed last, in place of the next frame itself. gate: a "
        "prediction is a weighted mean of that frame, of the mean of the given frames and of the decoder's",
        metavar="BOOL|gate",
    )
    center: float = _network(
        0.0,
        parse_float,
        "the cells are fed, and predict, the difference from the mean of the given frames, times this number; 0: the "
        "frames themselves",
        minimum=0.0,
        maximum=FLOAT32_LIMIT,
    )

    l1_weight: float = _training(
        1.0,
        parse_float,
        "weight of the absolute differences in the loss; 1 in the paper",
        minimum=0.0,
        maximum=FLOAT32_LIMIT,
    )
    l1_from: int = _training(
        0, parse_int, "iteration from which l1_weight counts; before it the weight is 0", minimum=0, metavar="ITERATION"
    )
    start_at_mean: bool = _training(
        False,
        parse_bool,
        "the decoder's bias begins at the training clips' mean brightness, in place of 0; --residual gate without "
        "--center always does",
    )
    ema: float = _training(
        0.0,
        parse_float,
        "decay of a moving average of the weights, which tests and forecasts then use, as 0.999; 0: none",
        minimum=0.0,
        maximum=1 - 1e-7,
    )
    flip: bool = _training(False, parse_bool, "mirror each training clip left to right with probability 1/2")
    reverse_input: bool = _training(
        False, parse_bool, "take a second step on the time-reversed clip at every iteration"
    )
    scheduled_sampling: bool = _training(
        True, parse_bool, "feed true frames with a probability eta that falls during training; False: never"
    )
    sampling_start_value: float = _training(1.0, parse_float, "eta at the start", minimum=0.0, maximum=1.0)
    sampling_stop_iter: int = _training(
        50000, parse_int, "eta is 0 from this iteration on", minimum=0, metavar="ITERATION"
    )
    sampling_changing_rate: float = _training(
        2e-5, parse_float, "how much eta falls an iteration", minimum=0.0, aliases=("sampling_delta_per_iter",)
    )
    optimizer: str = _training("sgd", parse_text, "how the weights are updated", choices=OPTIMIZERS)
    betas: str = _training(
        "0.95,0.9995", parse_betas, "of adam: decay of its means of gradients and of their squares", metavar="B1,B2"
    )
    lr: float = _training(1e-3, parse_float, "learning rate", above=0.0, maximum=FLOAT32_LIMIT, metavar="RATE")
    lr_schedule: str = _training(
        "",
        parse_schedule,
        "in place of lr, stages of rate:iterations, as 1e-3:20000,5e-4:20000; the last rate stays. "
        "cosine:PEAK:ITERATIONS:WARMUP: a rise, then a fall to a hundredth of PEAK. kth: the table in docs/training.md",
    )
    grad_clip: float = _training(
        0.0,
        parse_float,
        "scale gradients down to this global norm where theirs is larger; 0: never",
        minimum=0.0,
        maximum=FLOAT32_LIMIT,
        metavar="NORM",
    )
    weight_decay: float = _training(
        5e-4, parse_float, "L2 decay, coupled with the gradient", minimum=0.0, maximum=FLOAT32_LIMIT
    )
    batch_size: int = _training(
        4, parse_int, "clips in a batch, of each process of a job", minimum=1, maximum=65536, metavar="CLIPS"
    )
    max_iterations: int = _training(
        400000, parse_int, "iterations to train", minimum=1, maximum=10**9, metavar="ITERATIONS"
    )
    display_interval: int = _training(
        1, parse_int, "iterations between two lines of the log", minimum=1, metavar="ITERATIONS"
    )
    test_interval: int = _testing(500, parse_int, "iterations between two tests", minimum=1, metavar="ITERATIONS")
    snapshot_interval: int = _training(
        500, parse_int, "iterations between two checkpoints", minimum=1, metavar="ITERATIONS"
    )
    keep_checkpoints: int = _training(
        5, parse_int, "newest checkpoints to keep, beside the best; 0 keeps every one", minimum=0
    )
    keep_pictures: int = _testing(
        5, parse_int, "newest tests of a training whose pictures are kept, beside the best; 0 keeps all", minimum=0
    )
    test_max_clips: int = _testing(
        0,
        parse_int,
        "clips of a test during training, spread evenly over the test set; 0: every clip",
        minimum=0,
        metavar="CLIPS",
    )
    log_dir: str = _training("", parse_text, "where curves and forecasts for VisualDL go; empty: not written")

    device: str = _machine(
        "auto",
        parse_device,
        "auto (the first GPU, XPU or NPU that Paddle sees, else the CPU), cpu, gpu, xpu or npu, also gpu:N ...",
    )
    precision: str = _machine(
        "fp32",
        parse_text,
        "of the convolutions: fp32, fp16 (with a dynamic loss scale) or bf16; emulated on a CPU, which takes more time",
        choices=PRECISIONS,
    )
    deterministic: bool = _machine(
        False, parse_bool, "on a GPU take cuDNN's algorithms that give the same bits each time, which are slower"
    )
    allow_gpu_growth: bool = _machine(
        True, parse_bool, "take GPU memory as it is needed; False takes nearly the whole card at the start"
    )
    recompute: bool = _machine(
        False, parse_bool, "keep only the states of each time step and compute the rest again: less memory, more time"
    )
    num_workers: int = _machine(
        2,
        parse_int,
        "threads that decode frames ahead of time; 0 decodes a batch only once it is needed",
        minimum=0,
        maximum=256,
    )
    video_cache_mb: int = _machine(
        2048,
        parse_int,
        "memory for decoded videos, in MB, of the training and of the test set each",
        minimum=1,
        metavar="MB",
    )
    seed: int = _training(
        0, parse_int, "seed of the weights, of the data order and of scheduled sampling", minimum=0, maximum=2**32 - 1
    )

    def __post_init__(self) -> None:
        for flag in fields(self):
            setattr(self, flag.name, _checked(flag.name, getattr(self, flag.name), flag.metadata))
        if self.img_width % self.patch_size:
            divisors = [str(side) for side in range(1, self.img_width + 1) if self.img_width % side == 0]
            raise UserError(
                f"--patch_size {self.patch_size} does not divide --img_width {self.img_width}; "
                f"take one of {', '.join(divisors)}"
            )
        if self.input_length >= self.total_length:
            raise UserError(
                f"--input_length {self.input_length} must be smaller than --total_length {self.total_length}: "
                "the total is the frames given + predicted"
            )
        if self.filter_size % 2 == 0:
            raise UserError(f"--filter_size {self.filter_size} is even; the kernels need an odd number, as 3 or 5")
        if self.start_at_mean and (self.residual is True or self.center):
            other = "--residual True" if self.residual is True else f"--center {self.center:g}"
            raise UserError(
                f"{other} and --start_at_mean True: the mean of a difference is 0, not the brightness of the frames; "
                "leave one out"
            )
        default_lr = self.__dataclass_fields__["lr"].default
        if self.lr_schedule and self.lr != default_lr:
            raise UserError(
                f"--lr {self.lr:g} and --lr_schedule {self.lr_schedule} are both given; leave one out "
                "(in a script that gives the schedule: --lr_schedule '')"
            )

    @property
    def patch_channels(self) -> int:
        """Channels of a position, p*p*C."""
        return self.patch_size**2 * self.img_channel

    @property
    def cache_bytes(self) -> int:
        """Memory for the decoded videos of a data set."""
        return self.video_cache_mb * 2**20

    @property
    def validation(self) -> list[int]:
        """The persons of --validation_persons."""
        return [int(person) for person in self.validation_persons.split(",") if person]

    @property
    def hidden_sizes(self) -> list[int]:
        """Hidden channels of each layer."""
        return [int(size) for size in self.num_hidden.split(",")]

    @classmethod
    def from_command_line(cls, arguments: Sequence[str] | None = None) -> Config:
        """Read flags (``sys.argv`` without the program by default).

        In a test (--is_training False) and with --predict_video, flags of the network and of the frames that are not
        given are those of the checkpoint.

        Raises:
            UserError: an unknown flag, a missing value, a value that fails a check, or a checkpoint of another network.
        """
        given = vars(command_line_parser().parse_args(arguments))
        rules = {flag.name: flag.metadata for flag in fields(cls)}
        checked = {name: _checked(name, value, rules[name]) for name, value in given.items()}
        if checked.get("predict_video") or not checked.get("is_training", True):
            directory = checked.get("pretrained_model", "")
            saved = _settings_of(directory) if directory else {}
            check_same_network(f"--pretrained_model {directory}", saved, checked)
            checked = {**saved, **checked}
        return cls(**checked)

    def check_run(self, is_first_rank: bool = True) -> None:
        """Check what a run needs beyond sound values: paths that exist, folders that can be written. Reads no data.

        Args:
            is_first_rank: False for a rank that reads no checkpoint and writes nothing.

        Raises:
            UserError: names the flag.
        """
        self._check_channels()
        if self.img_width < SSIM_WINDOW:
            raise UserError(f"--img_width {self.img_width}: SSIM needs at least {SSIM_WINDOW} pixels; give more")
        if self.predict_video:
            self._check_prediction()
        else:
            self._check_training_or_test()
        if is_first_rank:
            # A run that is resumed has no use for the weights that it started from.
            self._check_checkpoint("resume" if self.resume and not self.predict_video else "pretrained_model")
            self._check_folders()

    def _check_channels(self) -> None:
        channels = (1, 3) if self.predict_video else DATASETS[self.dataset_name].channels
        if self.img_channel not in channels:
            expected = _one_of(CHANNELS.get(number, str(number)) for number in channels)
            what = "--predict_video" if self.predict_video else f"--dataset_name {self.dataset_name}"
            raise UserError(f"--img_channel {self.img_channel}: for {what} expected {expected}")

    def _check_training_or_test(self) -> None:
        if self.validation_persons and self.dataset_name != "action":
            raise UserError(
                f"--validation_persons {self.validation_persons}: only KTH has persons, not --dataset_name "
                f"{self.dataset_name}; leave it out"
            )
        if self.is_training:
            self._check_data_paths("train_data_paths")
        if not (self.is_training and self.validation_persons):
            self._check_data_paths("valid_data_paths")
        if not self.is_training and not self.pretrained_model:
            raise UserError("--pretrained_model is empty; testing needs a checkpoint's directory, as checkpoints/500")
        if self.resume and not self.is_training:
            raise UserError("--resume continues a training; to test a checkpoint give it as --pretrained_model")

    def _check_prediction(self) -> None:
        if not self.pretrained_model:
            raise UserError("--pretrained_model is empty; --predict_video needs a checkpoint's directory")
        if not os.path.exists(self.predict_video):
            raise UserError(f"--predict_video {self.predict_video}: there is no such file or folder; check the path")

    def _check_checkpoint(self, flag: str) -> None:
        directory = getattr(self, flag)
        if directory and directory != NEWEST and not os.path.isdir(directory):
            example = os.path.join(self.save_dir, "500")
            raise UserError(f"--{flag} {directory}: {no_checkpoint(directory, example)}")

    def _check_folders(self) -> None:
        if not self.predict_video:
            self._check_outside_data("gen_frm_dir")
        if self.is_training and not self.predict_video:
            self._check_outside_data("save_dir")
            if os.path.realpath(self.save_dir) == os.path.realpath(self.gen_frm_dir):
                raise UserError(
                    f"--save_dir {self.save_dir} and --gen_frm_dir {self.gen_frm_dir} are the same folder, where "
                    "checkpoints and tests would have the same names; give two"
                )
            _check_writable("save_dir", self.save_dir)
            if self.log_dir:
                _check_writable("log_dir", self.log_dir)
        _check_writable("gen_frm_dir", self.gen_frm_dir)

    def _check_outside_data(self, flag: str) -> None:
        """Pictures and films of a forecast must not become films of the data set."""
        place = os.path.realpath(getattr(self, flag))
        for data in ("train_data_paths", "valid_data_paths"):
            for root in split_paths(getattr(self, data)):
                for name in DATASETS[self.dataset_name].reads:
                    folder = os.path.join(root, name) if name else root
                    films = os.path.realpath(folder)
                    if os.path.commonpath([films, place]) == films:
                        raise UserError(
                            f"--{flag} {getattr(self, flag)}: is in {folder}, which --{data} {root} reads; "
                            "give a folder outside it"
                        )

    def _check_data_paths(self, flag: str) -> None:
        value = getattr(self, flag)
        if not split_paths(value):
            raise UserError(
                f"--{flag} is empty; give the data set, for KTH the folder that holds boxing, handclapping, ... "
                "(scripts/make_sample_data.py makes a small one)"
            )
        for path in split_paths(value):
            if not os.path.exists(path):
                raise UserError(f"--{flag} {path}: there is no such file or folder; check the path")


def _settings_of(checkpoint: str) -> dict[str, Any]:
    """The flags of the network and of its frames that a checkpoint was trained with; none where that is not known (what
    is wrong with the checkpoint is said when its weights are read).

    Raises:
        UserError: a value that no flag can have here, as the name of a model that is not registered.
    """
    try:
        saved = read_state("", checkpoint).get("config", {})
    except UserError:
        return {}
    rules = {flag.name: flag.metadata for flag in fields(Config)}
    try:
        found = [flag for flag in (*NETWORK_FLAGS, *FRAME_FLAGS) if flag in saved]
        return {flag: _checked(flag, saved[flag], rules[flag]) for flag in found}
    except UserError as error:
        raise UserError(f"--pretrained_model {checkpoint}: its {STATE_FILE} cannot be used ({error})") from None


def check_same_network(flag: str, saved: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Compare the flags of the network that a checkpoint was trained with, where it holds them, with those of a run.

    Args:
        flag: begins the message.
        saved: ``config`` of the checkpoint's state.json; empty where that is not known.
        settings: the run's flags; those that are missing are not compared.

    Raises:
        UserError: some differ; both values are listed.
    """
    there = {**LATER_FLAGS, **saved} if saved else {}
    compared = [name for name in NETWORK_FLAGS if name in there and name in settings]
    differing = [name for name in compared if _weights_of(name, there) != _weights_of(name, settings)]
    if differing:
        made, here = list_flags(differing, there), list_flags(differing, settings)
        raise UserError(
            f"{flag}: is of another network, made with {made}; this run has {here}; give the same "
            "(a test or a forecast takes them from the checkpoint)"
        )


def _weights_of(flag: str, settings: Mapping[str, Any]) -> Any:
    """What a flag says of the weights: models with the same parameters are one model."""
    value = settings[flag]
    return MODELS[value].same_weights_as or value if flag == "model_name" and value in MODELS else value


def command_line_parser() -> argparse.ArgumentParser:
    """The parser of ``runp.py``: each flag of :class:`Config`, its value kept as a string."""
    parser = OneLineParser(
        prog="runp.py",
        usage="python runp.py --flag value ... (each flag below, in any order)",
        description="Train or test the eidetic 3D LSTM (E3D-LSTM), or forecast how a video goes on.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups = {group: parser.add_argument_group(group) for group in GROUPS}
    for flag in fields(Config):
        names = [f"--{flag.name}", *(f"--{alias}" for alias in flag.metadata["aliases"])]
        default = "empty" if flag.default == "" else str(flag.default)
        # A bare --reverse_input means True, a bare --resume the newest checkpoint.
        alone = flag.metadata["parse"] in (parse_bool, parse_residual, parse_resume)
        groups[flag.metadata["group"]].add_argument(
            *names,
            dest=flag.name,
            metavar=_metavar(flag),
            help=f"{flag.metadata['help']} (default: {default})".replace("%", "%%"),
            **({"nargs": "?", "const": "True"} if alone else {}),
        )
    return parser


def _metavar(flag: Field[Any]) -> str:
    """What stands for a flag's value in --help: its choices, its unit, or what kind of value it is."""
    if flag.metadata["choices"]:
        return "{" + ",".join(flag.metadata["choices"]) + "}"
    kinds = {parse_bool: "BOOL", parse_int: "N", parse_float: "NUMBER"}
    return flag.metadata["metavar"] or kinds.get(flag.metadata["parse"]) or flag.name.split("_")[-1].upper()


def _checked(name: str, value: Any, rules: Any) -> Any:
    """The parsed value of a flag, or a UserError that names it."""
    try:
        parsed = rules["parse"](value)
    except ValueError as error:
        raise UserError(f"--{name} {value}: {error}") from None
    if rules["choices"] and parsed not in rules["choices"]:
        known = f"{', '.join(rules['choices'])}{did_you_mean(parsed, rules['choices'])}"
        raise UserError(f"--{name} {value}: there is no such {name}; known: {known}")
    if rules["minimum"] is not None and parsed < rules["minimum"]:
        raise UserError(f"--{name} {value}: expected {rules['minimum']} or more")
    if rules["maximum"] is not None and parsed > rules["maximum"]:
        raise UserError(f"--{name} {value}: expected {rules['maximum']} or less")
    if rules["above"] is not None and parsed <= rules["above"]:
        raise UserError(f"--{name} {value}: expected a number above {rules['above']:g}")
    return parsed


def _check_writable(flag: str, directory: str) -> None:
    """Make the directory and write a file in it: permission bits alone do not tell (root, read-only mounts, quotas)."""
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--{flag} {directory}: cannot be written ({reason}); give a folder that can") from None
