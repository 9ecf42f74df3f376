"""Flags: their values, their checks and the message of each."""

import dataclasses
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.config import Config, command_line_parser
from src.data_provider.datasets_factory import DATASETS, DataSet
from src.errors import UserError
from src.flag_values import split_paths
from src.models.model_factory import MODELS, Model
from src.one_line_parser import OneLineParser
from tests.helpers import ROOT


@pytest.mark.parametrize("flag", ["is_training", "layer_norm", "reverse_input", "scheduled_sampling"])
def test_booleans_read_as_written(flag):
    for value, texts in {True: ("True", "true", "1", "yes"), False: ("False", "false", "0", "no")}.items():
        for text in texts:
            assert getattr(Config.from_command_line([f"--{flag}", text]), flag) is value
            assert getattr(Config(**{flag: text}), flag) is value
    assert getattr(Config.from_command_line([f"--{flag}", "--img_width", "64"]), flag) is True  # the flag alone


def test_values_from_the_command_line_and_from_python_are_the_same():
    flags = ["--img_width", "64", "--num_hidden", "32,32", "--lr", "5e-4", "--train_data_paths", "a b"]
    config = Config.from_command_line(flags)
    assert config == Config(img_width=64, num_hidden="32,32", lr=5e-4, train_data_paths="a b")
    assert config == Config(img_width="64", num_hidden=[32, 32], lr="5e-4", train_data_paths=Path("a b"))
    assert config.hidden_sizes == [32, 32]


def test_defaults_are_those_that_scripts_rely_on():
    config = Config()
    expected = {
        "is_training": True,
        "dataset_name": "action",
        "save_dir": "checkpoints",
        "gen_frm_dir": "results",
        "model_name": "e3d_lstm",
        "pretrained_model": "",
        "num_save_samples": 10,
        "img_channel": 1,
        "img_width": 128,
        "patch_size": 8,
        "input_length": 10,
        "total_length": 30,
        "filter_size": 5,
        "num_hidden": "64,64,64,64",
        "layer_norm": True,
        "reverse_input": False,
        "scheduled_sampling": True,
        "sampling_start_value": 1.0,
        "sampling_stop_iter": 50000,
        "sampling_changing_rate": 2e-5,
        "lr": 1e-3,
        "batch_size": 4,
        "max_iterations": 400000,
        "display_interval": 1,
        "test_interval": 500,
        "snapshot_interval": 500,
        "allow_gpu_growth": True,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_alias_of_the_sampling_rate_sets_it():
    assert Config.from_command_line(["--sampling_delta_per_iter", "1e-4"]).sampling_changing_rate == 1e-4


BAD_VALUES = {
    "is_training": ["maybe"],
    "img_width": ["wide", 64.5, True, 0, 10**11],
    "lr": ["fast", "nan", 0, -1e-3],
    "weight_decay": [-1],
    "patch_size": [7, 0],
    "img_channel": [0],
    "input_length": [0, 30],
    "total_length": [1, 10**9],
    "filter_size": [4, 0],
    "num_hidden": ["64,x", "64,-64", "0,0", "", "64,32"],
    "sampling_start_value": [1.5, -0.5],
    "sampling_stop_iter": [-1],
    "sampling_changing_rate": [-1],
    "batch_size": [0, 10**9],
    "max_iterations": [0],
    "display_interval": [0],
    "test_interval": [0],
    "snapshot_interval": [0],
    "num_save_samples": [-1],
    "keep_checkpoints": [-1],
    "keep_pictures": [-1],
    "test_max_clips": [-1],
    "grad_clip": [-1],
    "optimizer": ["sdg"],
    "lr_schedule": ["1e-3", "1e-3:10,", "1e-3:10,0:10", "1e-3:2.5", "mnist"]
    + ["cosine:1e-3", "cosine:1e-3:10:10", "cosine:0:10"],
    "betas": ["0.9", "0.9,1"],
    "norm_epsilon": [0],
    "residual": ["maybe"],
    "center": [-1],
    "validation_persons": ["14,17"],
    "l1_weight": [-1],
    "l1_from": [-1],
    "ema": [-0.1, 1],
    "num_workers": [-1, 1000],
    "seed": [-1, 2**32],
    "predict_start": [-1],
    "video_cache_mb": [0],
    "device": ["tpu", "cpu:0"],
    "precision": ["half"],
    "dataset_name": ["kth"],
    "model_name": ["lstm"],
    "save_dir": [None],
}


@pytest.mark.parametrize(("flag", "value"), [(flag, value) for flag in BAD_VALUES for value in BAD_VALUES[flag]])
def test_a_bad_value_is_refused_with_its_flag_in_python(flag, value):
    with pytest.raises(ValueError) as error:
        Config(**{flag: value})
    assert str(error.value).startswith(f"--{flag} {value}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flag", "value", "advice"),
    [
        ("img_width", 10**11, "4096"),
        ("patch_size", 7, "1, 2, 4, 8, 16, 32, 64, 128"),
        ("input_length", 30, "--total_length 30"),
        ("optimizer", "sdg", "sgd, adam"),
        ("lr_schedule", "1e-3:10,0:10", "'0:10'"),
        ("lr_schedule", "cosine:1e-3:10:10", "cosine:PEAK:ITERATIONS"),
        ("device", "tpu", "auto, cpu, gpu, xpu, npu"),
    ],
)
def test_the_refusal_of_a_value_says_what_is_expected(flag, value, advice):
    with pytest.raises(ValueError, match=re.escape(advice)):
        Config(**{flag: value})


def test_a_rate_and_a_schedule_are_not_given_together():
    with pytest.raises(ValueError, match="--lr 0.5 .*--lr_schedule kth"):
        Config(lr_schedule="kth", lr=0.5)


def test_every_flag_with_a_limit_is_in_the_list_of_bad_values():
    limits = ("minimum", "maximum", "above")
    for flag in dataclasses.fields(Config):
        if flag.metadata["choices"] or any(flag.metadata[limit] is not None for limit in limits):
            assert flag.name in BAD_VALUES


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--save_dirr x", ["--save_dirr", "--save_dir?"]),
        ("--zzzzzzzz", ["--zzzzzzzz", "--help"]),
        ("--save x", ["--save is not a flag"]),
        ("stray", ["stray is not a flag"]),
        ("--batch_size 64 --num_hidden 64 64", ["--num_hidden 64 64", "--num_hidden 64,64"]),
        ("--betas 0.9, 0.999", ["--betas 0.9,0.999"]),
        ("--save_dir my run", ["--save_dir my run", "quotes"]),
        ("--lr", ["--lr"]),
        ("--lr -1", ["--lr -1"]),
        ("--dataset_name kth", ["action, mnist, folder", "did you mean action?"]),
        ("--dataset_name moving-mnist", ["did you mean mnist?"]),
        ("--model_name E3D-LSTM", ["did you mean e3d_lstm?"]),
        ("--optimizer adamw", ["did you mean adam?"]),
    ],
)
def test_a_bad_command_line_is_refused_in_one_line(arguments, parts):
    with pytest.raises(UserError) as error:
        Config.from_command_line(arguments.split())
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value), error.value


def test_a_word_too_many_is_not_taken_for_a_value_where_a_script_has_positions_or_flags_of_several_values():
    parser = OneLineParser(prog="scripts/some.py")
    parser.add_argument("--actions", nargs="+")
    parser.add_argument("--out")
    with pytest.raises(UserError, match="^--out a b: expected one value"):
        parser.parse_args(["--actions", "boxing", "b", "--out", "a", "b"])
    parser.add_argument("checkpoint")
    with pytest.raises(UserError, match="^b is not a flag"):
        parser.parse_args(["--out", "a", "checkpoint", "b"])


def run_settings(tmp_path, **settings):
    (tmp_path / "data").mkdir(exist_ok=True)
    paths = {
        "train_data_paths": tmp_path / "data",
        "valid_data_paths": tmp_path / "data",
        "save_dir": tmp_path / "ck",
        "gen_frm_dir": tmp_path / "results",
    }
    return Config(**{**paths, **settings})


def test_a_run_with_all_it_needs_passes_and_makes_its_folders(tmp_path):
    run_settings(tmp_path).check_run()
    assert (tmp_path / "ck").is_dir() and (tmp_path / "results").is_dir()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"train_data_paths": ""}, "--train_data_paths"),
        ({"valid_data_paths": ""}, "--valid_data_paths"),
        ({"valid_data_paths": " , "}, "--valid_data_paths"),
        ({"train_data_paths": "/nonexistent"}, "--train_data_paths /nonexistent"),
        ({"valid_data_paths": "/nonexistent"}, "--valid_data_paths /nonexistent"),
        ({"is_training": False}, "--pretrained_model"),
        ({"pretrained_model": "/nonexistent"}, "--pretrained_model /nonexistent"),
        ({"img_channel": 3}, "--img_channel 3: for --dataset_name action"),
        ({"img_width": 4, "patch_size": 4}, "--img_width 4: SSIM"),
        ({"save_dir": "/dev/null/x"}, "--save_dir /dev/null/x"),
        ({"gen_frm_dir": "/dev/null/x"}, "--gen_frm_dir /dev/null/x"),
    ],
)
def test_what_a_run_lacks_is_said_before_data_is_read(tmp_path, settings, flag):
    with pytest.raises(UserError) as error:
        run_settings(tmp_path, **settings).check_run()
    assert str(error.value).startswith(flag) and "\n" not in str(error.value)


def test_a_test_run_needs_neither_training_data_nor_save_dir(tmp_path):
    (tmp_path / "weights").mkdir()
    settings = {"is_training": False, "train_data_paths": "", "save_dir": "/dev/null/x"}
    run_settings(tmp_path, pretrained_model=tmp_path / "weights", **settings).check_run()


def test_paths_are_split_at_commas_unless_the_whole_exists(tmp_path):
    comma = tmp_path / "a,b"
    comma.mkdir()
    assert split_paths(str(comma)) == [str(comma)]
    assert split_paths("x.npz, y.npz") == ["x.npz", "y.npz"]


def test_help_lists_the_flags_in_groups_with_help_choices_and_units_on_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = command_line_parser().format_help()
    assert max(map(len, text.splitlines())) <= 80
    _, *parts = re.split(r"^(\w+):\n", text.split("exit\n", 1)[1], flags=re.MULTILINE)  # after -h, --help
    assert parts[::2] == ["run", "data", "network", "training", "testing", "machine"]
    groups = {name: " ".join(part.split()) for name, part in zip(parts[::2], parts[1::2])}
    for flag in dataclasses.fields(Config):
        group = groups[flag.metadata["group"]]
        assert f"--{flag.name} " in group and flag.metadata["help"] in group
    for group, shown in {
        "data": "--dataset_name {action,mnist,folder}",
        "network": "--num_hidden N,N,...",
        "training": "--grad_clip NORM",
        "machine": "--precision {fp32,fp16,bf16}",
    }.items():
        assert shown in groups[group]


def test_help_and_a_wrong_flag_do_not_load_paddle():
    code = (
        "import sys, runp\n"
        "try: status = runp.main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code\n"
        "sys.exit((status or 0) + 10 * ('paddle' in sys.modules))"
    )
    for flag, status, lines in (("--zzz", 2, 1), ("--help", 0, 0)):
        result = subprocess.run([sys.executable, "-c", code, flag], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == status and len(result.stderr.splitlines()) == lines


REGISTRIES = [("model_name", MODELS, Model), ("dataset_name", DATASETS, DataSet)]
each_registry = pytest.mark.parametrize(("flag", "registry", "entry"), REGISTRIES, ids=["model_name", "dataset_name"])


@each_registry
def test_what_is_registered_can_be_chosen_and_stands_in_the_help(flag, registry, entry, monkeypatch):
    help = {field.name: field.metadata["help"] for field in dataclasses.fields(Config)}
    for name, registered in registry.items():
        assert getattr(Config(**{flag: name}), flag) == name
        assert f"{name} ({registered.help})" in help[flag]
        assert callable(pkgutil.resolve_name(registered.path).from_config)
    with pytest.raises(UserError, match=f"there is no such {flag}; known: {', '.join(registry)}$"):
        Config(**{flag: "new"})
    monkeypatch.setitem(registry, "new", entry("src.new:New", "one more"))
    assert getattr(Config.from_command_line([f"--{flag}", "new"]), flag) == "new"


def test_a_data_set_has_the_channels_that_it_is_registered_with(tmp_path, monkeypatch):
    help = {field.name: field.metadata["help"] for field in dataclasses.fields(Config)}
    for name, registered in DATASETS.items():
        assert (name in help["img_channel"]) == (3 in registered.channels)
        for channels in registered.channels:
            run_settings(tmp_path, dataset_name=name, img_channel=channels).check_run()
    monkeypatch.setitem(DATASETS, "new", DataSet("src.new:New", "one more", channels=(3,)))
    with pytest.raises(UserError, match=r"--img_channel 1: for --dataset_name new expected 3 \(colour\)"):
        run_settings(tmp_path, dataset_name="new").check_run()


@pytest.mark.parametrize("page", ["docs/flags.md", "docs/cn/flags.md"])
def test_the_flag_table_of_the_documents_is_the_one_of_config(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]\w*)` \| ?`?([^|`]*)`? ?\|", text, re.MULTILINE)
    expected = [(flag.name, "" if flag.default == "" else str(flag.default)) for flag in dataclasses.fields(Config)]
    assert [(name, default.strip()) for name, default in rows] == expected
