"""Dense relative localization against the published code, and as part of fine-tuning."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax import load_checkpoint
from smallvit_jax.main import main
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.parameters import Functional, get_arrays, set_arrays
from smallvit_jax.objectives import relative_location as drloc
from smallvit_jax.objectives import supervised
from smallvit_jax.training.optimizers import make_optimizer
from tests.support.golden_formulas import hashed, read_golden
from tests.support.reference_traces import quick_jit
from tests.support.tiny_jobs import (
    preset_command,
    read_checkpoint,
    read_json,
    read_metrics,
    run_job,
)

CASES = {name: case for name, case in read_golden("drloc").items() if name != "source"}


def recorded_points() -> tuple[jax.Array, jax.Array]:
    b, s = np.ogrid[:2, :64]
    first = ((7 * s + 3 * b) % 8, (5 * s + 2 * b + 1) % 8)
    second = ((3 * s + b + 2) % 8, (s // 8 + 4 * b) % 8)
    return tuple(jnp.asarray(np.stack(points, axis=-1)) for points in (first, second))


def recorded_head(classes: int | None) -> drloc.LocationHead:
    head = drloc.LocationHead(192, classes, dtype=jnp.float32, rngs=nnx.Rngs(0))
    arrays = get_arrays(head)
    for name, array in arrays.items():
        group, index, kind = name.split(".")
        key = f"layers.{2 * int(index)}" if group == "layers" else f"unshared.{index}"
        key += ".weight" if kind == "kernel" else ".bias"
        arrays[name] = hashed(key, array.T.shape, 0.1).T
    set_arrays(head, arrays)
    return head


@pytest.mark.parametrize("name", CASES)
def test_predictions_targets_and_losses_equal_the_published_code(name):
    case, (loss, absolute, normalize) = CASES[name], name.split("_")
    absolute, normalize = absolute == "abs1", normalize == "norm1"
    grid = jnp.asarray(hashed("input:feat", (2, 192, 8, 8), 1.0).transpose(0, 2, 3, 1))
    first, second = recorded_points()
    head = recorded_head(None if loss == "l1" else 8 if absolute else 15)
    assert sum(array.size for array in get_arrays(head).values()) == case["nparams"]
    predicted = head(drloc.tokens_at(grid, first), drloc.tokens_at(grid, second))
    target = drloc.relative_locations(first, second, 8, absolute, normalize)
    for found, expected in ((predicted, case["pred"]), (target, case["target"])):
        found = np.asarray(found, np.float64)
        np.testing.assert_allclose(found.ravel()[:64], expected["first64"], atol=1e-5)
        assert np.linalg.norm(found) == pytest.approx(expected["l2"], rel=1e-6)
    assert float(drloc.LOSSES[loss](predicted, target)) == pytest.approx(case["loss"], rel=2e-6)


def test_pairs_are_uniform_and_independent():
    """Each cell of a 4 x 4 grid has 1/16 of 40,000 points, within 5 standard errors."""
    points = np.stack(drloc.draw_pairs(jax.random.key(0), 200, 100, 4))
    assert points.shape == (2, 200, 100, 2)
    cells = np.bincount((points[..., 0] * 4 + points[..., 1]).ravel(), minlength=16)
    assert np.abs(cells - 2500).max() < 5 * np.sqrt(2500 * 15 / 16)
    same = (points[0] == points[1]).all(axis=-1).mean()
    assert same == pytest.approx(1 / 16, abs=5 * np.sqrt(15 / 256 / 20_000))


def test_weight_rises_for_20_epochs_then_falls():
    weights = drloc.weight_schedule(0.5, 100, 3)
    assert len(weights) == 300
    by_epoch = {0: 0, 1: 0.025, 10: 0.25, 20: 0.5, 60: 0.25, 99: 0.00625}
    for epoch, weight in by_epoch.items():
        np.testing.assert_allclose(weights[3 * epoch : 3 * epoch + 3], weight)
    np.testing.assert_allclose(drloc.weight_schedule(1.0, 4, 1), [0, 0.05, 0.1, 0.15])


TINY = {
    "vit": {"width": 8, "depth": 2, "heads": 2},
    "mean": {"width": 8, "depth": 1, "heads": 2, "pool": "mean"},
    "swin": {"width": 4, "depths": (1, 2), "heads": 1},
    "cait": {"width": 8, "depth": 1, "class_depth": 1, "heads": 2},
}


@pytest.mark.parametrize("case", TINY)
def test_logits_and_grid_in_one_pass(case):
    """Logits equal those of a plain call; the grid is the last block's output in 2D."""
    name = "vit" if case == "mean" else case
    options = {"image_size": 16, "patch_size": 2, "num_classes": 3, "init": "fan_in"} | TINY[case]
    model = create_model(name, **options)
    images = jnp.asarray(hashed("images", (2, 16, 16, 3), 1.0))

    @quick_jit
    def outputs(images):
        return model(images), model.outputs(images, "logits", "grid", "layers")

    plain, found = outputs(images)
    logits, grid, layers = found["logits"], found["grid"], found["layers"]
    np.testing.assert_allclose(logits, plain, atol=1e-5)
    side = drloc.grid_side(resolve_options(name, **options))
    assert grid.shape == (2, side, side, model.num_features)
    last = {"swin": "layers.1.blocks.1", "vit": "blocks.1"}.get(case, "blocks.0")
    patches = layers[last][:, -side * side :]
    np.testing.assert_allclose(grid.reshape(2, side * side, -1), patches, atol=1e-5)


def test_update_follows_both_losses():
    """The loss is cross-entropy plus the weighted location loss; both move the weights."""
    options = {"image_size": 8, "patch_size": 2, "num_classes": 3} | TINY["vit"]
    model = Functional(create_model("vit", **options, init="fan_in"))
    key = jax.random.key(1)
    settings = drloc.DrlocSettings(0.1, "l1", pairs=8, absolute=True, normalize=False)
    side = drloc.grid_side(resolve_options("vit", **options))
    term = drloc.Drloc(settings, side, 8, dtype=jnp.float32, key=key)
    optimizer = make_optimizer("sgd")
    images = jnp.asarray(hashed("images", (4, 8, 8, 3), 1.0))
    labels, weight = jnp.asarray([0, 1, 2, 0]), jnp.float32(0.25)

    @quick_jit
    def step(weight):
        state = supervised.initial_state(model, optimizer, term)
        schedule = {"learning_rate": 0.1, "weight_decay": 0.0, "drloc_weight": weight}
        return supervised.update(
            state, images, labels, labels, 1.0, key, schedule,
            model=model, optimizer=optimizer, label_smoothing=0.0, drloc=term,
        )  # fmt: skip

    state, metrics = step(weight)
    without, alone = step(jnp.float32(0))
    assert float(alone["drloc"]) == float(metrics["drloc"]) > 0
    assert float(metrics["loss"]) == pytest.approx(
        float(alone["loss"] + weight * metrics["drloc"]), rel=1e-6
    )
    moved = {name: float(jnp.abs(state.params[name] - before).max()) for name, before in
             (model.trainable | term.params).items()}  # fmt: skip
    assert all(moved[name] > 0 for name in term.params)
    unmoved = {name: float(jnp.abs(without.params[name] - before).max()) for name, before in
             term.params.items()}  # fmt: skip
    assert set(unmoved.values()) == {0}
    qkv = "blocks.1.attn.qkv.kernel"
    assert jnp.abs(state.params[qkv] - without.params[qkv]).max() > 0


FIELDS = {"finetune__drloc__weight": 0.5, "finetune__drloc__pairs": 4}
RECIPE = {"model__stem": "spt", "model__lsa": True, "runtime__checkpoint_every": 6} | FIELDS


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A finished recipe with drloc, of a ViT with shifted patches and locality self-attention."""
    folder = tmp_path_factory.mktemp("drloc") / "run"
    assert run_job("recipe", folder, **RECIPE) == 0
    return folder


@pytest.mark.slow
def test_recipe_logs_drloc_but_saves_it_outside_params(tuned):
    rows = read_metrics(tuned / "finetune", "train")
    assert all(np.isfinite(row["drloc"]) for row in rows)
    assert {row["drloc_weight"] for row in rows} == {0.0, 0.025}
    state, meta = read_checkpoint(tuned / "finetune")
    params, _ = read_checkpoint(tuned / "finetune", "params")
    assert any(".drloc." in f".{name}." for name in state)
    assert not any("drloc" in name for name in params)
    model = load_checkpoint(tuned / "finetune")
    assert meta["model"]["stem"] == "spt" and meta["model"]["lsa"] is True
    assert model(jnp.zeros((1, 8, 8, 3))).shape == (1, 10)
    assert read_json(tuned / "finetune" / "result.json")["steps"] == rows[-1]["step"]


@pytest.mark.slow
def test_resumed_last_epoch_is_bit_exact(tuned, tmp_path):
    """Resumes after step 6 of 12; the head changes only in the second epoch."""
    copy = tmp_path / "run"
    shutil.copytree(tuned, copy)
    shutil.rmtree(copy / "finetune" / "checkpoints" / "12")
    for result in (copy / "result.json", copy / "finetune" / "result.json"):
        result.unlink()
    assert run_job("recipe", copy, **RECIPE) == 0
    (whole, _), (resumed, _) = (read_checkpoint(run / "finetune") for run in (tuned, copy))
    assert whole.keys() == resumed.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["swin", "cait"])
def test_other_families_with_all_options(family, tmp_path):
    command = preset_command(
        "recipe", family, "digits", tmp_path, tmp_path, dataset__train_fraction=0.1,
        model__stem="spt", model__lsa=True, model__patch_size=2,
        finetune__drloc__loss="cbr", **FIELDS,
    )  # fmt: skip
    assert main(command) == 0
    assert np.isfinite(read_metrics(tmp_path / "finetune", "train")[-1]["drloc"])
    assert load_checkpoint(tmp_path / "finetune").patch_embed.directions == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__patch_size": 16}, "last grid is a single token"),
        (
            {"finetune__drloc__loss": "ce", "finetune__drloc__normalize": True},
            "finetune.drloc.normalize needs the loss l1",
        ),
        ({"finetune__drloc__loss": "l2"}, "must be one of l1, ce, cbr"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, capsys, changes, words):
    assert run_job("finetune", tmp_path / "run", **FIELDS, **changes) == 2
    assert words in capsys.readouterr().err
