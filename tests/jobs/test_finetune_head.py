"""Fine-tuning that starts from a probe, with lower rates for earlier layers."""

import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import smallvit_jax
from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.command.flags import read_flags, resolve
from smallvit_jax.config import default_config
from smallvit_jax.jobs.finetune import PROBE_DECAY, PROBE_LABELS, head_init, layer_decay
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.workdir.metrics import read_metrics as all_metrics
from tests.support.tiny_jobs import command, read_checkpoint, read_json, read_metrics, run_job

FEW = {"dataset__labels_per_class": 2, "finetune__batch_size": 16, "finetune__evaluate_every": 2}


@pytest.fixture(scope="module")
def tuned(tiny_recipe, tmp_path_factory):
    """A fine-tuning from a probe, at a rate that changes nothing."""
    folder = tmp_path_factory.mktemp("head") / "tuned"
    still = {"finetune__optimizer__lr": 1e-30, "finetune__optimizer__min_lr": 0.0}
    start = {"finetune__init_from": tiny_recipe.folder / "pretrain"}
    assert run_job("finetune", folder, finetune__head_init="probe", **FEW, **start, **still) == 0
    return folder


def test_first_step_predicts_as_the_probe_does(tuned, tiny_recipe):
    start = tiny_recipe.folder / "pretrain"
    config, _, _ = resolve(read_flags(command("finetune", tuned, **FEW)))
    data = DatasetReader().load(config)
    model = smallvit_jax.load_checkpoint(start)

    def features(images):
        batch = evaluation_batch(images, 16, data.info.mean, data.info.std)
        return np.asarray(model.features(batch))

    labeled = data.train.take(data.subsets.labeled)
    scaler = StandardScaler().fit(features(data.train.images[data.subsets.unlabeled]))
    probe = LogisticRegression(max_iter=1000)
    probe.fit(scaler.transform(features(labeled.images)), labeled.labels)
    expected = 100 * probe.score(scaler.transform(features(data.test.images)), data.test.labels)
    result = read_json(tuned / "result.json")
    assert result["probe_test_top1"] == pytest.approx(expected, abs=0.3)
    rows = read_metrics(tuned, "test")
    assert [row["epoch"] for row in rows] == [0, 2]
    assert result["test_top1"] == rows[-1]["top1"] == pytest.approx(rows[0]["top1"], abs=0.3)


def test_stop_before_the_first_step_repeats_no_evaluation(tiny_recipe, tmp_path):
    """With validation images, the probe itself is saved as step 0."""
    changes = FEW | {
        "finetune__init_from": tiny_recipe.folder / "pretrain",
        "finetune__head_init": "probe",
        "dataset__validation_fraction": 0.2,
    }
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run_job("finetune", whole, **changes) == 0
    shutil.copytree(whole, resumed)
    (resumed / "result.json").unlink()
    for step in (resumed / "checkpoints").iterdir():
        if step.name != "0":
            shutil.rmtree(step)
    assert (resumed / "checkpoints" / "0").is_dir()
    assert run_job("finetune", resumed, **changes) == 0
    expected, found = (
        [(row["split"], row["step"]) for row in all_metrics(folder)] for folder in (whole, resumed)
    )
    assert found == expected
    for name in ("probe_test_top1", "test_top1", "validation_top1"):
        assert read_json(resumed / "result.json")[name] == read_json(whole / "result.json")[name]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vit", "resnet56"])
def test_probe_starts_bfloat16_and_convolutional_models(model, tmp_path):
    changes = {"runtime__precision": "bfloat16", "model__name": model}
    if model == "resnet56":
        unset = ("patch_size", "heads")
        changes |= {f"model__{name}": "none" for name in unset} | {"model__depth": 8}
        changes |= {"model__init": "reference", "pretrain__views__local_crops": 0}
    assert run_job("pretrain", tmp_path / "start", pretrain__epochs=1, **changes) == 0
    start = {"finetune__init_from": tmp_path / "start", "finetune__head_init": "probe"}
    assert run_job("finetune", tmp_path / "tuned", **changes, **start, **FEW) == 0
    assert read_json(tmp_path / "tuned" / "result.json")["probe_test_top1"] > 30


def test_head_of_drloc_has_the_full_rate(tiny_recipe, tmp_path):
    changes = FEW | {"finetune__layer_decay": 1e-6, "finetune__drloc__weight": 0.1}
    changes["finetune__init_from"] = tiny_recipe.folder / "pretrain"
    arrays = []
    for epochs in (1, 2):
        folder = tmp_path / str(epochs)
        assert run_job("finetune", folder, finetune__epochs=epochs, **changes) == 0
        arrays.append(read_checkpoint(folder)[0])
    before, after = arrays
    moved = {name: np.abs(after[name] - before[name]).max() for name in before}
    heads = [value for name, value in moved.items() if name.startswith("params.drloc.")]
    assert min(heads) > 1e-5 > moved["params.patch_embed.proj.kernel"]


def test_rate_from_scratch_is_a_field_of_its_own(tiny_recipe, tmp_path):
    rates = {"finetune__optimizer__lr": 1e-3, "finetune__optimizer__scratch_lr": 7e-3}
    start = {"finetune__init_from": tiny_recipe.folder / "pretrain"}
    assert run_job("finetune", tmp_path / "scratch", **FEW, **rates) == 0
    assert run_job("finetune", tmp_path / "tuned", **FEW, **rates, **start) == 0
    highest = {
        name: max(row["learning_rate"] for row in read_metrics(tmp_path / name, "train"))
        for name in ("scratch", "tuned")
    }
    assert highest["scratch"] == pytest.approx(7 * highest["tuned"], rel=0.01)


def test_training_from_scratch_has_no_probe(tmp_path):
    assert run_job("finetune", tmp_path, finetune__head_init="probe", **FEW) == 0
    result = read_json(tmp_path / "result.json")
    assert result["probe_test_top1"] is None
    assert (result["head_init"], result["layer_decay"]) == ("random", 1)


@pytest.mark.parametrize(
    ("chosen", "per_class", "expected"),
    [
        ("random", 2, "random"),
        ("probe", 5000, "probe"),
        ("auto", PROBE_LABELS, "probe"),
        ("auto", PROBE_LABELS + 1, "random"),
    ],
)
def test_auto_chooses_by_the_number_of_labels(chosen, per_class, expected, tmp_path):
    config, _, _ = resolve(read_flags(command("finetune", tmp_path, finetune__head_init=chosen)))
    assert head_init(config, np.repeat(np.arange(3), per_class)) == expected


@pytest.mark.parametrize(
    ("field", "probed", "expected"),
    [(None, True, PROBE_DECAY), (None, False, 1.0), (0.8, True, 0.8), (0.8, False, 0.8)],
)
def test_layer_decay_is_the_field_or_follows_the_classifier(field, probed, expected):
    config = default_config()
    config.finetune.layer_decay = field
    assert layer_decay(config, probed=probed) == expected


def test_earlier_layers_move_less(tiny_recipe, tmp_path):
    """With SGD, one step moves each layer by its factor of the plain step."""
    one_step = {
        "finetune__init_from": tiny_recipe.folder / "pretrain",
        "finetune__epochs": 1,
        "finetune__batch_size": 20,
        "finetune__optimizer__name": "sgd",
        "finetune__optimizer__lr": 10.0,  # gradients are small behind a new classifier
        "finetune__optimizer__warmup_epochs": 0,
        "finetune__optimizer__weight_decay": 0.0,
        "finetune__augment__mix": 0.0,
        "dataset__labels_per_class": 2,
    }
    arrays = {}
    for decay in (1.0, 0.5):
        folder = tmp_path / str(decay)
        assert run_job("finetune", folder, finetune__layer_decay=decay, **one_step) == 0
        arrays[decay], _ = read_checkpoint(folder, "params")
    start, _ = read_checkpoint(tiny_recipe.folder / "pretrain", "params")
    for name, factor in {
        "patch_embed.proj.kernel": 0.25,
        "blocks.0.mlp.fc1.kernel": 0.5,
        "norm.scale": 1.0,
    }.items():
        plain, scaled = (arrays[decay][name] - start[name] for decay in (1.0, 0.5))
        assert np.abs(plain).max() > 1e-6
        np.testing.assert_allclose(scaled, factor * plain, rtol=1e-2, atol=1e-7, err_msg=name)
