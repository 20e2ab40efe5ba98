"""Comparing variants: which trainings run when, and a table computed from the logs."""

import contextlib
import csv

import numpy as np
import pytest

from smallvit_jax.config import default_config
from smallvit_jax.evaluation.flops import ModelSize
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.jobs import trainings as trainings_module
from smallvit_jax.jobs.compare import summarize
from smallvit_jax.jobs.trainings import Training, run_each
from smallvit_jax.jobs.variants import read_variants
from smallvit_jax.reporting.compared_variants import (
    comparison_table,
    draw_accuracies,
    draw_learning,
)
from smallvit_jax.training.loop import TrainingDivergedError
from smallvit_jax.workdir.ownership import locked
from tests.reporting.test_page import read
from tests.support.tiny_jobs import command, main, read_json, read_metrics

COMPARISON = {
    "compare__variants": "scratch,ssl",
    "compare__seeds": "0,1",
    "compare__targets": "5,100",
    "pretrain__epochs": 1,
    "finetune__epochs": 3,
    "finetune__evaluate_every": 2,
}


def compare(workdir, **changes) -> int:
    words = command("compare", workdir, **{**COMPARISON, **changes})
    words = [word.replace(":vit,digits", ":digits") for word in words]
    return main([word for word in words if word != "--config.report.at_end=False"])


def row(variant, seed, top1, **more):
    return {
        "variant": variant,
        "seed": seed,
        "test_top1": top1,
        "best_on_test_top1": top1 + 1,
        "knn_top1": None,
        "labelled_images": 100,
        "steps": 10,
        "images_per_second": 50.0,
        "training_seconds": 20.0,
        "pretraining_seconds": 0.0,
        "seconds": 30.0,
        "epochs_to_70": None,
        "seconds_to_70": None,
        "curve": [(1.0, 10.0, top1 - 5), (2.0, 20.0, top1)],
        "diverged": False,
        **more,
    }


def test_table_has_mean_and_deviation_over_seeds():
    rows = [
        row("scratch", 0, 70.0, epochs_to_70=2.0, seconds_to_70=20.0),
        row("scratch", 1, 74.0, epochs_to_70=1.0, seconds_to_70=12.0),
        row("scratch", 2, 66.0, epochs_to_70=2.0, seconds_to_70=28.0),
        row("ssl", 0, 80.0, knn_top1=40.0, pretraining_seconds=100.0, epochs_to_70=1.0),
        row("ssl", 1, 60.0, knn_top1=42.0, pretraining_seconds=140.0),
    ]
    sizes = {"scratch": ModelSize(1234, 5_000_000), "ssl": ModelSize(1234, 5_000_000)}
    scratch, ssl = summarize(rows, sizes, [70.0])
    assert (scratch["seeds"], scratch["test_top1"], scratch["test_top1_sd"]) == (3, 70.0, 4.0)
    assert (scratch["epochs_to_70"], scratch["seconds_to_70"]) == (pytest.approx(5 / 3), 20.0)
    assert ssl["test_top1_sd"] == pytest.approx(200**0.5)
    assert (ssl["knn_top1"], ssl["knn_top1_sd"]) == (41.0, pytest.approx(2**0.5))
    assert ssl["epochs_to_70"] is None  # the second seed did not reach it
    result = {"dataset": "digits", "targets": [70.0], "comparison": [scratch, ssl], "runs": rows}
    head, cells = comparison_table(result)
    assert head[-2:] == ["epochs to 70 %", "time to 70 %"]
    assert cells == [
        [
            *("scratch", "70.0 ± 4.0", "71.0 ± 4.0", "-", "1,234", "5.00", "50", "10", "20 s"),
            *("1.7", "20 s"),
        ],
        [
            *("ssl", "70.0 ± 14.1", "71.0 ± 14.1", "41.0 ± 1.4", "1,234", "5.00", "50", "10"),
            *("2 min", "-", "-"),
        ],
    ]
    (axes,) = draw_accuracies(result).axes
    dots = [c.get_offsets().tolist() for c in axes.collections if len(c.get_offsets()) > 1]
    assert dots == [[[70, 0], [74, 0], [66, 0]], [[80, 1], [60, 1]]]
    by_epoch, by_time = draw_learning(result).axes
    assert [line.get_xydata().tolist() for line in by_epoch.lines] == [[[1, 65], [2, 70]]] * 2
    assert by_time.lines[0].get_xdata().tolist() == pytest.approx([10 / 60, 20 / 60])


def test_diverged_seed_scores_chance_and_has_no_times():
    rows = [
        row("scratch", 0, 70.0),
        {"variant": "scratch", "seed": 1, "test_top1": 10.0, "best_on_test_top1": 10.0}
        | {"seconds": 1.0, "diverged": True, "curve": []},
        {"variant": "ssl", "seed": 0, "test_top1": 10.0, "best_on_test_top1": 10.0}
        | {"seconds": 1.0, "diverged": True, "curve": []},
    ]
    size = ModelSize(1234, 5_000_000)
    scratch, ssl = summarize(rows, {"scratch": size, "ssl": size}, [70.0])
    assert (scratch["test_top1"], scratch["diverged"], scratch["steps"]) == (40, 1, None)
    result = {
        **{"dataset": "digits", "targets": [70.0], "comparison": [scratch, ssl], "runs": rows},
    }
    cells = comparison_table(result)[1]
    assert cells[0][1] == "40.0 ± 42.4 (1 diverged)" and cells[0][-4:] == ["-"] * 4
    by_epoch, _ = draw_learning(result).axes
    assert [line.get_xydata().tolist() for line in by_epoch.lines] == [[[1, 65], [2, 70]]]
    del scratch["diverged"], ssl["diverged"]  # like results from before divergence was counted
    assert comparison_table(result)[1][0][1] == "40.0 ± 42.4"


def test_locked_trainings_are_skipped_until_released(tmp_path, monkeypatch):
    (variant,) = read_variants("scratch")
    trainings = [
        Training(name, default_config(), tmp_path / name, variant) for name in ("a", "b", "c")
    ]
    trained, sleeps = [], []

    def train(training):
        trained.append(training.name)
        return [{"variant": training.name}]

    with contextlib.ExitStack() as other:
        other.enter_context(locked(tmp_path / "b"))

        def release_on_second_sleep(seconds):
            sleeps.append(seconds)
            if len(sleeps) == 2:
                other.close()

        monkeypatch.setattr(trainings_module.time, "sleep", release_on_second_sleep)
        tables = list(run_each(trainings, train))
    assert trained == ["a", "c", "b"] and len(sleeps) == 2
    assert [[row["variant"] for row in rows] for rows in tables] == [
        ["a"],
        ["a", "c"],
        ["a", "b", "c"],
    ]


def test_comparison_resumes_grows_and_tabulates_its_logs(tmp_path, monkeypatch, capsys):
    workdir, train, started = tmp_path / "compared", finetune.run, []

    def interrupt_second(config, folder, *arguments, **options):
        started.append(folder.relative_to(workdir).as_posix())
        if len(started) == 2:
            raise KeyboardInterrupt
        return train(config, folder, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "run", interrupt_second)
        assert compare(workdir, compare__seeds="0") == 130
    assert started == ["scratch/seed-0/finetune", "ssl/seed-0/finetune"]
    with open(workdir / "comparison.csv") as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["scratch"]
    capsys.readouterr()
    assert compare(workdir, compare__seeds="0", finetune__epochs=4) == 2  # refused before training
    assert f"{workdir} holds a run with finetune.epochs = 3" in capsys.readouterr().err
    assert compare(workdir, compare__seeds="0") == 0
    files = list(workdir.glob("*/*/*/result.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(before) == 3
    capsys.readouterr()
    assert compare(workdir, compare__seeds="0") == 0
    assert "already done" in capsys.readouterr().out
    # One more seed: the first seed's trainings are kept, and the report covers both.
    assert compare(workdir) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before

    result = read_json(workdir / "result.json")
    names = [(run["variant"], run["seed"]) for run in result["runs"]]
    assert names == [("scratch", 0), ("ssl", 0), ("scratch", 1), ("ssl", 1)]
    for run in result["runs"]:
        stage = workdir / run["variant"] / f"seed-{run['seed']}" / "finetune"
        tests = read_metrics(stage, "test")
        assert [row["epoch"] for row in tests] == [2, 3]  # every second epoch, and the last
        assert run["steps"] == tests[-1]["step"] == 18  # 144 labels, 24 per step, 3 epochs
        assert run["test_top1"] == tests[-1]["top1"]
        assert run["best_on_test_top1"] == max(row["top1"] for row in tests)
        assert (run["epochs_to_5"], run["epochs_to_100"]) == (2, None)
        tuning = 18 * 24 / read_json(stage / "result.json")["images_per_second"]
        assert run["training_seconds"] == pytest.approx(tuning)
        assert run["seconds_to_5"] == pytest.approx(run["pretraining_seconds"] + tuning * 12 / 18)
        assert (run["pretraining_seconds"] > 0) == (run["variant"] == "ssl")
        if run["variant"] == "ssl":
            knn = read_metrics(stage.parent / "pretrain", "knn")[-1]["top1"]
            assert run["knn_top1"] == knn
    with open(workdir / "comparison.csv") as file:
        table = list(csv.DictReader(file))
    for line in table:
        values = [r["test_top1"] for r in result["runs"] if r["variant"] == line["variant"]]
        assert float(line["test_top1"]) == pytest.approx(np.mean(values))
        assert float(line["test_top1_sd"]) == pytest.approx(np.std(values, ddof=1))
    texts = read((workdir / "report.html").read_text()).texts
    assert texts["h2"][:2] == ["Which is best?", "How did training go?"]
    assert "seeds 0, 1; 1 x cpu" in texts["p"]


def test_divergence_does_not_end_the_comparison(tmp_path, monkeypatch):
    train, started = finetune.run, []

    def diverge(config, folder, *arguments, **options):
        started.append(folder.relative_to(tmp_path).as_posix())
        if config.model.lsa:
            raise TrainingDivergedError("the loss became nan at step 3 (epoch 1)")
        return train(config, folder, *arguments, **options)

    monkeypatch.setattr(finetune, "run", diverge)
    monkeypatch.setattr(pretrain, "run", diverge)
    variants = {"compare__variants": "scratch,lsa,ssl+lsa", "compare__seeds": "0"}
    assert compare(tmp_path, **variants) == 0
    assert started == [
        "scratch/seed-0/finetune",
        "lsa/seed-0/finetune",
        "ssl+lsa/seed-0/pretrain",
    ]
    (tmp_path / "result.json").unlink()
    monkeypatch.undo()
    assert compare(tmp_path, **variants) == 0  # nothing is trained again
    runs = read_json(tmp_path / "result.json")["runs"]
    assert [(r["test_top1"] == 10, r["diverged"]) for r in runs] == [
        *((False, False), (True, True), (True, True))
    ]
    with open(tmp_path / "runs.csv") as file:
        assert [r["steps"] for r in csv.DictReader(file)] == ["18", "", ""]
    assert "(1 diverged)" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "ssl+lsa/seed-0/finetune").exists()


def test_two_names_for_the_same_training_are_refused(tmp_path, capsys):
    assert compare(tmp_path, compare__variants="scratch,ssl,scratch+model.lsa=False") == 2
    message = capsys.readouterr().err
    assert 'the variants "scratch" and "scratch+model.lsa=False" are the same training' in message


def test_invalid_variant_is_refused_before_training(tmp_path, capsys):
    variants = "scratch,ssl+model.patch_size=5"
    assert compare(tmp_path, compare__variants=variants) == 2
    message = capsys.readouterr().err
    assert 'the variant "ssl+model.patch_size=5": model.patch_size 5 does not divide' in message
    assert not list(tmp_path.glob("*/seed-0"))
