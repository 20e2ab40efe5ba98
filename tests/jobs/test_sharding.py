"""Jobs train the same on one device and on eight simulated ones, up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smallvit_jax
from smallvit_jax.augment.views import ViewSettings
from smallvit_jax.command.flags import read_flags, resolve
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.jobs import pretrain
from smallvit_jax.models import create_model
from smallvit_jax.plans.data_and_model import model_options
from tests.support.tiny_jobs import (
    command,
    finish,
    read_checkpoint,
    read_json,
    read_metrics,
    run_job,
    start_job,
)

pytestmark = pytest.mark.multiprocess

# SGD, whose steps are proportional to the gradients: under Adam, a gradient that is only rounding
# noise would move a weight as far as any other. Learning rates are large enough to move weights.
# Pre-training takes three steps: rounding errors grow with each, also between two ways of compiling
# for one device.
CHANGES = {
    "model__stem": "conv",  # with batch norm, whose statistics span all devices
    "pretrain__epochs": 1,
    "pretrain__batch_size": 48,
    "pretrain__knn_every": 0,
    "pretrain__head__batch_norm": True,
    "pretrain__optimizer__name": "sgd",
    "pretrain__optimizer__base_lr": 0.1,
    "pretrain__optimizer__clip": 0.0,
    "pretrain__optimizer__warmup_epochs": 0,
    "pretrain__freeze_last_layer_epochs": 0,
    "pretrain__teacher__momentum": 0.5,
    "finetune__epochs": 1,
    "finetune__optimizer__name": "sgd",
    "finetune__optimizer__lr": 0.05,
    "finetune__optimizer__warmup_epochs": 0,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of the same recipe on 1 and on 8 devices."""
    folders = {n: tmp_path_factory.mktemp("sharding") / f"on_{n}" for n in (1, 8)}
    process = start_job("recipe", folders[8], devices=8, **CHANGES)
    try:
        assert run_job("recipe", folders[1], **CHANGES) == 0
        finish(process)
    finally:
        process.kill()
    return folders


def assert_close(a, b, name: str, rel: float = 1e-4, noise: float = 5e-7) -> None:
    """Compares norms, up to `rel` plus `noise` per entry: some gradients are only rounding noise,
    such as that of a bias before batch norm."""
    difference = np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    assert difference <= rel * np.linalg.norm(b) + noise * np.sqrt(np.size(b)), name


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_metrics_of_every_step_agree(runs, stage):
    one, eight = (read_metrics(runs[n] / stage, "train") for n in (1, 8))
    assert read_json(runs[8] / stage / "result.json")["environment"]["device_count"] == 8
    assert len(one) == len(eight) == {"pretrain": 3, "finetune": 6}[stage]
    for a, b in zip(one, eight, strict=True):
        for name in a.keys() - {"split"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6), (a["step"], name)


def test_pretraining_updates_agree(runs):
    """Student, teacher, center, batch norm statistics and momentum after three steps."""
    (one, _), (eight, _) = (read_checkpoint(runs[n] / "pretrain") for n in (1, 8))
    start = fresh_student(runs[1] / "pretrain")
    moved = 0
    for network in ("student", "teacher"):
        for name, value in start.items():
            a, b = one[f"{network}.{name}"] - value, eight[f"{network}.{name}"] - value
            assert_close(a, b, f"{network} {name}")
            moved += np.linalg.norm(a) > 1e-3 * max(np.linalg.norm(value), 1)
    assert moved > len(start)
    assert_close(one["center"], eight["center"], "center")
    # The last gradient has accumulated the rounding of all steps: even on one device, compiling
    # with and without optimizations changes it by up to 3e-4.
    for name in one:
        if "buffers" in name or name.startswith("optimizer"):
            assert_close(one[name], eight[name], name, rel=5e-4, noise=5e-6)
    assert np.linalg.norm(one["center"]) > 1e-3
    for network in ("student", "teacher"):
        assert np.abs(one[f"{network}_buffers.backbone.patch_embed.norms.0.mean"]).max() > 1e-3


def fresh_student(folder):
    """The weights that pre-training started from."""
    config, _, _ = resolve(read_flags(command("recipe", folder, **CHANGES)))
    options = model_options(config, get_dataset("digits"))
    objective = pretrain.build_objective(
        config, create_model(**options, seed=config.seed), ViewSettings(), jnp.float32
    )
    return jax.device_get(objective.network.trainable)


def test_finetuning_updates_agree(runs):
    (one, _), (eight, _) = (read_checkpoint(runs[n] / "finetune", "params") for n in (1, 8))
    starts = [read_checkpoint(runs[n] / "pretrain", "params")[0] for n in (1, 8)]
    for name in starts[0]:
        a, b = one[name] - starts[0][name], eight[name] - starts[1][name]
        assert_close(a, b, name)
    assert_close(one["head.kernel"], eight["head.kernel"], "head.kernel")


def test_checkpoint_from_eight_devices_loads_on_one(runs, tmp_path):
    images = np.random.default_rng(0).normal(size=(20, 16, 16, 3)).astype(np.float32)
    one, eight = (smallvit_jax.load_checkpoint(runs[n] / "finetune") for n in (1, 8))
    np.testing.assert_allclose(one(images), eight(images), rtol=1e-3, atol=1e-4)
    changes = {"evaluate__checkpoint": runs[8] / "finetune"}
    assert run_job("evaluate", tmp_path, **changes) == 0
    there = read_json(runs[8] / "evaluate" / "result.json")
    here = read_json(tmp_path / "result.json")
    assert here["test_loss"] == pytest.approx(there["test_loss"], rel=1e-5)


def test_checkpoint_from_one_device_loads_on_eight(runs, tmp_path):
    changes = {"evaluate__checkpoint": runs[1] / "finetune"}
    finish(start_job("evaluate", tmp_path, devices=8, **changes))
    there, here = (read_json(folder / "result.json") for folder in (runs[1] / "evaluate", tmp_path))
    assert here["environment"]["device_count"] == 8
    assert here["test_loss"] == pytest.approx(there["test_loss"], rel=1e-5)
    assert here["knn_top1"] == pytest.approx(there["knn_top1"], abs=0.6)
