"""docs/extend.md: its code and its commands, done in a copy of the project exactly as the page says."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.helpers import ROOT

PAGES = ["docs/extend.md", "docs/cn/extend.md"]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def blocks(page, heading=""):
    """(language, code) of each code block of a page, or of one of its sections, without the indent of a list."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if heading:
        text = re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    found = BLOCK.findall(text)
    return [(language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE)) for indent, language, code in found]


def follow(page, heading, project):
    """Write the files of a section, add its entries, apply its changes and run its commands."""
    for language, code in blocks(page, heading):
        head, _, rest = code.partition("\n")
        if language == "bash":
            search = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # for python
            result = subprocess.run(
                ["bash", "-e", "-c", code],
                cwd=project,
                env={**os.environ, "PATH": search},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            assert result.returncode == 0, result.stderr
        elif language == "diff":
            change(project / head.removeprefix("--- "), rest)
        else:
            path, _, registry = head.removeprefix("# ").partition(", in ")
            if registry:
                source = (project / path).read_text(encoding="utf-8")
                assert source.count(f"\n{registry} = {{\n") == 1
                rest = source.replace(f"\n{registry} = {{\n", f"\n{registry} = {{\n{rest}")
            (project / path).write_text(rest, encoding="utf-8")


def change(path, lines):
    """Put the lines with + in the place of those with -."""
    source = path.read_text(encoding="utf-8")
    old, new = ("".join(f"{line[1:]}\n" for line in lines.splitlines() if line[0] == sign) for sign in "-+")
    assert source.count(old) == 1, f"{path}: {old}"
    path.write_text(source.replace(old, new), encoding="utf-8")


def copy_of_the_project(folder):
    for name in ("src", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "runp.py", folder)
    return folder


@pytest.fixture(scope="module")
def with_model(tmp_path_factory):
    project = copy_of_the_project(tmp_path_factory.mktemp("model"))
    follow("docs/extend.md", "Add a model", project)
    return project


@pytest.fixture(scope="module")
def with_dataset(tmp_path_factory):
    project = copy_of_the_project(tmp_path_factory.mktemp("dataset"))
    follow("docs/extend.md", "Add a data set", project)
    return project


def run(project, *arguments):
    return subprocess.run([sys.executable, *arguments], cwd=project, capture_output=True, text=True)


def runp(project, *flags):
    return run(project, "runp.py", *flags)


@pytest.mark.parametrize(
    ("added", "name", "flag", "help"),
    [
        ("with_model", "next_frame", "model_name", "next_frame (two convolutions)"),
        ("with_dataset", "arrays", "dataset_name", "arrays (clips of a .npy file)"),
    ],
)
def test_what_is_added_as_the_page_says_trains_and_is_tested(added, name, flag, help, request):
    project = request.getfixturevalue(added)
    state = json.loads((project / "checkpoints" / name / "2" / "state.json").read_text())
    assert state["iteration"] == 2 and state["config"][flag] == name
    metrics = json.loads((project / "results" / name / "test_result" / "metrics.json").read_text())
    assert metrics["iteration"] == 2 and len(metrics["model"]["psnr_per_frame"]) == 5
    assert (project / "results" / name / "test_result" / "1" / "pd10.png").is_file()
    shown = runp(project, "--help")
    assert help in " ".join(shown.stdout.split())


def test_an_added_model_names_the_flag_behind_a_weight_that_does_not_fit(with_model):
    weights = with_model / "weights"  # without state.json
    weights.mkdir()
    shutil.copy(with_model / "checkpoints" / "next_frame" / "2" / "model.safetensors", weights)
    flags = "--is_training False --model_name next_frame --pretrained_model weights --valid_data_paths data/sample"
    sizes = "--img_width 16 --patch_size 4 --num_hidden 4 --filter_size 3 --input_length 5 --total_length 10"
    result = runp(with_model, *flags.split(), *sizes.split())
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "--num_hidden, --filter_size, --patch_size or --img_channel differs (convolutions.0.bias" in result.stderr


def test_the_changes_of_the_page_can_be_made_and_train(tmp_path):
    project = copy_of_the_project(tmp_path)
    for heading in (CELL_HEADINGS[0], "Change the loss", "Change the learning rate"):
        follow("docs/extend.md", heading, project)
    names = [path.relative_to(project) for path in (project / "src").rglob("*.py")]
    changed = {name.name for name in names if (project / name).read_bytes() != (ROOT / name).read_bytes()}
    assert changed == {"reference.py", "rnn_cell.py", "step.py", "optimizer.py"}
    done = run(
        project,
        "-c",
        textwrap.dedent("""
        import src, paddle
        from src.config import Config
        from src.models.model_factory import build_model
        from src.step import train_on_batch
        from src.utils.optimizer import build_optimizer, build_schedule
        config = Config(img_width=16, patch_size=4, num_hidden="4,4", filter_size=3, input_length=3, total_length=6)
        model = build_model(config)
        schedule = build_schedule(config)
        optimizer = build_optimizer(config, schedule, model.parameters())
        for iteration in (1, 2):
            schedule.step(iteration - 1)
            print(train_on_batch(config, iteration, model, optimizer, paddle.rand([2, 6, 16, 16, 1])).value)
        schedule.step(1000)
        print(optimizer.get_lr())
    """),
    )
    assert done.returncode == 0, done.stderr
    *losses, rate = map(float, done.stdout.split())
    assert len(losses) == 2 and rate == pytest.approx(0.5e-3)


CELL_HEADINGS = [
    "Change the equations of the cell",
    "Add a gate",
    "Mask the score of the recall",
    "Give the score a learned temperature",
]
# Each form of the recall against the plain form: predictions, and gradients of all parameters.
COMPARE_FORMS = """
import src, numpy, paddle
from src.config import Config
from src.layers import recall
from src.models.model_factory import build_model
sizes = dict(img_width=16, patch_size=4, num_hidden="4,4", filter_size=3, input_length=3, total_length=9)
plain, fast = (build_model(Config(model_name=name, **sizes)) for name in ("e3d_lstm_plain", "e3d_lstm"))
for parameter in plain.parameters():
    parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
fast.set_state_dict(plain.state_dict())
frames, flags = paddle.rand([2, 9, 4, 4, 16]), paddle.zeros([2, 5])
recall.SCORES_AT_A_TIME = 2000
for memory in (0, 1e12):
    recall.memory_limit = lambda: memory
    found = []
    for model in (plain, fast):
        predictions = model(frames, flags)
        predictions.square().sum().backward()
        found.append([predictions.numpy(), *(parameter.grad.numpy() for parameter in model.parameters())])
        model.clear_gradients()
    for one, other in zip(*found):
        assert numpy.abs(one).max() > 0 and numpy.linalg.norm(one - other) < 1e-4 * numpy.linalg.norm(one)
"""


@pytest.mark.parametrize("heading", CELL_HEADINGS)
def test_a_changed_cell_is_the_same_in_both_forms(heading, tmp_path):
    project = copy_of_the_project(tmp_path)
    follow("docs/extend.md", heading, project)
    done = run(project, "-c", COMPARE_FORMS)
    assert done.returncode == 0, done.stderr


def test_both_languages_have_the_same_code():
    first, second = (blocks(page) for page in PAGES)
    assert len(first) > 10 and first == second
