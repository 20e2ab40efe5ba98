"""Look-ups by gathers, against those by products that a TPU gets."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.augment import autoaugment, lookup
from smallvit_jax.augment.finetune import AugmentSettings, augment_batch
from smallvit_jax.augment.policies import POLICIES
from smallvit_jax.augment.randaugment import randaugment
from smallvit_jax.process.platform import compiling_for

GATHER = re.compile(r'"stablehlo\.gather".*?slice_sizes = array<i64: ([\d, ]+)>')


def on_both_platforms(function, *args):
    """What a function returns with gathers, and with the products that are compiled for a TPU.

    With the compiler's usual optimizations, because without them XLA fuses a product and a sum into
    one operation that rounds once, in one of the two programs only.
    """
    options = {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 3}
    options["xla_llvm_disable_expensive_passes"] = False
    outputs = []
    for platform in ("cpu", "tpu"):
        with compiling_for(platform):
            compiled = jax.jit(lambda *args: function(*args), compiler_options=options)
            outputs.append(compiled(*args))
    return outputs


def images_of_all_kinds(count, size):
    """Noise, images of low contrast and images of a single color."""
    rng = np.random.default_rng(size)
    lowest = rng.integers(0, 256, (count, 1, 3, 1))
    contrast = np.arange(count)[:, None, None, None] % 3 * 20
    low = np.clip(lowest + rng.random((count, size, 3, size)) * contrast, 0, 255)
    noise = rng.integers(0, 256, low.shape)
    return np.where(rng.random((count, 1, 1, 1)) < 0.5, low, noise).astype(int).astype(np.float32)


def test_values_by_hand():
    image = np.arange(5 * 3 * 5, dtype=np.float32).reshape(5, 3, 5)  # 15 y + 5 channel + x
    y, x = np.array([[0, 4]]), np.array([[3, 1]])
    for picked in on_both_platforms(lookup.pick_pixels, image, y, x):
        np.testing.assert_array_equal(picked, [[[3, 61], [8, 66], [13, 71]]])
    table = 255.0 - np.stack([np.arange(256.0), np.arange(256.0) // 2])
    values = np.array([[[0, 255, 17], [1, 128, 255]]])
    for mapped in on_both_platforms(lookup.map_levels, values, table):
        np.testing.assert_array_equal(mapped, [[[255, 0, 238], [255, 191, 128]]])
    for counts in on_both_platforms(lookup.count_levels, values):
        assert counts.dtype == jnp.int32 and counts.sum() == 6
        assert (counts[0, values[0, 0]] == 1).all() and (counts[1, values[0, 1]] == 1).all()
    tables = {"turn": np.array([2**30 + 1, 5]), "up": np.array([[True, False], [False, True]])}
    for row in on_both_platforms(lookup.choose_row, tables, 0):
        assert row["turn"] == 2**30 + 1 and row["up"].tolist() == [True, False]


@pytest.mark.parametrize("vertical", [False, True])
def test_neighbors_beyond_the_edge_are_copies(vertical):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 3, 8)).astype(np.float32)
    shift = rng.integers(-9, 10, (8, 1))  # also completely beyond
    x, y = np.arange(8) + shift, np.broadcast_to(np.arange(8)[:, None], (8, 8))
    expected = [image[y, :, np.clip(x + i, 0, 7)].swapaxes(1, 2) for i in (-1, 0, 1, 2)]
    if vertical:
        image, expected = image.swapaxes(0, 2), [e.swapaxes(0, 2) for e in expected]
        x, y = y.T, x.T
    for neighbors in on_both_platforms(lookup.pick_neighbors, image, y, x, vertical):
        np.testing.assert_array_equal(neighbors, expected)


@pytest.mark.parametrize("size", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_every_step_of_every_policy_is_the_same_to_the_bit(size):
    steps = {step for policy in POLICIES.values() for pair in policy for step in pair}
    table = autoaugment.parameter_table(sorted(steps), size)
    images = images_of_all_kinds(len(table.kind), size)
    gathered, multiplied = on_both_platforms(jax.vmap(autoaugment.apply), images, table)
    np.testing.assert_array_equal(gathered, multiplied)


@pytest.mark.slow
def test_random_operations_are_the_same_to_the_bit():
    images, rng = images_of_all_kinds(80, 32), np.random.default_rng(0)
    uniform = rng.random((80, 8), np.float32)
    np.testing.assert_array_equal(*on_both_platforms(jax.vmap(randaugment), images, uniform))
    for policy in POLICIES:
        changes = jax.vmap(
            lambda image, u, policy=policy: autoaugment.autoaugment(image, u, policy)
        )
        np.testing.assert_array_equal(*on_both_platforms(changes, images, uniform[:, :5]))


@pytest.mark.parametrize("policy", [*POLICIES, "randaugment"])
def test_a_tpu_moves_no_single_elements(policy):
    settings = AugmentSettings(policy=policy)
    images, key = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8), jax.random.key(0)

    def gathers(platform):
        with compiling_for(platform):
            traced = jax.jit(lambda x, k: augment_batch(x, k, settings)).trace(images, key)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found = [[int(n) for n in sizes.split(",")] for sizes in GATHER.findall(text)]
        return [math.prod(sizes) for sizes in found], text.count('"stablehlo.scatter"(')

    assert gathers("tpu") == ([], 0)
    on_cpu, scatters = gathers("cpu")  # the test would find them
    assert 1 in on_cpu and scatters == 1
