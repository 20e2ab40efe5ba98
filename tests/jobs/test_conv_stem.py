"""The convolutional stem in complete jobs: pre-training, fine-tuning, loading checkpoints."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

import smallvit_jax
from smallvit_jax.checkpoints.store import read_params_and_meta
from smallvit_jax.command.config_files import load_config
from smallvit_jax.config import default_config
from smallvit_jax.config.check import validate
from smallvit_jax.data import load_split
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.errors import UserError
from smallvit_jax.main import main
from smallvit_jax.models import abstract_model
from smallvit_jax.models.swin import Swin
from smallvit_jax.plans.data_and_model import model_options
from tests.support.tiny_jobs import preset_command, read_checkpoint, read_metrics


@pytest.mark.parametrize(
    ("size", "count", "without"),
    [
        ("1gf", 4_567_936, 4.8),
        ("4gf", 17_754_136, 18.5),
        ("18gf", 81_573_160, 86.6),
        ("36gf", 167_796_008, 178.4),
    ],
)
def test_parameter_counts_match_the_paper(size, count, without):
    """At 224 pixels with 1,000 classes: exact with convolutions, in millions without them."""

    def parameters(argument):
        config = load_config(f"configs/conv_stem.py:{argument},cars")
        validate(config)
        model = abstract_model(
            **model_options(config, get_dataset(config.dataset.name)) | {"num_classes": 1000}
        )
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    assert parameters(size) == count
    assert parameters(f"{size}-patchify") / 1e6 == pytest.approx(without, abs=0.06)


@pytest.mark.parametrize("argument", ["1gf", "2gf,cars", "1gf-patch,cars", "cars,1gf"])
def test_unknown_size_is_refused(argument):
    with pytest.raises(UserError, match=r"SIZE,DATASET like .1gf,cars"):
        load_config(f"configs/conv_stem.py:{argument}")


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("job", ["pretrain", "finetune", "recipe", "data_efficiency"])
def test_gradient_accumulation_excludes_batch_norm(job, norm):
    config = default_config()
    config.job, config.model.stem, config.model.stem_norm = job, "conv", norm
    validate(config)
    config.runtime.accumulate = 2
    with pytest.raises(UserError, match=r"model\.stem_norm to layer"):
        validate(config)
    config.model.stem_norm = "layer"
    validate(config)


@pytest.fixture(
    scope="module",
    params=["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("swin", "cait"))],
)
def recipe(request, tmp_path_factory):
    """The family and folder of a recipe with the smallest model; the CaiT uses LayerNorm."""
    family, folder = request.param, tmp_path_factory.mktemp("conv") / request.param
    changes = {
        "dataset__train_fraction": 0.1,
        "model__patch_size": 2,
        "model__stem": "conv",
        "model__stem_norm": "layer" if family == "cait" else "batch",
        "pretrain__epochs": 1,
        "pretrain__knn_every": 0,
        "evaluate__probe_blocks": 0,
        "finetune__epochs": 1,
    }
    arguments = preset_command("recipe", family, "digits", folder, folder.parent, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Swin.__init__.__kwdefaults__, "depths", (1, 1))
        assert main(arguments) == 0
    return family, folder


def test_recipe_checkpoints_load_without_naming_the_stem(recipe):
    family, folder = recipe
    for stage in ("pretrain", "finetune"):
        for row in read_metrics(folder / stage, "train"):
            assert math.isfinite(row["loss"]) and row["gradient_norm"] > 0
        arrays, meta = read_params_and_meta(folder / stage)
        options = meta["model"]
        assert (options["stem"], options["stem_strides"]) == ("conv", [2])
        assert options["stem_norm"] == ("layer" if family == "cait" else "batch")
        statistics = {k for k in arrays if k.endswith((".mean", ".var"))}
        assert len(statistics) == (0 if family == "cait" else 2)
        model = smallvit_jax.load_checkpoint(folder / stage)
        output = model(np.ones((2, 16, 16, 3), np.float32))
        assert output.shape[0] == 2 and np.isfinite(output).all()


def test_teacher_statistics_are_its_own_and_are_exported(recipe):
    family, folder = recipe
    if family == "cait":
        pytest.skip("layer norm has no statistics")
    state, _ = read_checkpoint(folder / "pretrain")
    teacher, _ = read_params_and_meta(folder / "pretrain")
    name = "patch_embed.norms.0.mean"
    teacher_mean, student_mean = (
        state[f"{network}_buffers.backbone.{name}"] for network in ("teacher", "student")
    )
    np.testing.assert_array_equal(teacher[name], teacher_mean)
    assert np.abs(teacher_mean).max() > 1e-3
    assert (
        np.abs(teacher_mean - student_mean).max() > 0
    )  # their weights differ, so their outputs do


def test_evaluation_uses_running_statistics(recipe):
    """With batch statistics, an image's features would depend on the rest of its batch."""
    family, folder = recipe
    if family == "cait":
        pytest.skip("layer norm has no statistics")
    images = (load_split("digits", "test")[0][:3] / 255).astype(np.float32)
    model = smallvit_jax.load_checkpoint(folder / "pretrain")
    first, second = (np.asarray(model(images[[0, i]])) for i in (1, 2))
    np.testing.assert_allclose(first[0], second[0], rtol=1e-4, atol=1e-5)
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_loading_into_another_stem_is_refused(recipe, tmp_path, capsys):
    family, folder = recipe
    arguments = preset_command(
        "finetune",
        family,
        "digits",
        tmp_path,
        tmp_path,
        model__patch_size=2,
        finetune__init_from=folder / "pretrain",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Swin.__init__.__kwdefaults__, "depths", (1, 1))
        assert main(arguments) != 0
    assert "model.stem is conv there but patchify here" in capsys.readouterr().err
