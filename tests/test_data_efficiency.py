"""The comparison at fewer labels: what is trained on what, and the curve that comes of it."""

import csv

import numpy as np
import pytest

from smallvit_jax import finetune
from smallvit_jax.data_efficiency import draw_curve, summarize
from tests.tiny_jobs import quick_compilation, read_json, run_job

COMPARISON = {
    "data_efficiency__fractions": "0.25",
    "data_efficiency__seeds": "0,1",
    "pretrain__epochs": 1,
    "pretrain__knn_every": 0,
    "finetune__epochs": 1,
}
TRAININGS = [(seed, 0.25, way) for seed in (0, 1) for way in ("pretrained", "scratch")]


def test_the_curve_has_mean_and_deviation_over_seeds():
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


def test_a_comparison_continues_and_ends_with_its_curve(
    tmp_path, compilation_cache, monkeypatch, capsys
):
    workdir, train, started = tmp_path / "labels", finetune.run, []

    def stop_at_the_third(config, folder, *arguments, **options):
        started.append(folder.relative_to(workdir).as_posix())
        if len(started) == 3:
            raise KeyboardInterrupt
        return train(config, folder, *arguments, **options)

    with quick_compilation(compilation_cache):
        monkeypatch.setattr(finetune, "run", stop_at_the_third)
        assert run_job("data_efficiency", workdir, **COMPARISON) == 130
        assert started == [*("seed-0/finetune-25", "seed-0/scratch-25", "seed-1/finetune-25")]
        kept = (workdir / "seed-0/finetune-25/result.json").stat().st_mtime_ns
        monkeypatch.undo()
        assert run_job("data_efficiency", workdir, **COMPARISON) == 0
        assert (workdir / "seed-0/finetune-25/result.json").stat().st_mtime_ns == kept
        capsys.readouterr()
        assert run_job("data_efficiency", workdir, **COMPARISON) == 0
    assert "done already" in capsys.readouterr().out

    result = read_json(workdir / "result.json")
    assert [(r["seed"], r["fraction"], r["way"]) for r in result["runs"]] == TRAININGS
    # 144 digits: a quarter of the labels, but every image without labels.
    assert {r["fraction"]: r["labels"] for r in result["runs"]} == {0.25: 36}
    for seed in (0, 1):
        folder = workdir / f"seed-{seed}"
        assert read_json(folder / "pretrain/result.json")["images"] == 144
        tuned = read_json(folder / "finetune-25/result.json")
        assert (tuned["init_from"], tuned["seed"]) == (str(folder / "pretrain"), seed)
        assert read_json(folder / "scratch-25/result.json")["init_from"] == ""
    top1 = [r["test_top1"] for r in result["runs"]]
    assert result["curve"][0]["pretrained"] == pytest.approx(np.mean(top1[::2]))
    with open(workdir / "data_efficiency.csv") as file:
        written = list(csv.DictReader(file))
    assert [float(row["test_top1"]) for row in written] == top1
    assert (workdir / "data_efficiency.png").read_bytes().startswith(b"\x89PNG")


def test_the_comparison_chooses_the_labels_itself(tmp_path, capsys):
    assert run_job("data_efficiency", tmp_path, dataset__label_fraction=0.5) == 2
    assert "data_efficiency.fractions; set it to 1" in capsys.readouterr().err
