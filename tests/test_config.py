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
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("true", True),
        ("1", True),
        ("yes", True),
        ("False", False),
        ("false", False),
        ("0", False),
        ("no", False),
    ],
)
def test_booleans_read_as_written(flag, text, value):
    assert getattr(Config.from_command_line([f"--{flag}", text]), flag) is value
    assert getattr(Config(**{flag: text}), flag) is value


def test_a_boolean_flag_alone_means_true():
    assert Config.from_command_line(["--reverse_input", "--img_width", "64"]).reverse_input is True


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


BAD_VALUES = [
    ({"is_training": "maybe"}, "--is_training maybe: expected True or False"),
    ({"img_width": "wide"}, "--img_width wide: expected a whole number"),
    ({"img_width": 64.5}, "--img_width 64.5: expected a whole number"),
    ({"img_width": True}, "--img_width True: expected a whole number"),
    ({"lr": "fast"}, "--lr fast: expected a number"),
    ({"lr": "nan"}, "--lr nan: expected a finite number"),
    ({"lr": 0}, "--lr 0: expected a number above 0"),
    ({"lr": -1e-3}, "--lr -0.001: expected a number above 0"),
    ({"weight_decay": -1}, "--weight_decay -1: expected 0.0 or more"),
    ({"patch_size": 7}, "--patch_size 7 does not divide --img_width 128; take one of 1, 2, 4, 8, 16, 32, 64, 128"),
    ({"patch_size": 0}, "--patch_size 0: expected 1 or more"),
    ({"img_width": 0}, "--img_width 0: expected 1 or more"),
    ({"img_channel": 0}, "--img_channel 0: expected 1 or more"),
    ({"input_length": 0}, "--input_length 0: expected 1 or more"),
    ({"input_length": 30}, "--input_length 30 must be smaller than --total_length 30"),
    ({"total_length": 1}, "--total_length 1: expected 2 or more"),
    ({"filter_size": 4}, "--filter_size 4 is even; the kernels need an odd number"),
    ({"filter_size": 0}, "--filter_size 0: expected 1 or more"),
    ({"num_hidden": "64,x"}, "--num_hidden 64,x: expected channels of each layer"),
    ({"num_hidden": "64,-64"}, "--num_hidden 64,-64: expected channels of each layer"),
    ({"num_hidden": "0,0"}, "--num_hidden 0,0: expected channels of each layer"),
    ({"num_hidden": ""}, "--num_hidden : expected channels of each layer"),
    ({"num_hidden": "64,32"}, "--num_hidden 64,32: the layers share one memory, so their sizes must be equal"),
    ({"sampling_start_value": 1.5}, "--sampling_start_value 1.5: expected 1.0 or less"),
    ({"sampling_start_value": -0.5}, "--sampling_start_value -0.5: expected 0.0 or more"),
    ({"sampling_stop_iter": -1}, "--sampling_stop_iter -1: expected 0 or more"),
    ({"sampling_changing_rate": -1}, "--sampling_changing_rate -1: expected 0.0 or more"),
    ({"batch_size": 0}, "--batch_size 0: expected 1 or more"),
    ({"max_iterations": 0}, "--max_iterations 0: expected 1 or more"),
    ({"display_interval": 0}, "--display_interval 0: expected 1 or more"),
    ({"test_interval": 0}, "--test_interval 0: expected 1 or more"),
    ({"snapshot_interval": 0}, "--snapshot_interval 0: expected 1 or more"),
    ({"num_save_samples": -1}, "--num_save_samples -1: expected 0 or more"),
    ({"keep_checkpoints": -1}, "--keep_checkpoints -1: expected 0 or more"),
    ({"keep_pictures": -1}, "--keep_pictures -1: expected 0 or more"),
    ({"test_max_clips": -1}, "--test_max_clips -1: expected 0 or more"),
    ({"grad_clip": -1}, "--grad_clip -1: expected 0.0 or more"),
    ({"optimizer": "sdg"}, "--optimizer sdg: there is no such optimizer; known: sgd, adam"),
    ({"lr_schedule": "1e-3"}, "--lr_schedule 1e-3: the stage '1e-3' is not rate:iterations"),
    ({"lr_schedule": "1e-3:10,"}, "--lr_schedule 1e-3:10,: the stage '' is not rate:iterations"),
    ({"lr_schedule": "1e-3:10,0:10"}, "--lr_schedule 1e-3:10,0:10: the stage '0:10' is not rate:iterations"),
    ({"lr_schedule": "1e-3:2.5"}, "--lr_schedule 1e-3:2.5: the stage '1e-3:2.5' is not rate:iterations"),
    ({"lr_schedule": "mnist"}, "stages as 1e-3:20000,5e-4:20000, cosine:PEAK:ITERATIONS:WARMUP, or one of kth"),
    ({"lr_schedule": "cosine:1e-3"}, "--lr_schedule cosine:1e-3: expected cosine:PEAK:ITERATIONS"),
    ({"lr_schedule": "cosine:1e-3:10:10"}, "with WARMUP below ITERATIONS, as cosine:2e-3:10000:500"),
    ({"lr_schedule": "cosine:0:10"}, "--lr_schedule cosine:0:10: expected cosine:PEAK:ITERATIONS"),
    ({"betas": "0.9"}, "--betas 0.9: expected two numbers from 0 to below 1 with a comma between"),
    ({"betas": "0.9,1"}, "--betas 0.9,1: expected two numbers from 0 to below 1 with a comma between"),
    ({"norm_epsilon": 0}, "--norm_epsilon 0: expected a number above 0"),
    ({"l1_weight": -1}, "--l1_weight -1: expected 0.0 or more"),
    ({"l1_from": -1}, "--l1_from -1: expected 0 or more"),
    ({"ema": -0.1}, "--ema -0.1: expected 0.0 or more"),
    ({"ema": 1}, "--ema 1: expected 0.9999999 or less"),
    ({"lr_schedule": "kth", "lr": 0.5}, "--lr 0.5 and --lr_schedule kth are both given"),
    ({"num_workers": -1}, "--num_workers -1: expected 0 or more"),
    ({"seed": -1}, "--seed -1: expected 0 or more"),
    ({"seed": 2**32}, "--seed 4294967296: expected 4294967295 or less"),
    ({"img_width": 10**11}, "--img_width 100000000000: expected 4096 or less"),
    ({"total_length": 10**9}, "--total_length 1000000000: expected 10000 or less"),
    ({"batch_size": 10**9}, "--batch_size 1000000000: expected 65536 or less"),
    ({"predict_start": -1}, "--predict_start -1: expected 0 or more"),
    ({"video_cache_mb": 0}, "--video_cache_mb 0: expected 1 or more"),
    ({"num_workers": 1000}, "--num_workers 1000: expected 256 or less"),
    ({"device": "tpu"}, "--device tpu: expected auto, cpu, gpu, xpu, npu, or"),
    ({"device": "cpu:0"}, "--device cpu:0: expected auto, cpu, gpu, xpu, npu, or"),
    ({"precision": "half"}, "--precision half: there is no such precision; known: fp32, fp16, bf16"),
    ({"dataset_name": "kth"}, "--dataset_name kth: there is no such dataset_name; known: action, mnist"),
    ({"model_name": "lstm"}, "--model_name lstm: there is no such model_name; known: e3d_lstm"),
    ({"save_dir": None}, "--save_dir None: expected text"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_VALUES, ids=[message[:40] for _, message in BAD_VALUES])
def test_a_bad_value_is_refused_with_its_flag_in_python(settings, message):
    with pytest.raises(ValueError) as error:
        Config(**settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_flag_with_a_limit_is_in_the_list_of_bad_values():
    tried = {name for settings, _ in BAD_VALUES for name in settings}
    rules = {flag.name: flag.metadata for flag in dataclasses.fields(Config)}
    limited = {
        name
        for name, rule in rules.items()
        if rule["choices"] or any(rule[limit] is not None for limit in ("minimum", "maximum", "above"))
    }
    assert limited <= tried


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save_dirr", "x"], "--save_dirr is not a flag; did you mean --save_dir?"),
        (["--zzzzzzzz"], "--zzzzzzzz is not a flag; see python runp.py --help"),
        (["--save", "x"], "--save is not a flag"),
        (["stray"], "stray is not a flag"),
        (
            ["--batch_size", "64", "--num_hidden", "64", "64"],
            "--num_hidden 64 64: expected one value; write it with commas: --num_hidden 64,64",
        ),
        (["--betas", "0.9,", "0.999"], "expected one value; write it with commas: --betas 0.9,0.999"),
        (["--save_dir", "my", "run"], "--save_dir my run: expected one value; write it in quotes if it has spaces"),
        (["--lr"], "--lr: expected one argument"),
        (["--lr", "-1"], "--lr -1: expected a number above 0"),
        (["--dataset_name", "kth"], "known: action, mnist, folder; did you mean action?"),
        (["--dataset_name", "moving-mnist"], "did you mean mnist?"),
        (["--model_name", "E3D-LSTM"], "did you mean e3d_lstm?"),
        (["--optimizer", "adamw"], "known: sgd, adam; did you mean adam?"),
    ],
)
def test_a_bad_command_line_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        Config.from_command_line(arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


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
    ("settings", "message"),
    [
        ({"train_data_paths": ""}, "--train_data_paths is empty; give the data set"),
        ({"valid_data_paths": ""}, "--valid_data_paths is empty; give the data set"),
        ({"valid_data_paths": " , "}, "--valid_data_paths is empty; give the data set"),
        ({"train_data_paths": "/nonexistent"}, "--train_data_paths /nonexistent: there is no such file or folder"),
        ({"valid_data_paths": "/nonexistent"}, "--valid_data_paths /nonexistent: there is no such file or folder"),
        ({"is_training": False}, "--pretrained_model is empty; testing needs a checkpoint's directory"),
        ({"pretrained_model": "/nonexistent"}, "--pretrained_model /nonexistent: there is no such directory"),
        ({"img_channel": 3}, "--img_channel 3: for --dataset_name action expected 1 (grey)"),
        ({"img_width": 4, "patch_size": 4}, "--img_width 4: SSIM needs at least 7 pixels"),
        ({"save_dir": "/dev/null/x"}, "--save_dir /dev/null/x: cannot be written"),
        ({"gen_frm_dir": "/dev/null/x"}, "--gen_frm_dir /dev/null/x: cannot be written"),
    ],
)
def test_what_a_run_lacks_is_said_before_data_is_read(tmp_path, settings, message):
    with pytest.raises(UserError) as error:
        run_settings(tmp_path, **settings).check_run()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_test_run_needs_neither_training_data_nor_save_dir(tmp_path):
    (tmp_path / "weights").mkdir()
    settings = {"is_training": False, "train_data_paths": "", "save_dir": "/dev/null/x"}
    run_settings(tmp_path, pretrained_model=tmp_path / "weights", **settings).check_run()


def test_paths_are_split_at_commas_unless_the_whole_exists(tmp_path):
    comma = tmp_path / "a,b"
    comma.mkdir()
    assert split_paths(str(comma)) == [str(comma)]
    assert split_paths("x.npz, y.npz") == ["x.npz", "y.npz"]


def test_help_explains_every_flag_with_its_default():
    text = " ".join(command_line_parser().format_help().split())
    for flag in dataclasses.fields(Config):
        assert f"--{flag.name}" in text and flag.metadata["help"] in text


def test_help_lists_the_flags_in_groups_with_choices_and_units_on_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = command_line_parser().format_help()
    assert max(map(len, text.splitlines())) <= 80
    _, *parts = re.split(r"^(\w+):\n", text.split("exit\n", 1)[1], flags=re.MULTILINE)  # after -h, --help
    assert parts[::2] == ["run", "data", "network", "training", "testing", "machine"]
    groups = dict(zip(parts[::2], parts[1::2]))
    for flag in dataclasses.fields(Config):
        assert f"  --{flag.name} " in groups[flag.metadata["group"]]
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


# Until docs/cn is there the Chinese table is in README_cn.md.
CHINESE_TABLE = "docs/cn/flags.md" if (ROOT / "docs" / "cn").is_dir() else "README_cn.md"


@pytest.mark.parametrize("page", ["docs/flags.md", CHINESE_TABLE])
def test_the_flag_table_of_the_documents_is_the_one_of_config(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]\w*)` \| ?`?([^|`]*)`? ?\|", text, re.MULTILINE)
    expected = [(flag.name, "" if flag.default == "" else str(flag.default)) for flag in dataclasses.fields(Config)]
    assert [(name, default.strip()) for name, default in rows] == expected
