"""Gradient accumulation and remat save memory without changing the training step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax.config import default_config
from smallvit_jax.config.check import validate
from smallvit_jax.errors import UserError
from smallvit_jax.models import create_model
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives import dino, supervised
from smallvit_jax.training.accumulation import mean_over_parts
from smallvit_jax.training.optimizers import make_optimizer
from tests.support.reference_traces import quick_jit

TINY = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "heads": 2, "init": "fan_in"}
BATCH, OUT_DIM, STEPS = 12, 8, 3
SCHEDULE = {
    "learning_rate": 0.02,
    "weight_decay": 0.05,
    "teacher_momentum": 0.5,
    "teacher_temperature": 0.05,
    "frozen": False,
}


def images(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def pretrained(parts: int):
    """Initial state, and state and metrics after SGD steps with a moving teacher."""
    backbone = create_model("vit", **TINY)
    sizes = {"out_dim": OUT_DIM, "hidden_dim": 16, "bottleneck_dim": 8}
    head = ProjectionHead(backbone.num_features, **sizes, rngs=nnx.Rngs(1))
    network = Functional(ViewNetwork(backbone, head))
    optimizer = make_optimizer("sgd", freezable=dino.is_last_layer)
    step = functools.partial(
        dino.update,
        network=network,
        optimizer=optimizer,
        student_temperature=0.1,
        center_momentum=0.9,
        teacher_drop_path=True,
        accumulate=parts,
    )
    views = (images(BATCH, 2, 16, 16, 3), images(BATCH, 3, 8, 8, 3))
    start = dino.initial_state(network, optimizer, OUT_DIM)
    return start, take_steps(lambda state: step(state, views, None, SCHEDULE), start)


def finetuned(parts: int):
    model = Functional(create_model("vit", **TINY, num_classes=5))
    optimizer = make_optimizer("sgd", decay_vectors=True)
    step = functools.partial(
        supervised.update,
        model=model,
        optimizer=optimizer,
        label_smoothing=0.1,
        accumulate=parts,
    )
    labels = jnp.arange(BATCH) % 5
    batch = (images(BATCH, 16, 16, 3), labels, jnp.roll(labels, 1), jnp.float32(0.3))
    schedule = {name: SCHEDULE[name] for name in ("learning_rate", "weight_decay")}
    start = supervised.initial_state(model, optimizer)
    return start, take_steps(lambda state: step(state, *batch, None, schedule), start)


def take_steps(step, state):
    step, rows = jax.jit(step), []
    for _ in range(STEPS):
        state, metrics = step(state)
        rows.append(metrics)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *rows)


@pytest.mark.parametrize("train", [pretrained, finetuned])
def test_accumulated_step_equals_the_whole_batch(train):
    """Compares weights, momentum, center and buffers relative to their change; all metrics."""
    start, (whole, metrics) = train(1)
    _, (parts, metrics_in_parts) = train(3)
    for name, values in metrics.items():
        np.testing.assert_allclose(metrics_in_parts[name], values, 2e-5, 1e-6, err_msg=name)
    initial, expected, found = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(state)])
        for state in (start, whole, parts)
    )
    moved = np.linalg.norm(expected - initial)
    assert moved > 0.02 * np.linalg.norm(initial)
    assert np.linalg.norm(found - expected) < 2e-6 * moved


def test_accumulation_excludes_batch_norm_in_the_head():
    config = default_config()
    config.runtime.accumulate, config.pretrain.head.batch_norm = 2, True
    with pytest.raises(UserError, match="accumulate to 1 or batch_norm to false"):
        validate(config)


def test_each_part_gets_its_own_rows_and_key():
    def function(part, key):
        return (part.mean(), jax.random.uniform(key)), part

    (mean, drawn), last = mean_over_parts(function, 4, jnp.arange(12.0), jax.random.key(0))
    assert float(mean) == 5.5
    np.testing.assert_array_equal(last, [3, 7, 11])
    keys = jax.random.split(jax.random.key(0), 4)
    assert float(drawn) == pytest.approx(np.mean([jax.random.uniform(key) for key in keys]))


DEEP = {
    "vit": {"width": 32, "depth": 5, "heads": 2, "patch_size": 2},
    "cait": {"width": 32, "depth": 5, "class_depth": 1, "heads": 2, "patch_size": 2},
    "swin": {"width": 16, "depths": (2, 4), "heads": 2, "patch_size": 2, "stem": "conv"},
}


@pytest.mark.parametrize("family", ["vit", "swin", pytest.param("cait", marks=pytest.mark.slow)])
def test_remat_gives_the_same_gradients(family):
    """Drop path must draw the same values in both; remat saves less for the backward pass."""
    labels = jnp.arange(BATCH) % 5

    def gradients(remat):
        options = {"image_size": 16, "num_classes": 5, "drop_path": 0.3, "remat": remat}
        model = Functional(create_model(family, **DEEP[family] | options))

        def loss_of(params):
            rngs = nnx.Rngs(jax.random.key(0))
            logits, _ = model(
                params, model.buffers, images(BATCH, 16, 16, 3), train=True, rngs=rngs
            )
            return supervised.smoothed_cross_entropy(logits, labels, 0.1).mean()

        saved = jax.eval_shape(lambda params: jax.vjp(loss_of, params)[1], model.trainable)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(saved) if x.ndim)
        return quick_jit(jax.value_and_grad(loss_of))(model.trainable), size

    (expected, size), (found, smaller_size) = gradients(False), gradients(True)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert smaller_size < 0.5 * size
