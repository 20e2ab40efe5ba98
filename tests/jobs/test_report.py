"""Reports of finished runs, of folders without a run, and of runs whose report fails."""

import shutil

import pytest

from smallvit_jax.jobs import report
from smallvit_jax.main import main
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.reporting.page import MOST_BYTES
from smallvit_jax.reporting.runs import differing_fields, read_run
from tests.reporting.test_page import read
from tests.support.tiny_jobs import ROOT, command, read_json, run_job


def rebuild(workdir, argument="") -> int:
    config = f"--config={ROOT}/configs/report.py{argument}"
    return main([config, f"--workdir={workdir}", "--config.runtime.compilation_cache="])


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    """A writable copy of a finished recipe."""
    return shutil.copytree(tiny_recipe.folder, tmp_path / "recipe")


def test_recipe_report_has_every_section(recipe, capsys):
    assert rebuild(recipe) == 0
    assert f"report: {recipe}/report.html" in capsys.readouterr().out
    page = (recipe / "report.html").read_text()
    assert len(page) < MOST_BYTES
    texts = read(page).texts
    assert texts["h2"] == [
        *("Did pre-training help?", "How did training go?", "What did the model see?"),
        *("Where does it fail?", "What does it look at?", "How does it tell images apart?"),
        *("How large is the model?", "How do I run it again?"),
    ]
    result = read_json(recipe / "result.json")
    tiles = dict(zip(texts["span"], texts["b"], strict=True))
    assert tiles["test accuracy"] == f"{result['test_top1']:.1f} %"
    assert tiles["test accuracy, from scratch"] == f"{result['scratch_test_top1']:.1f} %"
    written = {path.stem for path in (recipe / "report").iterdir()}
    assert written == {
        *("knn", "scratch", "curves_pretrain", "curves_finetune", "curves_scratch", "views"),
        *("augmented", "confusion", "classes", "calibration", "mistakes", "attention", "embedding"),
    }


def test_training_ends_with_a_report_and_its_command(tmp_path, capsys):
    workdir = tmp_path / "run"
    words = [
        *command("finetune", workdir, finetune__epochs=1),
        "--config.report.at_end=true",
    ]
    words = [word for word in words if word != "--config.report.at_end=False"]
    assert main(words) == 0
    assert f"report: {workdir}/report.html" in capsys.readouterr().out
    texts = read((workdir / "report.html").read_text()).texts
    assert "Where does it fail?" in texts["h2"] and "Did pre-training help?" not in texts["h2"]
    parameters, again = texts["pre"]
    assert "Total: " in parameters
    assert again.startswith("python -m smallvit_jax.main --config=")
    assert all(word in again for word in words)
    written = (workdir / "report.html").stat().st_mtime_ns
    assert main(words) == 0  # already done: the report is kept
    assert (workdir / "report.html").stat().st_mtime_ns == written


def test_failed_report_keeps_the_result(tmp_path, monkeypatch, recwarn):
    def fail(*_):
        raise RuntimeError("no figure\ntoday")

    monkeypatch.setattr(report, "write_report", fail)
    changes = {"report__at_end": True, "finetune__epochs": 1}
    assert run_job("finetune", tmp_path, **changes) == 0
    assert read_json(tmp_path / "result.json")["job"] == "finetune"
    (warning,) = [str(w.message) for w in recwarn if "report failed" in str(w.message)]
    assert "(no figure today)" in warning and "configs/report.py" in warning


@pytest.mark.slow
def test_report_without_dataset_says_what_is_missing(recipe, monkeypatch):
    def missing(*_):
        raise report.UserError("there is no folder /data/digits")

    monkeypatch.setattr(DatasetReader, "load", missing)
    assert rebuild(recipe) == 0
    texts = read((recipe / "report.html").read_text()).texts
    assert "Where does it fail?" in texts["h2"]  # from the predictions that evaluation saved
    assert (
        "What did the model see?" not in texts["h2"] and "What does it look at?" not in texts["h2"]
    )
    assert any("/data/digits" in text for text in texts["p"])


def test_report_of_two_runs_shows_differing_fields(recipe, tmp_path, tiny_recipe):
    other = shutil.copytree(recipe, tmp_path / "other")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"width": 16', '"width": 32'))
    runs = {"a": read_run(recipe), "b": read_run(other)}
    assert differing_fields(runs) == {"model.width": ["16", "32"]}
    assert rebuild(tmp_path / "compared", f":{recipe},{other}") == 0
    texts = read((tmp_path / "compared" / "report.html").read_text()).texts
    assert texts["h2"] == ["Which is best?", "How did training go?", "How do the runs differ?"]
    assert [cell for cell in texts["td"] if cell in ("16", "32")] == ["16", "32"]


@pytest.mark.parametrize("argument", ["", ":no_such_run"])
def test_folder_without_a_run_is_refused(tmp_path, capsys, argument):
    assert rebuild(tmp_path, argument) == 2
    assert "contains no finished" in capsys.readouterr().err
