"""The scripts a user runs: preparation of KTH, sample data, pictures, and what the repository promises of itself."""

import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scripts.make_sample_data import make_tree
from src.data_provider.kth_action import KTHAction
from src.data_provider.kth_sequences import ACTIONS
from src.errors import UserError
from src.reports.pictures import write_gif
from tests.conftest import default_signals
from tests.helpers import ROOT, script

# ---- sample data


def test_sample_data_are_a_kth_tree_of_all_six_actions(tmp_path):
    summary = make_tree(tmp_path, ["01", "17"], frames=12, size=(48, 36))
    assert summary == (12, 144, 0)
    for mode, person in (("train", "01"), ("test", "17")):
        dataset = KTHAction(tmp_path, mode, 12, 32)
        assert {(c.category, c.clip) for c in dataset.clips} == {
            (action, f"person{person}_{action}_d1_uncomp") for action in ACTIONS
        }
    picture = Image.open(tmp_path / "walking" / "person01_walking_d1_uncomp" / "image_0001.jpg")
    assert picture.mode == "L" and picture.size == (48, 36)


def test_sample_data_depend_on_their_flags_alone(tmp_path):
    make_tree(tmp_path / "a", ["01", "02"], ["running"], frames=4, size=(48, 36), seed=5)
    make_tree(tmp_path / "b", ["02"], ["running", "boxing"], frames=6, size=(48, 36), seed=5)
    make_tree(tmp_path / "c", ["02"], ["running"], frames=4, size=(48, 36), seed=6)
    frame = Path("running") / "person02_running_d1_uncomp" / "image_0004.jpg"
    content = [(tmp_path / tree / frame).read_bytes() for tree in "abc"]
    assert content[0] == content[1] != content[2]


def test_dusk_is_dark_with_a_light_figure(tmp_path):
    make_tree(tmp_path, ["01"], ["handwaving"], frames=1, size=(160, 120), dusk=True)
    picture = cv2.imread(str(next(tmp_path.rglob("*.jpg"))), cv2.IMREAD_GRAYSCALE)
    assert np.median(picture) < 40 and np.percentile(picture, 98) > 110


@pytest.mark.parametrize(
    "settings",
    [
        {"persons": ["26"]},
        {"persons": ["01", "1"]},
        {"actions": ["sitting"]},
        {"frames": 0},
        {"size": (0, 9)},
        {"scenarios": 5},
        {"seed": -1},
    ],
)
def test_sample_data_refuse_settings_that_kth_does_not_have(tmp_path, settings):
    with pytest.raises(UserError):
        make_tree(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["--size", "160"], ["--frames", "x"], ["--persons", "ab"], ["--out", "/dev/null/x"], ["--what"]]
)
def test_make_sample_data_answers_a_mistake_in_one_line(tmp_path, arguments):
    result = script("make_sample_data.py", "--out", tmp_path / "out", *arguments)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and arguments[0] in result.stderr


# ---- drawings


def test_the_sheets_of_several_forecasts_become_one_picture(tmp_path):
    for folder, width, grey in (("1", 40, 60), ("2", 30, 200)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "sheet.png"), np.full([20, width, 3], grey, np.uint8))
    result = script("draw_forecast.py", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "out" / "forecast.png")
    assert result.returncode == 0, result.stderr
    picture = cv2.imread(str(tmp_path / "out" / "forecast.png"))
    assert picture.shape == (40, 40, 3) and (picture[:20] == 60).all()
    assert (picture[20:, :30] == 200).all() and (picture[20:, 30:] == 255).all()

    result = script("draw_forecast.py", tmp_path / "nowhere", "--out", tmp_path / "forecast.png")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "sheet.png" in result.stderr


def test_the_animations_of_several_forecasts_play_in_pairs(tmp_path):
    for number, grey in enumerate((60, 120, 200), start=1):
        (tmp_path / str(number)).mkdir()
        film = [np.full([20, 30, 3], grey + step, np.uint8) for step in (0, 5)]
        write_gif(str(tmp_path / str(number) / "forecast.gif"), film, 5)
    folders = [tmp_path / number for number in "123"]
    result = script("draw_forecast.py", *folders, "--out", tmp_path / "out" / "forecast.gif")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "out" / "forecast.gif") as film:
        assert film.n_frames == 2 and film.size == (60, 40)
        film.seek(1)
        last = np.asarray(film.convert("L"), dtype=int)
    for rows, columns, grey in ((0, 0, 65), (0, 30, 125), (20, 0, 205), (20, 30, 255)):
        assert np.abs(last[rows : rows + 20, columns : columns + 30] - grey).max() <= 8

    write_gif(str(tmp_path / "3" / "forecast.gif"), film_of_another_length(), 5)
    result = script("draw_forecast.py", *folders, "--out", tmp_path / "forecast.gif")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "forecasts of one test" in result.stderr


def film_of_another_length():
    return [np.full([20, 30, 3], grey, np.uint8) for grey in (0, 100, 200)]


# ---- what all scripts answer

INSTALLERS = ("setup_gpu.py", "install_packages.py")  # need no package, and run pip
SCRIPTS = [path for path in sorted((ROOT / "scripts").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.name not in INSTALLERS], ids=lambda path: path.name)
def test_a_missing_package_is_one_line_that_names_it_and_how_to_install_it(path, tmp_path):
    arguments = ["--model", "x", "--frames", "x", "--out", tmp_path / "out"]
    command = [sys.executable, "-S", path, *(arguments if path.name == "predict_exported.py" else ["--help"])]
    result = subprocess.run(command, capture_output=True, text=True)  # -S: without any package
    if result.returncode:  # else it needs none
        (line,) = result.stderr.splitlines()[-1:]
        assert result.returncode == 2 and line.startswith(f"{path.name}: "), result.stderr
        assert "Traceback" not in result.stderr
        assert "pip install" in line and "package" in line


def ending(tmp_path, body, *shell):
    """Run a script whose main() has this body: exit status and stderr."""
    path = tmp_path / "fails.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom scripts.command import command\n"
        f"@command('nothing was done')\ndef main():\n    {body}\nsys.exit(main())\n"
    )
    pipe = f"{sys.executable} {path} {' '.join(shell)}; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True)
    return result.returncode, result.stderr


def test_a_script_answers_what_its_user_can_mend_and_shows_its_own_faults(tmp_path):
    status, said = ending(tmp_path, "raise KeyboardInterrupt")
    assert (status, said) == (130, "fails.py: stopped; nothing was done\n")
    status, said = ending(tmp_path, "open('/nowhere/x')")
    assert status == 2 and said.count("\n") == 1 and said.startswith("fails.py: /nowhere/x: ")
    assert ending(tmp_path, "[print('x' * 100) for _ in range(10**5)]", "| head -1 > /dev/null") == (141, "")
    status, said = ending(tmp_path, "return 1 / 0")
    assert status == 1 and "Traceback" in said


# ---- the repository


def tracked_files():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def test_tests_in_the_background_of_a_script_can_still_stop_the_programs_they_start():
    """There the shell has Ctrl-C ignored, which every program hands down to those it starts."""
    code = "from signal import *; print(*(getsignal(number) != SIG_IGN for number in (SIGINT, SIGTERM)))"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        default_signals()
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert found == "True True\n"
    finally:
        default_signals()


def test_no_large_file_and_no_machine_made_one_is_kept():
    for path in tracked_files():
        if path.exists() and not {"golden", "pretrained"} & set(path.parts):
            assert path.stat().st_size <= 500_000, path
            assert path.suffix not in (".safetensors", ".pyc", ".log"), path
