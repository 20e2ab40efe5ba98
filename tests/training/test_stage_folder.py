"""Whose a stage folder is."""

import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.training import logs
from smallvit_jax.training.stage_folder import check_folder, finished_result

CONFIG = {"seed": 0, "toy": {"size": 12}, "runtime": {"checkpoint_every": 6, "precision": "auto"}}


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that has saved a checkpoint."""
    logs.write_config(tmp_path, CONFIG)
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    return tmp_path


def test_a_new_folder_and_one_without_work_are_free(tmp_path):
    assert finished_result(tmp_path / "new", CONFIG) is None
    logs.write_config(tmp_path, CONFIG)
    assert finished_result(tmp_path, CONFIG | {"seed": 1}) is None


def test_a_result_is_handed_back_and_nothing_is_written(folder):
    assert finished_result(folder, CONFIG) is None
    logs.write_result(folder, {"figure": 3})
    elsewhere = CONFIG | {"runtime": {"checkpoint_every": 3, "precision": "auto"}}
    assert finished_result(folder, elsewhere)["figure"] == 3
    assert logs.read_config(folder) == CONFIG  # how it was done


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"toy": {"size": 13}}, "toy.size = 12, and this one has 13; choose a new --workdir"),
        ({"toy": {"size": 13}, "seed": 1}, "seed = 0, and this one has 1 and 1 more fields differ"),
        (
            {"runtime": {"checkpoint_every": 3, "precision": "bfloat16"}},
            "runtime.precision = auto, and this one has bfloat16;",
        ),
    ],
)
def test_work_of_another_config_is_refused(folder, changes, words):
    with pytest.raises(UserError) as caught:
        check_folder(folder, CONFIG | changes)
    assert words in str(caught.value) and str(folder) in str(caught.value)


def test_how_a_run_is_done_may_change(folder):
    check_folder(folder, CONFIG | {"runtime": {"checkpoint_every": 3, "precision": "auto"}})


def test_a_folder_whose_stages_hold_work_is_not_free(tmp_path):
    logs.write_config(tmp_path, CONFIG)
    (tmp_path / "pretrain" / "checkpoints" / "6").mkdir(parents=True)
    with pytest.raises(UserError, match="seed = 0, and this one has 1;"):
        check_folder(tmp_path, CONFIG | {"seed": 1})
