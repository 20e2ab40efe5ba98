"""The recipe of every architecture on every dataset, from files in the dataset's own layout.

Models are the smallest of their family and images are few, but image sizes, patch sizes and splits
are the presets'. The default suite runs one recipe per architecture, one of them with its
augmentation policy, and trains from scratch at each remaining image size; the rest is slow.
"""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import smallvit_jax
from smallvit_jax.checkpoints.store import read_params_and_meta
from smallvit_jax.config import default_config
from smallvit_jax.data import load_split
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.data.prepare import prepare
from smallvit_jax.main import main
from smallvit_jax.models.parameters import get_arrays
from smallvit_jax.models.swin import Swin
from smallvit_jax.plans.finetuning import augment_settings
from tests.data.tiny_originals import ORIGINALS, expect
from tests.data.tiny_tfds import write_tiny_dataset
from tests.support.tiny_jobs import preset_command, read_json, read_metrics

TFDS = ("cifar10", "cifar100", "svhn")  # the ones that TFDS provides
QUICK = {("vit", "cifar10")}
RECIPES = [
    pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow)
    for pair in itertools.product(("vit", "swin", "cait"), (*TFDS, *ORIGINALS))
]
QUICKLY_COMPILED = {"finetune__augment__policy": "none"}  # AutoAugment takes half of the time
SCRATCH = [
    pytest.param(name, marks=[] if name in ("tiny_imagenet", "cars") else pytest.mark.slow)
    for name in (*TFDS, *ORIGINALS)
]
# Patch size by image size: the reference's, and our choice for photographs.
PATCHES = {
    "vit": {32: 4, 64: 8, 224: 16},
    "swin": {32: 2, 64: 4, 224: 4},
    "cait": {32: 4, 64: 8, 224: 16},
}


@pytest.fixture(autouse=True)
def _shallow_swin(monkeypatch):
    # Instead of Swin's twelve blocks, one shifted pair, and one block in each other stage.
    monkeypatch.setitem(Swin.__init__.__kwdefaults__, "depths", (1, 2, 1))


def prepare_tiny(name: str, folder: Path, monkeypatch) -> Path:
    """Prepares a dataset of a few images as the command would; returns the data folder."""
    data_dir = folder / "data"
    if name not in TFDS:
        make, classes = ORIGINALS[name]
        expect(monkeypatch, name, classes, make(folder / "original"))
        prepare(name, folder / "original", data_dir)
    else:
        write_tiny_dataset(data_dir, name, count=4)
    return data_dir


def run_preset(job: str, model: str, name: str, data_dir: Path, workdir: Path, **changes) -> None:
    """Takes two steps per epoch. Pre-training moves the weights far, fine-tuning hardly at all."""
    half = len(load_split(name, "train", data_dir)[1]) // 2
    fields = {
        "pretrain__epochs": 1,
        "pretrain__batch_size": half,
        "pretrain__knn_every": 0,
        "pretrain__views__local_crops": 1,
        "pretrain__optimizer__base_lr": 1.0,
        "pretrain__teacher__momentum": 0.5,
        "finetune__epochs": 1,
        "finetune__batch_size": half,
        "finetune__optimizer__lr": 1e-9,
        "finetune__optimizer__min_lr": 0.0,
        "evaluate__batch_size": half,
        "runtime__steps_per_dispatch": 2,
    }
    assert main(preset_command(job, model, name, workdir, data_dir, **(fields | changes))) == 0


@pytest.mark.parametrize(("name", "padding"), [("cifar10", 4), ("tiny_imagenet", 4), ("cars", 28)])
def test_random_crop_padding_follows_the_dataset(name, padding):
    """The reference's 4 pixels at 32 and 64; an eighth for photographs, which it does not cover."""
    config, spec = default_config(), DATASETS[name]
    config.dataset.name = name
    data = SimpleNamespace(info=spec, spec=spec)
    assert augment_settings(config, data, spec.image_size).crop_padding == padding
    config.finetune.augment.crop_padding = 0
    assert augment_settings(config, data, spec.image_size).crop_padding == 0


def largest_difference(arrays, others) -> float:
    """The largest absolute difference of any of `arrays`."""
    return max(float(np.abs(np.asarray(arrays[name]) - others[name]).max()) for name in arrays)


def check_classifier(model: str, name: str, data_dir: Path, stage: Path) -> None:
    """Checks that all images were used and that the checkpoint records the dataset."""
    _, labels, info = load_split(name, "test", data_dir)
    size = DATASETS[name].image_size
    result = read_json(stage / "result.json")
    assert (result["steps"], result["dataset"]) == (2, name)
    correct = result["test_top1"] * len(labels) / 100
    assert correct == pytest.approx(round(correct)) and 0 <= correct <= len(labels)
    for row in read_metrics(stage, "train"):
        assert math.isfinite(row["loss"]) and row["gradient_norm"] > 0

    logits = smallvit_jax.load_checkpoint(stage)(np.zeros((2, size, size, 3), np.float32))
    assert logits.shape == (2, info.num_classes) and np.isfinite(logits).all()
    _, meta = read_params_and_meta(stage)
    assert (meta["dataset"], meta["class_names"]) == (name, list(info.class_names))
    assert (meta["mean"], meta["std"]) == (list(info.mean), list(info.std))
    sizes = {"name": model, "image_size": size, "patch_size": PATCHES[model][size]}
    assert sizes.items() <= meta["model"].items()


@pytest.mark.parametrize(("model", "name"), RECIPES)
def test_recipe_runs_on_original_layout(model, name, tmp_path, monkeypatch, capsys):
    data_dir, workdir = prepare_tiny(name, tmp_path, monkeypatch), tmp_path / "run"
    quick = {} if model == "vit" else QUICKLY_COMPILED
    run_preset("recipe", model, name, data_dir, workdir, **quick)
    check_classifier(model, name, data_dir, workdir / "finetune")
    result = read_json(workdir / "result.json")
    assert result["test_top1"] == result["stages"]["finetune"]["test_top1"]

    # Fine-tuning started from the teacher, which had moved away from its initialization.
    teacher, meta = read_params_and_meta(workdir / "pretrain")
    start = get_arrays(smallvit_jax.create_model(**meta["model"]))
    tuned, _ = read_params_and_meta(workdir / "finetune")
    assert largest_difference(teacher, tuned) < 1e-6 < 1e-3 < largest_difference(teacher, start)
    assert sorted(tuned.keys() - teacher.keys()) == ["head.bias", "head.kernel"]
    assert f"loaded {len(teacher)} arrays" in capsys.readouterr().out


@pytest.mark.parametrize("name", SCRATCH)
def test_training_from_scratch_runs_on_original_layout(name, tmp_path, monkeypatch):
    data_dir, workdir = prepare_tiny(name, tmp_path, monkeypatch), tmp_path / "run"
    run_preset("finetune", "vit", name, data_dir, workdir, **QUICKLY_COMPILED)
    check_classifier("vit", name, data_dir, workdir)


def test_finetuning_at_another_image_size(tmp_path, monkeypatch, capsys):
    """Pre-trained at 32 pixels, fine-tuned at 64: four times as many patches."""
    data_dir = prepare_tiny("cifar10", tmp_path, monkeypatch)
    run_preset("pretrain", "vit", "cifar10", data_dir, tmp_path / "pretrain")
    run_preset(
        *("finetune", "vit", "cifar10", data_dir, tmp_path / "finetune"),
        finetune__init_from=tmp_path / "pretrain",
        model__image_size=64,
        model__patch_size=4,
        **QUICKLY_COMPILED,
    )
    sentences = capsys.readouterr().out.splitlines()
    resized = "position embeddings resized from 8 x 8 to 16 x 16 patches (bicubic)"
    assert sum(resized in sentence for sentence in sentences) == 1
    tuned, meta = read_params_and_meta(tmp_path / "finetune")
    assert tuned["pos_embed"].shape == (1, 1 + 16 * 16, 8)
    assert (meta["model"]["image_size"], meta["model"]["patch_size"]) == (64, 4)
