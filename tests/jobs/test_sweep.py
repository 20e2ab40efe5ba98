"""Random settings: how they are drawn, trained with and scored."""

import csv

import numpy as np
import pytest

from smallvit_jax.config import default_config
from smallvit_jax.jobs import finetune
from smallvit_jax.jobs.sweep import draw_setting, summarize
from smallvit_jax.reporting.sweep_page import draw_sweep, sweep_table
from smallvit_jax.training.loop import TrainingDivergedError
from tests.reporting.test_page import read
from tests.support.tiny_jobs import command, main, read_json, read_metrics

SWEEP = {"finetune__epochs": 1, "sweep__settings": 1, "sweep__variants": "scratch"}


def sweep(workdir, **changes) -> int:
    words = command("sweep", workdir, **{**SWEEP, **changes})
    words = [word.replace(":vit,digits", ":digits") for word in words]
    return main([word for word in words if word != "--config.report.at_end=False"])


def row(variant, error, number, diverged=False):
    setting = {"setting": number, "lr": 10.0**-number, "weight_decay": 0.1}
    return {"variant": variant, "optimizer": "sgd", "error": error, "diverged": diverged} | setting


def test_settings_are_log_uniform():
    config = default_config()
    drawn = np.array([draw_setting(config, "sgd", number) for number in range(400)])
    exponents = np.log(drawn)
    for values, (low, high) in zip(
        exponents.T, (config.sweep.sgd_lr, config.sweep.sgd_weight_decay), strict=True
    ):
        place = (values - np.log(low)) / (np.log(high) - np.log(low))
        assert place.min() >= 0 and place.max() <= 1
        # Uniform values have mean .5, with a standard error of .29 / 20 = .014, and variance 1/12.
        assert abs(place.mean() - 0.5) < 0.06 and abs(place.var() - 1 / 12) < 0.015
    assert draw_setting(config, "sgd", 3) == tuple(drawn[3])
    assert draw_setting(config, "adamw", 3) != tuple(drawn[3])
    config.seed = 1
    assert draw_setting(config, "sgd", 3) != tuple(drawn[3])


def test_table_counts_settings_near_the_best():
    rows = [
        *(row("scratch", error, i) for i, error in enumerate([44.0, 40.5, 40.0, 44.1])),
        row("scratch", 90.0, 4, diverged=True),
        *(row("conv", error, i) for i, error in enumerate([30.0, 31.0])),
    ]
    scratch, conv = summarize(rows)
    assert (scratch["best_error"], scratch["best_lr"], scratch["median_error"]) == (40, 0.01, 44)
    assert (scratch["near_best"], scratch["diverged"]) == (60.0, 1)  # 40, 40.5 and 44 of five
    assert (conv["best_lr"], conv["near_best"]) == (1.0, 100.0)
    result = {"variants": ["scratch", "conv"], "runs": rows, "sweep": [scratch, conv]}
    assert sweep_table(result)[1] == [
        ("scratch", "SGD", "40.0", "44.0", "60 %", "1", "5"),
        ("conv", "SGD", "30.0", "30.5", "100 %", "0", "2"),
    ]
    absolute, relative = draw_sweep(result).axes
    assert absolute.lines[1].get_xydata().tolist() == [[30, 50], [31, 100]]
    assert relative.lines[0].get_xdata() == pytest.approx([0, 0.5, 4, 4.1, 50])


@pytest.mark.slow
def test_sweep_resumes_grows_and_scores_divergence_as_chance(tmp_path, monkeypatch, capsys):
    workdir, train, started = tmp_path / "sweep", finetune.run, []

    def diverge_and_stop(config, folder, *arguments, **options):
        started.append(folder.relative_to(workdir).as_posix())
        if len(started) == 3:
            raise KeyboardInterrupt
        result = train(config, folder, *arguments, **options)
        if config.finetune.optimizer.name == "sgd":
            (folder / "result.json").unlink()
            raise TrainingDivergedError("the loss became nan at step 3 (epoch 1)")
        return result

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "run", diverge_and_stop)
        assert sweep(workdir, sweep__settings=2) == 130
    first = ["scratch/adamw/setting-000/finetune", "scratch/sgd/setting-000/finetune"]
    assert started == [*first, "scratch/adamw/setting-001/finetune"]
    kept = [(workdir / name / "result.json").stat().st_mtime_ns for name in first]
    assert sweep(workdir) == 0
    assert sweep(workdir, sweep__settings=2) == 0
    assert kept == [(workdir / name / "result.json").stat().st_mtime_ns for name in first]
    assert not list(workdir.glob("*/*/*/*/checkpoints"))

    result = read_json(workdir / "result.json")
    runs = result["runs"]
    assert [(r["optimizer"], r["setting"], r["diverged"]) for r in runs] == [
        *(("adamw", 0, False), ("sgd", 0, True), ("adamw", 1, False), ("sgd", 1, False)),
    ]
    assert runs[1]["error"] == 90  # chance with ten classes
    for run in (runs[0], *runs[2:]):
        stage = workdir / f"scratch/{run['optimizer']}/setting-{run['setting']:03}/finetune"
        assert run["error"] == pytest.approx(100 - read_metrics(stage, "test")[-1]["top1"])
        optimizer = read_json(stage / "config.json")["finetune"]["optimizer"]
        config = default_config()
        setting = draw_setting(config, run["optimizer"], run["setting"])
        assert (optimizer["lr"], optimizer["weight_decay"]) == pytest.approx(setting)
    with open(workdir / "sweep.csv") as file:
        assert [float(r["error"]) for r in csv.DictReader(file)] == [r["error"] for r in runs]
    texts = read((workdir / "report.html").read_text()).texts
    assert texts["h2"][:2] == ["How much does the setting matter?", "Which setting is best?"]


def test_variant_cannot_set_a_drawn_field(tmp_path, capsys):
    assert sweep(tmp_path, sweep__variants="scratch,scratch+finetune.optimizer.lr=0.1") == 2
    assert "a sweep draws finetune.optimizer.lr itself" in capsys.readouterr().err


def test_pretraining_variant_is_refused(tmp_path, capsys):
    assert sweep(tmp_path, sweep__variants="scratch,ssl") == 2
    assert 'sweep.variants has "ssl", but a sweep only trains with labels' in (
        capsys.readouterr().err
    )
