"""The comparison with fewer labels: what is trained on what, and the resulting curve."""

import csv

import pytest

from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.jobs.data_efficiency import draw_curve, summarize
from tests.support.tiny_jobs import read_json, run_job

COMPARISON = {
    "data_efficiency__fractions": "0.25,0.5",
    "data_efficiency__seeds": "1",
    "pretrain__epochs": 1,
    "pretrain__knn_every": 0,
    "finetune__epochs": 1,
}
TRAININGS = [(1, f, way) for f in (0.25, 0.5) for way in ("pretrained", "scratch")]


def test_curve_has_mean_and_deviation_over_seeds():
    rows = [
        {"fraction": f, "labels": int(100 * f), "way": way, "test_top1": top1}
        for way, f, top1 in [
            *(("pretrained", 1.0, 70.0), ("pretrained", 1.0, 74.0), ("pretrained", 0.5, 60.0)),
            *(("scratch", 1.0, 50.0), ("scratch", 1.0, 50.0), ("scratch", 0.5, 40.0)),
        ]
    ]
    half, whole = summarize(rows)
    assert (half["fraction"], half["labels"], whole["labels"]) == (0.5, 50, 100)
    assert (half["pretrained"], half["pretrained_sd"]) == (60.0, None)
    assert whole["pretrained"] == 72.0 and whole["pretrained_sd"] == pytest.approx(8**0.5)
    assert (whole["scratch"], whole["scratch_sd"]) == (50.0, 0.0)
    (axes,) = draw_curve([half, whole], "digits").axes
    drawn = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert drawn == [[[50, 60], [100, 72]], [[50, 40], [100, 50]]]


@pytest.mark.slow
def test_comparison_resumes_and_writes_its_curve(tmp_path, monkeypatch, capsys):
    workdir, train, started = tmp_path / "labels", finetune.run, []

    def interrupt_third(config, folder, *arguments, **options):
        started.append(folder.relative_to(workdir).as_posix())
        if len(started) == 3:
            raise KeyboardInterrupt
        return train(config, folder, *arguments, **options)

    monkeypatch.setattr(finetune, "run", interrupt_third)
    assert run_job("data_efficiency", workdir, **COMPARISON) == 130
    assert started == [f"seed-1/{name}" for name in ("finetune-25", "scratch-25", "finetune-50")]
    kept = (workdir / "seed-1/finetune-25/result.json").stat().st_mtime_ns
    monkeypatch.undo()
    assert run_job("data_efficiency", workdir, **COMPARISON) == 0
    assert (workdir / "seed-1/finetune-25/result.json").stat().st_mtime_ns == kept
    capsys.readouterr()
    assert run_job("data_efficiency", workdir, **COMPARISON) == 0
    assert "already done" in capsys.readouterr().out

    result = read_json(workdir / "result.json")
    assert [(r["seed"], r["fraction"], r["way"]) for r in result["runs"]] == TRAININGS
    # Of 144 digits, fine-tuning uses a fraction with labels, but pre-training uses all.
    assert {r["fraction"]: r["labels"] for r in result["runs"]} == {0.25: 36, 0.5: 72}
    folder = workdir / "seed-1"
    assert read_json(folder / "pretrain/result.json")["images"] == 144
    tuned = read_json(folder / "finetune-25/result.json")
    assert (tuned["init_from"], tuned["seed"]) == (str(folder / "pretrain"), 1)
    assert read_json(folder / "scratch-25/result.json")["init_from"] == ""
    top1 = [r["test_top1"] for r in result["runs"]]
    assert [point["pretrained"] for point in result["curve"]] == pytest.approx(top1[::2])
    with open(workdir / "data_efficiency.csv") as file:
        written = list(csv.DictReader(file))
    assert [float(row["test_top1"]) for row in written] == top1
    assert (workdir / "data_efficiency.png").read_bytes().startswith(b"\x89PNG")


def test_every_seed_pretrains_once_and_finetunes_from_it(tmp_path, monkeypatch):
    """The grid of trainings, with stubs instead of stages."""
    done = []

    def stage(config, folder, reader, init_from=None):
        name, seed = folder.relative_to(tmp_path).as_posix(), config.seed
        done.append((name, config.dataset.label_fraction, init_from and init_from.name))
        figures = {"labelled_images": 10, "test_top1": seed + 50.0, "best_on_test_top1": 60.0}
        return figures | {"steps": 3, "seconds": 1.0}

    monkeypatch.setattr(finetune, "run", stage)
    monkeypatch.setattr(pretrain, "run", stage)
    changes = {"data_efficiency__fractions": "0.5", "data_efficiency__seeds": "3,5"}
    assert run_job("data_efficiency", tmp_path, **(COMPARISON | changes)) == 0
    assert done == [
        *(("seed-3/pretrain", 1, None), ("seed-3/finetune-50", 0.5, "pretrain")),
        *(("seed-3/scratch-50", 0.5, None), ("seed-5/pretrain", 1, None)),
        *(("seed-5/finetune-50", 0.5, "pretrain"), ("seed-5/scratch-50", 0.5, None)),
    ]
    (point,) = read_json(tmp_path / "result.json")["curve"]
    assert (point["pretrained"], point["pretrained_sd"]) == (54, pytest.approx(2**0.5))


def test_label_fraction_of_the_config_is_refused(tmp_path, capsys):
    assert run_job("data_efficiency", tmp_path, dataset__label_fraction=0.5) == 2
    assert "uses data_efficiency.fractions instead; set it to 1" in capsys.readouterr().err
