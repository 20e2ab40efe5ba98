"""Convolutional networks in jobs: what works with them, and what is refused."""

import jax
import numpy as np
import pytest

import smallvit_jax
from smallvit_jax.config import default_config
from smallvit_jax.config.check import validate
from smallvit_jax.config.choices import CONVNETS
from smallvit_jax.errors import UserError
from smallvit_jax.main import main
from smallvit_jax.models import efficientnet
from tests.support.tiny_jobs import (
    finish,
    read_checkpoint,
    read_json,
    read_metrics,
    run_job,
    start_job,
)

# An eight-layer ResNet instead of the ViT, without the ViT's fields.
TINY = {
    "model__name": "resnet56",
    "model__depth": 8,
    "model__width": 4,
    "model__init": "reference",
    "model__patch_size": "none",
    "model__heads": "none",
}
SGD = {
    "finetune__optimizer__name": "sgd",
    "finetune__optimizer__lr": 0.05,
    "finetune__optimizer__warmup_epochs": 0,
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The folder of a finished recipe with its report."""
    folder = tmp_path_factory.mktemp("convnets") / "run"
    assert run_job("recipe", folder, **TINY, **SGD, report__at_end=True) == 0
    return folder


def test_recipe_runs_every_stage_and_reports(recipe):
    result = read_json(recipe / "result.json")
    assert result["test_top1"] == result["stages"]["finetune"]["test_top1"]
    assert 0 <= result["linear_probe_top1"] <= 100
    page = (recipe / "report.html").read_text()
    assert "A convolutional network has no attention to draw." in page
    arrays, _ = read_checkpoint(recipe / "finetune", "params")
    count = sum(a.size for name, a in arrays.items() if not name.endswith((".mean", ".var")))
    assert f"Fine-tuning: {count:,} parameters" in page


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_running_statistics_are_updated_and_saved(recipe, stage):
    arrays, meta = read_checkpoint(recipe / stage, "params")
    assert meta["model"]["depth"] == 8 and meta["model"]["shortcut"] == "pad"
    for name in ("stem.norm.mean", "blocks.2.conv2.norm.var"):
        assert np.abs(arrays[name] - (name.endswith("var"))).max() > 1e-3
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    model = smallvit_jax.load_checkpoint(recipe / stage)
    np.testing.assert_allclose(model(images)[:1], model(images[:1]), atol=1e-5)


@pytest.mark.parametrize(
    ("job", "fields", "sentence"),
    [
        ("attention", {"attention.checkpoint": "finetune"}, "has no attention to return"),
        ("convert", {"convert.source": "finetune"}, "has no convolutional networks"),
    ],
)
def test_unsupported_jobs_get_one_sentence(recipe, tmp_path, capsys, job, fields, sentence):
    arguments = [
        f"--config=configs/{job}.py:digits",
        f"--workdir={tmp_path / job}",
        "--config.runtime.compilation_cache=",
        *(f"--config.{name}={recipe / value}" for name, value in fields.items()),
    ]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


@pytest.mark.parametrize("model", ["resnet18", "efficientnet_b0"])
@pytest.mark.slow
def test_training_from_scratch(model, tmp_path, monkeypatch):
    # The first two of seven stages cover both kinds of block.
    monkeypatch.setattr(efficientnet, "GROUPS", efficientnet.GROUPS[:2])
    changes = TINY | {"model__name": model, "model__depth": "none", "model__width": 8}
    assert run_job("finetune", tmp_path / "run", **changes, finetune__epochs=1) == 0
    rows = read_metrics(tmp_path / "run", "train")
    assert all(np.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in rows)
    arrays, meta = read_checkpoint(tmp_path / "run", "params")
    assert meta["model"]["stem"] == "cifar" and np.abs(arrays["stem.norm.mean"]).max() > 1e-3
    assert smallvit_jax.load_checkpoint(tmp_path / "run").num_features == meta["model"]["width"] * (
        8 if model == "resnet18" else 4
    )


@pytest.mark.parametrize("model", CONVNETS)
def test_gradient_accumulation_is_refused(model):
    config = default_config()
    config.job, config.model.name, config.runtime.accumulate = "finetune", model, 2
    with pytest.raises(UserError, match=f"the batch norm of the {model}.* set accumulate to 1$"):
        validate(config)


@pytest.mark.slow  # batch norm itself is tested with the convolutional stem
@pytest.mark.multiprocess
def test_batch_statistics_span_all_devices(tmp_path):
    """Weights and running statistics after three steps on one device and on four."""
    changes = TINY | SGD | {"finetune__epochs": 1, "finetune__batch_size": 48}
    folders = {n: tmp_path / f"on_{n}" for n in (1, 4)}
    process = start_job("finetune", folders[4], devices=4, **changes)
    try:
        assert run_job("finetune", folders[1], **changes) == 0
        finish(process)
    finally:
        process.kill()
    one, four = (read_checkpoint(folders[n], "params")[0] for n in (1, 4))
    assert read_json(folders[4] / "result.json")["environment"]["device_count"] == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, four)
