"""Evaluation of a finished recipe: its metrics follow from the model's predictions."""

import numpy as np
import pytest

import smallvit_jax
from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.data import load_split
from tests.support.tiny_jobs import read_json, run_job


def test_metrics_match_the_models_predictions(tiny_recipe):
    folder = tiny_recipe.folder
    result = read_json(folder / "evaluate" / "result.json")
    images, labels, info = load_split("digits", "test")
    model = smallvit_jax.load_checkpoint(folder / "finetune")
    logits = np.asarray(model(evaluation_batch(images, 16, info.mean, info.std)))
    with np.load(folder / "evaluate" / "predictions.npz", allow_pickle=False) as file:
        kept = dict(file)
    assert np.array_equal(kept["labels"], labels)
    np.testing.assert_allclose(kept["probabilities"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.diff(np.log(kept["probabilities"])), np.diff(logits), atol=1e-3)
    assert kept["features"].shape == (len(labels), 16)

    right = kept["probabilities"].argmax(axis=1) == labels
    assert result["test_top1"] == pytest.approx(right.mean() * 100)
    confusion = np.array(result["confusion"])
    assert confusion.sum() == len(labels) and np.trace(confusion) == right.sum()
    assert [entry["name"] for entry in result["per_class"]] == list(info.class_names)
    for digit, entry in enumerate(result["per_class"]):
        assert entry["top1"] == pytest.approx(right[labels == digit].mean() * 100)
    assert sum(entry["images"] for entry in result["calibration"]) == len(labels)
    assert 0 <= result["ece"] <= 100

    by_setting = {
        (row["neighbors"], row["temperature"]): row["top1"] for row in result["knn_sweep"]
    }
    assert len(by_setting) == 12 and by_setting[20, 0.07] == result["knn_top1"]
    assert len(result["linear_probe"]["sweep"]) == 5
    assert result["linear_probe"]["top1"] > 15  # chance is 10; after a hundred steps


def test_backbone_gets_knn_but_no_classification_metrics(tiny_recipe, tmp_path, capsys):
    changes = tiny_recipe.changes | {"evaluate__checkpoint": tiny_recipe.folder / "pretrain"}
    assert run_job("evaluate", tmp_path, **changes, evaluate__probe_blocks=0) == 0
    result = read_json(tmp_path / "result.json")
    pretrained = read_json(tiny_recipe.folder / "pretrain" / "result.json")
    assert result["knn_top1"] == pretrained["knn_after"]
    assert not {"test_top1", "confusion", "linear_probe"} & result.keys()
    with np.load(tmp_path / "predictions.npz") as file:
        assert sorted(file) == ["features", "labels"]
    assert "best kNN accuracy of 12" in capsys.readouterr().out


def test_table_fits_on_a_screen(tiny_recipe, tmp_path, capsys):
    changes = tiny_recipe.changes | {"evaluate__checkpoint": tiny_recipe.folder / "finetune"}
    assert run_job("evaluate", tmp_path, **changes) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 15 and max(map(len, lines)) < 120
    assert any("worst classes: " in line for line in lines)
