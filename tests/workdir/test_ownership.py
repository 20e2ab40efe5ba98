"""Which run a stage folder belongs to."""

import errno
import fcntl

import pytest

from smallvit_jax.config import default_config
from smallvit_jax.errors import UserError
from smallvit_jax.workdir import records
from smallvit_jax.workdir.ownership import (
    check_folder,
    finished_result,
    holds_checkpoint,
    holds_work,
    locked,
)

CONFIG = {"seed": 0, "toy": {"size": 12}, "runtime": {"checkpoint_every": 6, "precision": "auto"}}


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that has saved a checkpoint."""
    records.write_config(tmp_path, CONFIG)
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    return tmp_path


def test_new_folder_and_folder_without_work_are_free(tmp_path):
    assert finished_result(tmp_path / "new", CONFIG) is None
    records.write_config(tmp_path, CONFIG)
    assert finished_result(tmp_path, CONFIG | {"seed": 1}) is None


def test_result_is_returned_and_nothing_is_written(folder):
    assert finished_result(folder, CONFIG) is None
    records.write_result(folder, {"figure": 3})
    changed_runtime = CONFIG | {"runtime": {"checkpoint_every": 3, "precision": "auto"}}
    assert finished_result(folder, changed_runtime)["figure"] == 3
    assert records.read_config(folder) == CONFIG  # the settings it was made with


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"toy": {"size": 13}}, "toy.size = 12, but this run has 13; repeat the old command"),
        ({"toy": {"size": 13}, "seed": 1}, "seed = 0, but this run has 1 and 1 more fields differ"),
        (
            {"runtime": {"checkpoint_every": 3, "precision": "bfloat16"}},
            "runtime.precision = auto, but this run has bfloat16;",
        ),
    ],
)
def test_work_of_another_config_is_refused(folder, changes, words):
    with pytest.raises(UserError) as caught:
        check_folder(folder, CONFIG | changes)
    assert words in str(caught.value) and str(folder) in str(caught.value)


def test_predictions_are_not_resumed(tmp_path):
    records.write_config(tmp_path, {"predict": {"top": 5}})
    records.write_result(tmp_path, {"job": "predict"})
    with pytest.raises(UserError, match="has 3; choose a new --workdir"):
        check_folder(tmp_path, {"predict": {"top": 3}})


def test_work_of_another_job_is_named(tmp_path):
    pretraining = {"seed": 0, "pretrain": {"epochs": 3}}
    records.write_config(tmp_path, pretraining | {"finetune": {"epochs": 3}})
    records.write_result(tmp_path, {"job": "recipe"})
    with pytest.raises(UserError) as caught:
        check_folder(tmp_path, pretraining)
    assert f'{tmp_path} holds a run of the job "recipe"; choose a new' in str(caught.value)


def test_settings_that_do_not_affect_results_may_change(folder):
    check_folder(folder, CONFIG | {"runtime": {"checkpoint_every": 3, "precision": "auto"}})


def test_folder_whose_stages_hold_work_is_not_free(tmp_path):
    records.write_config(tmp_path, CONFIG)
    (tmp_path / "pretrain" / "checkpoints" / "6").mkdir(parents=True)
    with pytest.raises(UserError, match="seed = 0, but this run has 1;"):
        check_folder(tmp_path, CONFIG | {"seed": 1})


def test_field_newer_than_the_run_has_its_default(tmp_path):
    seed, epochs = default_config().seed, default_config().pretrain.epochs
    records.write_config(tmp_path, {"dataset": {"name": "digits"}})
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    now = {"dataset": {"name": "digits"}, "seed": seed, "pretrain": {"epochs": epochs}}
    check_folder(tmp_path, now)
    with pytest.raises(UserError, match=f"pretrain.epochs = {epochs}, but this run has 3;"):
        check_folder(tmp_path, now | {"pretrain": {"epochs": 3}})


@pytest.mark.parametrize(
    ("jobs", "changed", "suggestion"),
    [
        (["pretrain"], "pretrain", "--config.pretrain.init_from={folder} to start"),
        (["finetune"], "finetune", "--config.finetune.init_from={folder} to start"),
        (["pretrain", "finetune"], "pretrain", "--config.pretrain.init_from={folder}/pretrain to"),
        (
            ["pretrain", "finetune"],
            "finetune",
            "--config=configs/finetune.py and --config.finetune.init_from={folder}/pretrain to",
        ),
    ],
)
def test_refusal_suggests_how_to_continue(tmp_path, jobs, changed, suggestion):
    """More epochs, for example, need a new run that starts from the old run's weights."""
    config = {job: {"epochs": 2} for job in jobs}
    records.write_config(tmp_path, config)
    stage = tmp_path / "pretrain" if jobs[1:] else tmp_path
    (stage / "checkpoints" / "6").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        check_folder(tmp_path, config | {changed: {"epochs": 4}})
    sentence = str(caught.value)
    assert f"{changed}.epochs = 2, but this run has 4; repeat the old command" in sentence
    assert "choose a new --workdir (use " + suggestion.format(folder=tmp_path) in sentence


def test_refused_comparison_suggests_no_weights(tmp_path):
    """It has weights for each of its trainings, in subfolders."""
    config = {job: {"epochs": 2} for job in ("pretrain", "finetune")}
    records.write_config(tmp_path, config)
    records.write_result(tmp_path, {"job": "compare"})
    with pytest.raises(UserError, match=r"choose a new --workdir$"):
        check_folder(tmp_path, config | {"finetune": {"epochs": 4}})


@pytest.mark.parametrize(
    ("name", "counts"),
    [("6", True), ("6.corrupt", True), ("6.corrupt+", True), ("6.orbax-checkpoint-tmp", False)],
)
def test_unfinished_checkpoint_is_not_work(tmp_path, name, counts):
    """Otherwise, fine-tuning killed during its first save would resume from random weights."""
    (tmp_path / "finetune/checkpoints" / name).mkdir(parents=True)
    assert holds_work(tmp_path) is holds_work(tmp_path / "finetune") is counts


def test_stage_in_a_subfolder_is_not_the_folders_own(tmp_path):
    """Otherwise, fine-tuning in runs/x would take runs/x/pretrain for its own and load nothing."""
    (tmp_path / "pretrain/checkpoints/6").mkdir(parents=True)
    assert holds_work(tmp_path) and not holds_checkpoint(tmp_path)
    assert holds_checkpoint(tmp_path / "pretrain")


def test_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    words = f"the file system of {tmp_path} has no file locks"
    with pytest.warns(UserWarning, match=words), locked(tmp_path):
        pass
