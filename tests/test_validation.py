"""Validation apart from the test: the clips that the best checkpoint is chosen on, and what is said about it."""

import json
import shutil
from pathlib import Path

import pytest

from src import evaluator, trainer
from src.config import Config
from src.data_provider.datasets_factory import build_dataset
from src.errors import UserError
from tests.conftest import settings_for
from tests.helpers import write_video

SHORT = {"max_iterations": 2, "test_interval": 2}


def persons_of(dataset):
    return {clip.clip[len("person") :][:2] for clip in dataset.clips}


def metrics_of(config, name):
    return json.loads((Path(config.gen_frm_dir) / name / "metrics.json").read_text())


def final_test(config, tmp_path, **settings):
    shown = {"pretrained_model": f"{config.save_dir}/best", "gen_frm_dir": str(tmp_path / "final"), **settings}
    test = Config(**{**vars(config), "is_training": False, **shown})
    evaluator.test(test)
    return metrics_of(test, "test_result")


@pytest.fixture(autouse=True)
def without_curves(undrawn):
    pass


def test_no_clip_of_a_validation_person_is_trained_on_and_no_test_person_is_seen_before_the_last_test(
    kth_sample, tmp_path
):
    """The tree of the training has no test person at all."""
    tree = tmp_path / "tree"
    shutil.copytree(kth_sample, tree, ignore=shutil.ignore_patterns("person17*"))
    config = settings_for(tree, tmp_path, valid_data_paths="", validation_persons="2", **SHORT)
    assert persons_of(build_dataset(config, "train")) == {"01"}
    assert persons_of(build_dataset(config, "valid")) == {"02"}
    config.check_run()
    trainer.train(config)
    clips = len(build_dataset(config, "valid"))
    during = metrics_of(config, "2")
    assert during["sequences"] == clips and during["best_chosen_on"] == "validation set"
    state = json.loads((Path(config.save_dir) / "best" / "state.json").read_text())
    assert state["train_clips"] == len(build_dataset(config, "train"))

    last = final_test(config, tmp_path, valid_data_paths=str(kth_sample))
    assert last["sequences"] == len(build_dataset(Config(**{**vars(config), "valid_data_paths": kth_sample}), "test"))
    assert last["best_chosen_on"] == "validation set"


def test_without_validation_the_figures_say_that_the_best_was_chosen_on_the_test_set(kth_sample, tmp_path, capfd):
    config = settings_for(kth_sample, tmp_path, **SHORT)
    assert persons_of(build_dataset(config, "valid")) == persons_of(build_dataset(config, "test")) == {"17"}
    trainer.train(config)
    assert metrics_of(config, "2")["best_chosen_on"] == "test set"
    said = "chosen on the test set"
    assert said in (Path(config.save_dir) / "train.log").read_text()
    assert said in (Path(config.gen_frm_dir) / "2" / "report.html").read_text()
    capfd.readouterr()
    assert final_test(config, tmp_path)["best_chosen_on"] == "test set"
    assert said in capfd.readouterr().out
    # The same persons under another path are another test set, as another .npz is.
    other = shutil.copytree(kth_sample, tmp_path / "other")
    assert final_test(config, tmp_path, valid_data_paths=str(other))["best_chosen_on"] == "validation set"
    assert said not in capfd.readouterr().out


def test_own_films_in_valid_are_those_of_the_tests_during_a_training(tmp_path):
    for mode, frames in (("train", 24), ("valid", 12), ("test", 18)):
        write_video(tmp_path / "films" / mode / "film.avi", frames)
    config = settings_for(tmp_path / "films", tmp_path, dataset_name="folder", **SHORT)
    config.check_run()
    trainer.train(config)
    during = metrics_of(config, "2")
    assert (during["sequences"], during["best_chosen_on"]) == (2, "validation set")
    assert final_test(config, tmp_path)["sequences"] == 3


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"dataset_name": "folder"}, "--validation_persons 2: only KTH"), ({"validation_persons": "9"}, "persons 09")],
)
def test_a_mistake_names_the_flag(kth_sample, tmp_path, settings, what):
    config = settings_for(kth_sample, tmp_path, **{"validation_persons": "2", **settings})
    with pytest.raises(UserError, match=what):
        config.check_run()
        build_dataset(config, "valid")
