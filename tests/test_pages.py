"""report.html of a test and the page of scripts/compare_runs.py: what they hold, and what a browser shows of them."""

import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scripts import compare_runs
from src import evaluator, trainer
from src.config import Config
from src.data_provider.datasets_factory import build_dataset
from src.errors import UserError
from src.models.model_factory import build_model
from src.reports import compare_page, report_page, web_page
from src.reports.charts import Line, chart_svg
from src.reports.compare_page import short_names
from src.reports.figures import best_of, read_metrics, shown, text_of, value_of
from src.reports.forecast_report import write_pictures
from src.reports.own_folder import TEST, take_folder
from src.reports.pictures import ERROR_COLOURS
from src.utils.metrics import BASELINES, UNITS
from tests.conftest import settings_for
from tests.helpers import LONGEST_WAIT, ROOT, script

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


# ---- a page as a reader or a browser has it


class Document(HTMLParser):
    """What a page holds: its elements, with their attributes and their text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.rows = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(element)
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(element)

    def handle_endtag(self, tag):
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in attributes.items())]

    def table(self):
        """The rows by their first cell: the other cells, the best ones with a star."""
        return {
            row[0]["text"]: [cell["text"] + "*" * ("best" in cell.get("class", "")) for cell in row[1:]]
            for row in self.rows
            if row and row[0]["tag"] == "th" and row[0].get("scope") == "row"
        }


@pytest.fixture(scope="session")
def browse(tmp_path_factory):
    """Open a page in a browser without a network, run a script in it, and return the document and what that gave."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("browser")

    def browse(text, code="", width=1280, milliseconds=300, flags=()):
        # The script comes after the page's own, whose listeners run first.
        result = f"document.body.dataset.probe = JSON.stringify((() => {{{code}}})() ?? null);"
        probe = f"<script>addEventListener('load', () => {{{result}}});</script>"
        page = folder / "page.html"
        page.write_text(text.replace("</body>", probe + "</body>"), encoding="utf-8")
        options = (
            f"--headless --no-sandbox --disable-gpu --window-size={width},900 --virtual-time-budget={milliseconds}"
        )
        command = [browser, *options.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom", *flags]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", page.as_uri()]
        found = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_WAIT)
        assert found.returncode == 0, found.stderr
        document = Document(found.stdout)
        result = document.all("body")[0].get("data-probe")
        return document, json.loads(result) if result else None

    return browse


STILL = ("--force-prefers-reduced-motion",)
TOO_WIDE = """
return [...document.querySelectorAll("body *:not(.scroll *)")].filter(
  (element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map((element) => element.outerHTML.slice(0, 80));
"""


def addresses(text):
    """Where a page's elements and styles may load something from."""
    document = Document(text)
    names = ("src", "href", "xlink:href", "srcset", "data", "action")
    found = [e[name] for e in document.elements for name in names if e.get(name)]
    found += re.findall(r"url\((?!#)|@import|\bfetch\(|XMLHttpRequest|WebSocket|importScripts", text)
    return [address for address in found if not address.startswith(("data:image/png;base64,", "#"))]


def metrics_of(seed, steps=3, **changes):
    """What metrics.json of a test holds, the figures drawn by lot."""
    rng = np.random.default_rng(seed)

    def entry(level):
        figures = {"psnr_infinite_frames": 0}
        for name, scale in (("psnr", 20), ("ssim", 0.5), ("mse", 30), ("mae", 90)):
            values = (scale * level + rng.random(steps)).tolist()
            figures |= {name: float(np.mean(values)), f"{name}_per_frame": values}
        return figures

    return {
        "iteration": 60,
        "checkpoint": "ck/60",
        "dataset": "data/kth",
        "sequences": 38,
        "input_length": 3,
        "total_length": 3 + steps,
        "img_width": 16,
        "model": entry(1.0),
        "repeat_last_frame": entry(0.9),
        "mean_frame": entry(0.8),
        **changes,
    }


def write_test(folder, metrics, clips=0, seed=0, side=16):
    """A test's folder: figures, and clips whose truth is the same for each number."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for number in range(1, clips + 1):
        truth = np.random.default_rng(number).random([6, side, side, 1]).astype(np.float32)
        forecast = np.random.default_rng([seed, number]).random([3, side, side, 1]).astype(np.float32)
        write_pictures(str(folder / str(number)), truth[:3], truth[3:], forecast)
    return folder


def config_of(**settings):
    small = {"is_training": False, "img_width": 16, "patch_size": 4, "input_length": 3, "total_length": 6}
    return Config(**{**small, **settings})


def page_of(folder, metrics, **settings):
    return report_page.report_page(config_of(**settings), str(folder), metrics)


def comparison_of(*folders, names):
    runs = [compare_page.read_run(str(folder)) for folder in folders]
    for run, name in zip(runs, names):
        run.name = name
    return compare_page.comparison(runs)


def clips_in(text):
    return Document(text).all("section", **{"class": "clip"})


# ---- report.html


@pytest.fixture(scope="module")
def tested(kth_sample, tmp_path_factory):
    """A test's folder, with two saved clips."""
    folder = tmp_path_factory.mktemp("tested")
    config = settings_for(
        kth_sample, folder, is_training=False, pretrained_model="any", batch_size=2, num_save_samples=2
    )
    evaluator.evaluate(config, build_model(config), build_dataset(config, "test"), "7", 7)
    return folder / "results" / "7"


def test_a_test_writes_a_page_of_its_own_settings_and_clips_and_nothing_from_the_network(tested):
    text = (tested / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((tested / "metrics.json").read_text())
    assert Document(text).table()["model"][0].rstrip("*") == f"{metrics['model']['psnr']:.2f}"
    for said in ("after 7 iterations", "--num_hidden", "4,4", "paddle", "3 frames given, 3 predicted"):
        assert said in text
    assert addresses(text) == [] and len(text) < 200_000 and len(clips_in(text)) == 2


def test_a_browser_shows_the_figures_and_the_clips_of_a_test(tested, browse):
    document, shown = browse((tested / "report.html").read_text(encoding="utf-8"), PIXELS, flags=STILL)
    assert document.all("body")[0]["data-players"] == "2"
    assert [e["text"] for e in document.all("output")] == ["frame 5 of 6: forecast", "frame 4 of 6: forecast"]
    assert document.all("button", id="play-all")[0]["text"] == "Play all"
    assert len(document.all("svg")) == len(document.all("figcaption")) - 6 == 4

    # The first clip's fifth frame: the pixels of gt05.png, of pd05.png, and the colour of their difference.
    truth, forecast = (cv2.imread(str(tested / "1" / name), 0).astype(int) for name in ("gt05.png", "pd05.png"))
    levels = np.minimum(255, np.abs(truth - forecast) / 0.5).astype(int)
    np.testing.assert_array_equal(np.array(shown["truth"]).reshape([16, 16, 4])[..., 0], truth)
    np.testing.assert_array_equal(np.array(shown["forecast"]).reshape([16, 16, 4])[..., 0], forecast)
    np.testing.assert_array_equal(np.array(shown["error"]).reshape([16, 16, 4])[..., :3], ERROR_COLOURS[levels])


PIXELS = """
const clip = document.querySelector(".clip"), slider = clip.querySelector("input");
slider.value = 5;
slider.dispatchEvent(new Event("input"));
const found = {};
for (const canvas of clip.querySelectorAll("canvas")) {
  found[canvas.dataset.kind] = [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}
return found;
"""


def test_clips_play_by_themselves_until_they_are_paused(tested, browse):
    pause_the_first = 'document.querySelector(".clip button").click();'
    document, _ = browse((tested / "report.html").read_text(encoding="utf-8"), pause_the_first, milliseconds=900)
    first, second = (e["text"] for e in document.all("output"))
    assert first == "frame 4 of 6: forecast" != second
    assert [e["text"] for e in document.all("button")] == ["Pause all", "Play", "Pause"]


@pytest.mark.parametrize("width", [800, 1280])
def test_nothing_is_wider_than_the_window(tmp_path, browse, width):
    name = "a_folder_with_a_very_long_name_indeed/" * 6
    metrics = metrics_of(0, dataset=name, checkpoint=name, actions={"handclapping": action(1), "walking": action(2)})
    folder = write_test(tmp_path / "a", metrics, clips=3)
    other = write_test(tmp_path / "b", metrics_of(1), clips=2)
    pages = page_of(folder, metrics, pretrained_model=name), comparison_of(folder, other, names=(name, f"{name}b"))
    for page in pages:
        assert browse(page, TOO_WIDE, width)[1] == []


def action(seed):
    """Figures of one action: means alone."""
    means = {who: metrics_of(seed)[who] for who in ("model", *BASELINES)}
    return {"sequences": 12, **{who: {name: entry[name] for name in UNITS} for who, entry in means.items()}}


def test_any_figures_and_baselines_of_metrics_json_are_shown_and_the_best_is_marked(tmp_path):
    actions = {"boxing": action(1), "walking": action(2)}
    metrics = metrics_of(0, actions=actions, trained_with={"total_length": 20})
    text = page_of(tmp_path, metrics)
    table = Document(text).table()
    labels = {"model": "model", "repeat_last_frame": "repeat", "mean_frame": "mean frame"}
    for column, (name, choose) in enumerate({"psnr": max, "ssim": max, "mse": min, "mae": min}.items()):
        group = slice(3 * column, 3 * column + 3)
        shown_values = {
            tuple(table[label][column] for label in labels.values()): [metrics[who][name] for who in labels],
            tuple(table["4"][group]): [metrics[who][f"{name}_per_frame"][0] for who in labels],
            tuple(table["mean"][group]): [metrics[who][name] for who in labels],
            tuple(table["walking"][1:][group]): [actions["walking"][who][name] for who in labels],
        }
        for cells, values in shown_values.items():
            digits = 4 if name == "ssim" else 2
            assert list(cells) == [f"{value:.{digits}f}" + "*" * (value == choose(values)) for value in values]
    assert table["boxing"][0] == "12" and len(table["boxing"]) == 1 + 4 * 3 and len(table["6"]) == 4 * 3
    assert "trained with" in text and "--total_length 20" in text


def test_frames_without_an_error_are_infinite_and_the_best(tmp_path):
    metrics = metrics_of(0)
    metrics["model"] |= {"psnr": None, "psnr_per_frame": [None, 20.0, None], "psnr_infinite_frames": 2}
    text = page_of(tmp_path, metrics)
    table = Document(text).table()
    assert table["model"][0] == "∞*" and table["4"][0] == "∞*" and "2 predicted frames have no error" in text
    for forecast in ("model", *BASELINES):
        metrics[forecast]["psnr_per_frame"] = [None] * 3
    assert "no finite values" in page_of(tmp_path, metrics)


def test_what_comes_from_outside_is_text_and_never_html(tmp_path, browse):
    bad = """'"><script>document.title = "bad"</script><img src=x onerror=alert(1)>&{{ 7 * 7 }}$\udcff"""
    shown = bad.replace("\udcff", "\\udcff")  # of a path that is not UTF-8
    metrics = metrics_of(0, dataset=bad, checkpoint=bad, actions={bad: action(1)})
    metrics[bad] = metrics["mean_frame"]
    folder = write_test(tmp_path / "a", metrics, clips=1)
    text = page_of(folder, metrics, pretrained_model=bad, valid_data_paths=bad)
    for page in (text, comparison_of(folder, names=[bad])):
        document, title = browse(page, "return document.title")
        assert title.endswith(shown) and len(document.all("script")) == 2  # the page's and the test's
        assert shown in document.all("h1")[0]["text"] and addresses(page) == []


def test_a_page_stays_small_and_says_how_many_clips_it_leaves_out(tmp_path, monkeypatch):
    metrics = metrics_of(0)
    folder = write_test(tmp_path / "a", metrics, clips=4, side=96)
    one = sum(len(uri) for uri in re.findall('src="(data:[^"]*)"', page_of(folder, metrics))) // 4
    monkeypatch.setattr(report_page, "CLIPS_SIZE", int(2.5 * one))
    monkeypatch.setattr(report_page, "CLIPS_SIZE_IN_TRAINING", int(1.5 * one))
    for is_training, room_for in ((False, 2), (True, 1)):
        text = page_of(folder, metrics, is_training=is_training)
        assert len(clips_in(text)) == room_for and f"{4 - room_for} more saved clips are not shown" in text


@pytest.mark.parametrize("fault", ["missing", "cut", "another size"])
def test_a_clip_whose_pictures_are_damaged_is_left_out(tmp_path, fault):
    folder = write_test(tmp_path / "a", metrics_of(0), clips=2)
    picture = folder / "1" / "pd05.png"
    if fault == "missing":
        picture.unlink()
    else:
        picture.write_bytes(picture.read_bytes()[:40] if fault == "cut" else cv2.imencode(".png", np.zeros([3, 3]))[1])
    text = page_of(folder, metrics_of(0))
    assert len(clips_in(text)) == 1 and "1 more saved clips" in text


@pytest.mark.usefixtures("undrawn")
def test_a_test_of_a_training_writes_its_page_and_one_that_cannot_be_written_is_a_warning(
    kth_sample, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(trainer.logger, "propagate", True)
    config = settings_for(kth_sample, tmp_path)
    folder = tmp_path / "results" / "7"
    take_folder(str(folder), TEST)
    for fault in ("in the way", "no Jinja2", ""):
        if fault == "in the way":
            (folder / "report.html" / "in the way").mkdir(parents=True)
        with monkeypatch.context() as patch:
            patch.setattr("src.reports.forecast_report.remove_pictures", lambda directory: None)
            if fault == "no Jinja2":
                shutil.rmtree(folder / "report.html")
                web_page._template.cache_clear()
                patch.setitem(sys.modules, "jinja2", None)
            caplog.clear()
            evaluator.evaluate(config, build_model(config), build_dataset(config, "test"), "7", 7)
        assert ("report.html" in "".join(r.message for r in caplog.records if r.levelname == "WARNING")) == bool(fault)
        assert (folder / "report.html").is_file() == (not fault)
    assert "Test after 7 iterations" in (folder / "report.html").read_text(encoding="utf-8")


# ---- charts and figures


def test_a_chart_has_gaps_where_there_is_no_value_and_tells_its_values():
    lines = [Line("a<b", "--c0", "solid", [1, 2, 3, 4, 5], [1.0, 2.5, math.inf, 3.0, math.nan])]
    drawn = chart_svg("frame", lines)
    titles = [e["text"] for e in Document(drawn).all("title")]
    assert titles == ["a<b, frame 1: 1", "a<b, frame 2: 2.5", "a<b, frame 4: 3"]
    assert "nan" not in drawn and "inf" not in drawn and "var(--c0)" in drawn and 'id="' in drawn
    assert chart_svg("frame", lines) == drawn  # the same file for the same figures
    assert chart_svg("frame", [lines[0]._replace(y=[math.nan] * 5)]) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats() | st.sampled_from([1e99, -1e99, 5e-324]), min_size=1, max_size=4), st.booleans())
@example([0.0], False)
@example([5.0, 5.0], True)
@example([-1e12, 1e12], False)
@example([1e-99, 1e99], True)
def test_a_chart_of_any_values_lies_within_its_picture(values, logarithmic):
    drawn = chart_svg("loss", [Line("a", "--c0", "solid", [*range(len(values))], values)], logarithmic)
    can_be_drawn = [value for value in values if abs(value) < 1e100 and not (logarithmic and value <= 0)]
    assert (drawn is not None) == bool(can_be_drawn)
    if drawn is not None:
        dots = Document(drawn).all("use")
        assert len(dots) == len(can_be_drawn) == len(Document(drawn).all("title"))
        assert all(0 <= float(dot["x"]) <= 332 and 0 <= float(dot["y"]) <= 166 for dot in dots)
        assert drawn.count("<text") < 40


@pytest.mark.parametrize(
    ("value", "as_figure", "as_text"),
    [
        (21.5, "21.50", "21.5"),
        (7, "7.00", "7"),
        (-3, "-3.00", "-3"),
        (1e300, "1e+300", "1e+300"),
        (10**400, "–", "–"),
        (-(10**400), "–", "–"),
        (math.nan, "–", "–"),
        (math.inf, "∞", "inf"),
        (-math.inf, "–", "–"),
        (True, "–", "–"),
        ("many", "–", "many"),
        (None, "–", "–"),
        ([1], "–", "–"),
    ],
)
def test_whatever_stands_for_a_figure_is_shown_as_it_is_or_as_a_dash(value, as_figure, as_text):
    assert shown("mse", value_of("mse", value)) == as_figure
    assert text_of(value) == as_text


def test_the_best_are_those_that_look_best():
    assert best_of("psnr", [20.0, 20.001, 19.0]) == [True, True, False]
    assert best_of("mse", [3.0, math.nan, 2.0]) == [False, False, True]
    assert best_of("mae", [3.0, math.nan]) == [False, False]  # nothing to compare with


# ---- scripts/compare_runs.py


def compare(capsys, monkeypatch, *arguments):
    """Run the script in this process: exit status, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", *map(str, arguments)])
    status = compare_runs.main()
    return status, "".join(capsys.readouterr())


def test_tests_stand_side_by_side_with_the_same_clips_below_one_another(tmp_path, browse):
    first = metrics_of(1)
    second = {**metrics_of(2), **{name: copy.deepcopy(first[name]) for name in BASELINES}}
    write_test(tmp_path / "a" / "test_result", first, clips=2, seed=1)
    write_test(tmp_path / "b" / "test_result", second, clips=3, seed=2)
    # The batches of b are of another size, so its clips have other numbers.
    (tmp_path / "b" / "test_result" / "2").rename(tmp_path / "b" / "test_result" / "5")
    out = tmp_path / "new" / "compare.html"
    done = script("compare_runs.py", tmp_path / "a" / "test_result", tmp_path / "b" / "test_result", "--out", out)
    assert done.returncode == 0 and done.stdout == f"wrote {out}\n", done.stderr
    text = out.read_text(encoding="utf-8")
    assert addresses(text) == [] and "cannot be compared" not in text

    document, kinds = browse(
        text,
        'return [...document.querySelector(".clip").querySelectorAll("canvas")].map((canvas) => canvas.dataset.kind)',
        flags=STILL,
    )
    assert document.all("body")[0]["data-players"] == "2"
    assert kinds == ["truth", "forecast", "error", "forecast", "error"]
    assert [e["text"] for e in document.all("div", **{"class": "name"})] == ["a", "b"] * 2
    table = document.table()
    assert list(table) == ["a", "b", "repeat", "mean frame"]  # the baselines once
    assert sum(cell.endswith("*") for row in table.values() for cell in row) == 4
    assert table["a"][0].rstrip("*") == f"{first['model']['psnr']:.2f}"
    assert len(document.all("svg")) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sequences": 8}, "38 in a, c; 8 in b"),
        ({"img_width": 64}, "16 in a, c; 64 in b"),
        ({"dataset": "data/mm"}, "data/kth in a, c; data/mm in b"),
        ({"total_length": 9, "steps": 6}, "6 in a, c; 9 in b"),
    ],
)
def test_tests_that_cannot_be_compared_are_warned_of_and_their_baselines_stand_apart(tmp_path, changes, said):
    metrics = {"a": metrics_of(1), "b": metrics_of(5, **changes), "c": metrics_of(1)}
    folders = [write_test(tmp_path / name, part) for name, part in metrics.items()]
    document = Document(comparison_of(*folders, names="abc"))
    assert [said in e["text"] for e in document.all("p", **{"class": "warning"})] == [True]
    table = document.table()
    assert {"repeat of a, c", "repeat of b"} <= set(table) and "repeat" not in table


@pytest.fixture(scope="module")
def trained(kth_sample, tmp_path_factory):
    """Two trainings with tests."""
    folders = []
    for seed in (1, 2):
        folders.append(tmp_path_factory.mktemp("trained"))
        trainer.train(settings_for(kth_sample, folders[-1], seed=seed, test_interval=1, test_max_clips=4))
    return folders


def test_trainings_stand_side_by_side_with_their_best_or_last_tests(trained, tmp_path, capsys, monkeypatch):
    folders = [folder / "ck" for folder in trained]
    rows = [compare_page.rows_of_csv(str(folder / "metrics.csv"), ("iteration",)) for folder in folders]
    for which in ("best", "last"):
        out = tmp_path / f"{which}.html"
        assert compare(capsys, monkeypatch, *folders, "--out", out, "--names", "one, two", "--test", which)[0] == 0
        document = Document(out.read_text(encoding="utf-8"))
        table = document.table()
        for name, tests in zip(("one", "two"), rows):
            psnr = [float(row["psnr"]) for row in tests]
            assert table[name][0].rstrip("*") == f"{max(psnr) if which == 'best' else psnr[-1]:.2f}"
        assert len(clips_in(out.read_text(encoding="utf-8"))) == 1
        captions = " ".join(e["text"] for e in document.all("figcaption"))
        # Over the frames and over the iterations, each once.
        assert captions.count("Training loss") == 1 and all(captions.count(name.upper()) == 2 for name in UNITS)


def test_a_training_without_its_results_or_without_a_test_is_shown_as_far_as_it_goes(trained, tmp_path):
    alone, begun = tmp_path / "alone", tmp_path / "begun"
    for folder in (alone, begun):
        folder.mkdir()
        for name in ("metrics.csv", "losses.csv"):
            shutil.copy(trained[0] / "ck" / name, folder / name)
    (begun / "metrics.csv").write_text((alone / "metrics.csv").read_text().splitlines()[0] + "\n")
    text = comparison_of(alone, begun, names=("alone", "begun"))
    table = Document(text).table()
    assert "alone" in table and "repeat" in table and "begun" not in table
    assert "no test yet" in text and "Training loss" in text and "Curves over the predicted frames" not in text


@pytest.mark.parametrize(
    "content", [None, "", "losses.csv", "metrics.csv", "metrics.json", "x.json", "test_result/metrics.json"]
)
def test_a_folder_that_is_no_test_and_no_training_is_one_line(tmp_path, content, capsys, monkeypatch):
    folder = tmp_path / "given"
    if content is not None:
        (folder / content).parent.mkdir(parents=True, exist_ok=True)
    texts = {
        "losses.csv": "iteration,loss\n",
        "metrics.csv": f"iteration\n{'1' * 200_000}\n",
        "metrics.json": '{"model": ',
        "x.json": "{}",
    }
    if content == "":
        folder.write_text("a file")
    elif content:
        (folder / content).write_text(texts.get(content, json.dumps(metrics_of(0))))
    status, said = compare(capsys, monkeypatch, folder, "--out", tmp_path / "x.html")
    assert status == 2 and said.count("\n") == 1 and said.startswith(f"compare_runs.py: {folder}")
    assert "expected" in said and not (tmp_path / "x.html").exists()
    assert content is None or os.path.dirname(content) in said


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400), 1e308, "\ud800"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=4,
)


@settings(max_examples=15, deadline=None)
@given(where=st.sampled_from(["", "model", "repeat_last_frame"]), place=st.integers(0, 20), value=JSON | st.just(...))
@example("", 4, 10**400)  # of given frames
@example("model", 2, [10**400, -(10**400)])
def test_whatever_metrics_json_holds_is_shown_or_refused_in_one_line(tmp_path_factory, where, place, value):
    metrics = metrics_of(0)
    entry = metrics[where] if where else metrics
    changed = list(entry)[place % len(entry)]
    entry[changed] = value
    if value is ...:  # left out
        del entry[changed]
    folders = [write_test(tmp_path_factory.mktemp("any") / "a", part) for part in (metrics, metrics_of(1))]
    try:
        assert {"a", "b"} <= set(Document(comparison_of(*folders, names="ab")).table())
        assert "model" in Document(page_of(folders[0], read_metrics(str(folders[0] / "metrics.json")))).table()
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("names", ["a", "a,b,c", "a,a", "a,"])
def test_names_are_one_for_each_folder(tmp_path, names, capsys, monkeypatch):
    status, said = compare(capsys, monkeypatch, "x", "y", "--out", tmp_path / "x.html", "--names", names)
    assert status == 2 and said.count("\n") == 1 and f"--names {names}" in said


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["r/a/test_result", "r/b/test_result"], ["a", "b"]),
        (["r/a/10", "r/a/20"], ["10", "20"]),
        (["r/a/x/1", "r/b/1"], ["a/x", "b"]),
        (["r/a", "r/a"], ["a (1)", "a (2)"]),
        (["r/a", "r/a/b"], ["a", "b"]),
        (["r/a"], ["a"]),
    ],
)
def test_runs_are_called_by_what_differs_in_their_paths(paths, names):
    assert short_names(paths) == names


def test_a_page_goes_to_any_path_or_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    folder = write_test(tmp_path / os.fsdecode(b"caf\xe9"), metrics_of(0))
    assert compare(capsys, monkeypatch, folder, "--out", tmp_path / "x.html")[0] == 0
    assert "caf\\udce9" in (tmp_path / "x.html").read_text(encoding="utf-8")
    (tmp_path / "file").write_text("")
    status, said = compare(capsys, monkeypatch, folder, "--out", tmp_path / "file" / "x.html")
    assert status == 2 and said.count("\n") == 1


def test_pages_and_pictures_need_no_paddle():
    code = "import sys, scripts.compare_runs, src.reports.forecast_report; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
