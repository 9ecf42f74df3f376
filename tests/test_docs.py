"""The documents: links that lead somewhere, commands that exist, and both languages with the same content."""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote

import pytest

from src.config import Config

ROOT = Path(__file__).parent.parent
DOCS, CHINESE = ROOT / "docs", ROOT / "docs" / "cn"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "benchmarks" / "README.md"])
PAIRS = [("README.md", "README_cn.md"), *((f"docs/{page.name}", f"docs/cn/{page.name}") for page in DOCS.glob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
# What hands the flags that follow it to runp.py, runp.py itself among them.
TAKES_FLAGS = re.compile(r"(?:runp\.py|scripts/paddle_e3d_lstm_\w+\.sh)(.*)")
# Files that a reader makes with the code of docs/extend.md; tests/test_extend.py does so and runs its commands.
MADE_BY_READERS = {"src/models/next_frame.py", "src/data_provider/arrays.py", "make_clips.py"}
FLAGS = {name for flag in fields(Config) for name in (flag.name, *flag.metadata["aliases"])}


def name_of(page):
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
each_pair = pytest.mark.parametrize(("english", "chinese"), sorted(PAIRS), ids=lambda name: name)


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def prose(text):
    """A page without its code blocks, whose # and [...](...) are no headings and no links."""
    return FENCE.sub("", text)


def anchors(text):
    """The anchors that GitHub gives a page's headings: small letters, no punctuation, hyphens for spaces."""
    found = []
    for heading in re.findall(r"^#+ +(.*?) *$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        repeated = sum(re.fullmatch(re.escape(anchor) + r"(-\d+)?", other) is not None for other in found)
        found.append(f"{anchor}-{repeated}" if repeated else anchor)
    return found


def block_commands(text):
    """The command lines of a page's bash blocks, without comments; continued lines are joined."""
    blocks = [block.replace("\\\n", " ") for language, block in FENCE.findall(text) if language == "bash"]
    lines = [re.sub(r"(^|\s)#.*", "", line) for block in blocks for line in block.splitlines()]
    return [" ".join(line.split()) for line in lines if line.strip()]


def commands(text):
    """The command lines of a page's bash blocks, and what stands as code within its lines."""
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]
    return [*block_commands(text), *inline]


def test_anchors_are_those_of_github():
    text = "# One, two\n## `--flag`: a [link](x.md)\n```\n# no heading\n```\n## 指标的定义\n## One two\n"
    assert anchors(text) == ["one-two", "--flag-a-link", "指标的定义", "one-two-1"]


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
        if re.match(r"[a-z]+:", target):  # an address of the web
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(read(file)), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name_of)
def test_a_page_lists_its_sections(page):
    text = prose(read(page))
    listed = re.findall(r"^- \[.*\]\(#(.*?)\)", text, re.MULTILINE)
    sections = anchors("\n".join(re.findall(r"^## .*", text, re.MULTILINE)))
    assert listed == sections


@each_page
def test_every_script_of_a_command_exists(page):
    for command in commands(read(page)):
        for script in re.findall(r"(?:python[\d.]*|bash) +([\w./-]+\.(?:py|sh))\b", command):
            assert script in MADE_BY_READERS or (ROOT / script).is_file(), f"{name_of(page)}: {command}"


@pytest.mark.parametrize("page", ["docs/faults.md", "docs/cn/faults.md"])
def test_the_page_of_faults_names_tests_that_exist(page):
    for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", read(page)):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_the_documents_name_files_that_exist():
    names = set()
    for page in PAGES:
        text = read(page)
        names |= set(re.findall(r"(?<![\w/-])(?:scripts|images|src|tests|benchmarks|docs)/[\w/]+\.\w+", text))
        names |= set(re.findall(r"requirements[\w.-]*\.txt", text))
    assert len(names) > 30
    assert not [name for name in sorted(names - MADE_BY_READERS) if not (ROOT / name).exists()]


@each_page
def test_every_flag_of_a_command_is_one_of_config(page):
    for command in commands(read(page)):
        for given in TAKES_FLAGS.findall(command):
            for flag in re.findall(r"(?<!\S)--([\w-]+)", given):
                assert flag == "help" or flag in FLAGS, f"{name_of(page)}: --{flag} in {command}"


@each_page
def test_every_command_of_runp_is_accepted(page):
    """Commands in blocks are meant to be run as they stand; their values pass the checks of the flags."""
    for command in block_commands(read(page)):
        if "runp.py" in command and page.name != "extend.md":  # with a model and a data set that the reader adds
            Config.from_command_line(shlex.split(command.split("runp.py", 1)[1]))


def test_every_page_is_there_in_both_languages():
    assert {page.name for page in DOCS.glob("*.md")} == {page.name for page in CHINESE.glob("*.md")}


@each_pair
def test_both_languages_have_the_same_headings_commands_pictures_and_tables(english, chinese):
    def skeleton(name):
        text = read(name)
        rows = [line for line in prose(text).splitlines() if line.lstrip().startswith("|")]
        return {
            "headings": re.findall(r"^(#+) ", prose(text), re.MULTILINE),
            "commands": block_commands(text),
            "pictures": [Path(picture).name for picture in re.findall(r"!\[.*?\]\((.*?)\)", text)],
            "figures in tables": sorted(re.findall(r"\d+\.\d+", " ".join(rows))),
        }

    first, second = skeleton(english), skeleton(chinese)
    for part in first:
        assert first[part] == second[part], part
