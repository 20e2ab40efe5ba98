"""Pre-training with each objective: resuming, several devices, bfloat16, collapse, refusals."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.augment.views import ViewSettings
from smallvit_jax.command.flags import read_flags, resolve
from smallvit_jax.main import main
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives import create_objective
from tests.support.tiny_jobs import (
    command,
    finish,
    preset_command,
    read_checkpoint,
    read_json,
    read_metrics,
    run_job,
    start_job,
)

LEJEPA = {
    "pretrain__objective": "lejepa",
    "pretrain__lejepa__out_dim": 8,
    "pretrain__lejepa__hidden_dim": 16,
    "pretrain__lejepa__directions": 16,
    "pretrain__lejepa__knots": 9,
}
MAE = {
    "pretrain__objective": "mae",
    "pretrain__mae__decoder_width": 8,
    "pretrain__mae__decoder_depth": 1,
    "pretrain__mae__decoder_heads": 2,
}
NEW = pytest.mark.parametrize("objective", [LEJEPA, MAE], ids=["lejepa", "mae"])


# Three steps of SGD, whose steps are proportional to the gradients; see test_sharding.py.
STEPS = {
    "pretrain__batch_size": 48,
    "pretrain__epochs": 1,
    "pretrain__optimizer__name": "sgd",
    "pretrain__optimizer__warmup_epochs": 0,
    "pretrain__optimizer__base_lr": 0.1,
    "runtime__checkpoint_every": 2,
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(LEJEPA, id="lejepa"),
        pytest.param(MAE, id="mae", marks=pytest.mark.slow),
    ],
)
def run(request, tmp_path_factory):
    """The changes and the folder of a finished run."""
    folder = tmp_path_factory.mktemp("objective") / "run"
    assert run_job("pretrain", folder, **request.param, **STEPS) == 0
    return request.param | STEPS, folder


def test_stopped_run_resumes_to_the_same_bits(run, tmp_path):
    changes, whole = run
    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed)
    (resumed / "result.json").unlink()
    shutil.rmtree(resumed / "checkpoints" / "3")
    assert run_job("pretrain", resumed, **changes) == 0
    (expected, _), (found, _) = (read_checkpoint(folder) for folder in (whole, resumed))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_result_has_the_objectives_figures(run):
    _, folder = run
    result = read_json(folder / "result.json")
    losses = {
        "lejepa": ("prediction", "statistic", "spread"),
        "mae": ("masked_loss", "visible_loss", "constant_loss"),
    }
    for name in ("loss", *losses[result["objective"]]):
        assert result[name] == read_metrics(folder, "train")[-1][name]
    end, meta = read_checkpoint(folder, "params")
    start = Functional(create_model(**meta["model"], seed=0)).trainable
    matrices = [name for name, array in end.items() if array.ndim > 1]
    moved, norm = (
        np.sqrt(sum(np.sum(np.square(arrays[name])) for name in matrices))
        for arrays in ({name: end[name] - start[name] for name in matrices}, start)
    )
    assert result["weights_moved"] == pytest.approx(100 * moved / norm, rel=1e-4)
    assert 1 <= result["rankme_after"] <= 16
    assert read_metrics(folder, "features")[-1]["rankme"] == result["rankme_after"]


@pytest.mark.multiprocess
@pytest.mark.slow
def test_eight_devices_take_the_same_steps_as_one(run, tmp_path):
    changes, folder = run
    finish(start_job("pretrain", tmp_path, devices=8, **changes))
    assert read_json(tmp_path / "result.json")["environment"]["device_count"] == 8
    one, eight = (read_metrics(path, "train") for path in (folder, tmp_path))
    assert len(one) == len(eight) == 3
    for a, b in zip(one, eight, strict=True):
        for name in a.keys() - {"split"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6), (a["step"], name)
    (one, _), (eight, _) = (read_checkpoint(path, "params") for path in (folder, tmp_path))
    for name, array in one.items():
        np.testing.assert_allclose(eight[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
@NEW
@pytest.mark.parametrize("init", ["impulse3", "mimetic"])
def test_structured_initialization_trains(objective, init, tmp_path):
    changes = objective | {"model__pool": "mean", "model__pos_embed": "sincos"}
    assert run_job("pretrain", tmp_path, pretrain__epochs=1, model__init=init, **changes) == 0
    result = read_json(tmp_path / "result.json")
    assert np.isfinite(result["loss"]) and result["weights_moved"] > 0


@pytest.mark.slow
def test_resumed_continuation_does_not_know_how_far_it_moved(run, tmp_path):
    """Its start is in another run's folder, which may have gone."""
    changes, start = run
    changes = changes | {"pretrain__init_from": start}
    assert run_job("pretrain", tmp_path, **changes) == 0
    assert read_json(tmp_path / "result.json")["weights_moved"] > 0
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "3")
    assert run_job("pretrain", tmp_path, **changes) == 0
    assert read_json(tmp_path / "result.json")["weights_moved"] is None


@pytest.mark.slow
@NEW
def test_conv_stem_and_bfloat16_train(objective, tmp_path):
    changes = objective | {"model__stem": "conv", "runtime__precision": "bfloat16"}
    changes["model__stem_norm"] = "layer"
    assert run_job("pretrain", tmp_path, pretrain__epochs=1, **changes) == 0
    assert np.isfinite(read_json(tmp_path / "result.json")["loss"])


def test_collapse_of_lejepa_is_noticed(tmp_path, capsys):
    """Without the statistic, nothing keeps projections apart."""
    changes = LEJEPA | {"pretrain__lejepa__weight": 0.0, "pretrain__epochs": 10}
    assert run_job("pretrain", tmp_path, **changes, pretrain__optimizer__base_lr=0.2) == 0
    assert "warning: Collapse: the projections of different images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spread", "statistic", "words"),
    [
        (0.01, 9.0, "projections of different images hardly differ"),
        (3.0, 12.0, "projections spread too far"),
        (0.2, 8.0, None),  # as at the start with model.init=reference
        (1.0, 1.0, None),
    ],
)
def test_lejepa_warns_of_projections_far_from_a_gaussian(spread, statistic, words, tmp_path):
    changes = LEJEPA | {"pretrain__batch_size": 24, "pretrain__lejepa__knots": 17}
    config, _, _ = resolve(read_flags(command("pretrain", tmp_path, **changes)))
    backbone = create_model("vit", image_size=16, patch_size=4, width=16, depth=1, heads=2)
    objective = create_objective(config, backbone, ViewSettings(), jnp.float32, jax.random.key(0))
    found = objective.describe_collapse({"spread": spread, "statistic": statistic})
    assert found is None if words is None else words in found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["swin", "cait"])
def test_lejepa_trains_other_transformers(model, tmp_path):
    changes = LEJEPA | {"pretrain__epochs": 1, "dataset__train_fraction": 0.1}
    assert main(preset_command("pretrain", model, "digits", tmp_path, tmp_path, **changes)) == 0
    assert np.isfinite(read_json(tmp_path / "result.json")["loss"])


def test_mae_that_learns_nothing_is_noticed(tmp_path, capsys):
    changes = MAE | {"pretrain__epochs": 1, "pretrain__optimizer__base_lr": 1e-9}
    assert run_job("pretrain", tmp_path, **changes, pretrain__optimizer__min_lr=0.0) == 0
    assert "warning: Collapse: masked patches are predicted no better" in capsys.readouterr().err


def test_networks_of_another_objective_are_refused(tiny_recipe, tmp_path, capsys):
    start = tiny_recipe.folder / "pretrain"
    assert run_job("pretrain", tmp_path, **LEJEPA, pretrain__init_from=start) == 2
    sentence = "was pre-trained with the objective dino, but pretrain.objective is lejepa"
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__stem": "conv", "runtime__accumulate": 2}, "batch norm of the stem"),
        (LEJEPA | {"runtime__accumulate": 2}, "pretrain.objective=lejepa needs the whole batch"),
        (MAE | {"pretrain__mae__mask_ratio": 0.01}, "leaves 16 of 16 patches visible"),
        (MAE | {"pretrain__mae__mask_ratio": 1.0}, "must be above 0 and below 1"),
        (MAE | {"pretrain__mae__decoder_heads": 3}, "decoder_heads 3 does not divide"),
        (MAE | {"model__name": "cait"}, "only a vit allows"),
        (MAE | {"model__stem": "conv"}, "set model.stem_norm=layer"),
        ({"pretrain__objective": "lejpa"}, "must be one of dino, lejepa, mae"),
    ],
)
def test_contradictions_get_one_sentence(changes, words, tmp_path, capsys):
    assert run_job("pretrain", tmp_path, **changes) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error, error
