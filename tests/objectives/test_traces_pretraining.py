"""Pre-training against the reference, step by step."""

import jax
import jax.numpy as jnp
import pytest

from smallvit_jax.models import create_model
from smallvit_jax.objectives import dino
from smallvit_jax.training.optimizers import make_optimizer
from tests.support.reference_traces import (
    PRETRAINING_LIMITS,
    l2,
    make_pretraining_step,
    pretraining_differences,
    view_network,
)


@pytest.fixture(scope="module")
def network():
    return view_network(create_model("vit"))


@pytest.fixture(scope="module")
def step(network):
    return make_pretraining_step(network)


@pytest.mark.parametrize("name", ["frozen", "unfrozen", "freeze_then_train", "clip0.1"])
def test_steps_equal_the_reference(golden, network, step, name):
    found = pretraining_differences(golden(f"trace_ssl_vit_{name}"), network, step)
    found.check(PRETRAINING_LIMITS)


def test_clipping_precedes_the_update_in_both_groups():
    params = {"a": jnp.zeros((2, 2)), "projection.last_layer.weight_v": jnp.zeros((2, 2))}
    optimizer = make_optimizer("sgd", clip=3.0, freezable=dino.is_last_layer)
    updates, _ = optimizer.update(
        jax.tree.map(lambda p: jnp.full_like(p, 100.0), params),
        optimizer.init(params),
        params,
        learning_rate=1.0,
        weight_decay=0.0,
        frozen=False,
    )
    assert [l2(u) for u in updates.values()] == pytest.approx([3.0, 3.0])
