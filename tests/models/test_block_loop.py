"""Looped blocks, against the same blocks called one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax.models import create_model
from smallvit_jax.models.block_loop import apply_blocks
from smallvit_jax.models.layers import draw_drops
from smallvit_jax.models.parameters import Functional
from smallvit_jax.process.platform import compiling_for


class Chain(nnx.Module):
    """The blocks of a small ViT with drop path rates of 0, .15 and .3, looped or not."""

    def __init__(self, looped: bool, remat: bool = False):
        model = create_model("vit", image_size=8, width=24, depth=3, heads=2, drop_path=0.3)
        self.blocks, self.looped, self.remat = model.blocks, looped, remat

    def __call__(self, x, rngs=None):
        drops = draw_drops(rngs, len(self.blocks), len(x))
        if self.looped:
            return apply_blocks(self.blocks, x, drops, self.remat)
        for block, drawn in zip(self.blocks, drops, strict=True):
            x = block(x, drawn)
        return x


def outputs_and_gradients(looped, remat=False):
    chain = Functional(Chain(looped, remat))
    x = jax.random.normal(jax.random.key(0), (2, 5, 24))

    def loss(weights):
        return jnp.square(chain(weights, {}, x)[0]).sum()

    return jax.jit(jax.value_and_grad(loss))(chain.trainable)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])  # on a GPU they are not looped
@pytest.mark.parametrize("remat", [False, True])
def test_loop_matches_separate_blocks(remat, platform):
    with compiling_for(platform):
        value, gradients = outputs_and_gradients(True, remat)
    expected, expected_gradients = outputs_and_gradients(False)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_few_blocks_are_unrolled_on_a_gpu(remat):
    """Not with `remat`, which saves memory only in a loop."""
    model = create_model("vit", image_size=8, width=24, depth=3, heads=2)
    x = jnp.zeros((2, 5, 24))
    for platform, looped in (("cpu", True), ("gpu", remat)):
        with compiling_for(platform):
            program = jax.make_jaxpr(lambda x: apply_blocks(model.blocks, x, [None] * 3, remat))(x)
        assert ("scan[" in str(program)) == looped


def test_drop_path_is_the_same_on_every_platform():
    chain = Functional(Chain(looped=True))
    x = jax.random.normal(jax.random.key(0), (64, 5, 24))
    outputs = []
    for platform in ("cpu", "gpu"):
        with compiling_for(platform):
            outputs.append(chain(chain.trainable, {}, x, rngs=nnx.Rngs(1))[0])
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)
    whole = chain(chain.trainable, {}, x)[0]
    changed = (np.abs(outputs[0] - whole) > 1e-3).any(axis=(1, 2)).mean()
    assert changed > 0.05


def test_each_block_keeps_its_own_drop_path_rate():
    """A block with both branches dropped returns its input; how often reveals the rate."""
    model = create_model("vit", image_size=8, width=24, depth=2, heads=2, drop_path=0.9)
    x = jax.random.normal(jax.random.key(0), (4000, 1, 24))
    for rate, blocks in ((0.0, [model.blocks[0]]), (0.9, [model.blocks[1]])):
        out = apply_blocks(blocks, x, draw_drops(nnx.Rngs(3), 1, len(x)))
        unchanged = (out == x).all(axis=(1, 2)).mean()
        assert unchanged == pytest.approx(rate**2, abs=0.025)  # both branches dropped
    assert apply_blocks([], x, []) is x
