"""Features for the linear probe, against the tokens of each layer."""

import jax.numpy as jnp
import numpy as np
import pytest

import smallvit_jax
from tests.support.outputs import output

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def make(name, **options):
    return smallvit_jax.create_model(name, image_size=16, init="fan_in", **options)


@pytest.mark.parametrize(("blocks", "expected"), [(1, [3]), (3, [1, 2, 3]), (9, [0, 1, 2, 3])])
def test_vit_gives_class_tokens_of_its_last_blocks(blocks, expected):
    model = make("vit", width=8, depth=4, heads=2)
    layers = output(model, IMAGES, "layers")
    tokens = [model.norm(layers[f"blocks.{i}"])[:, 0] for i in expected]
    found = output(model, IMAGES, "block_features", last_blocks=blocks)
    np.testing.assert_allclose(found, jnp.concatenate(tokens, axis=1), atol=1e-5)
    np.testing.assert_allclose(found[:, -8:], model.features(IMAGES), atol=1e-5)


@pytest.mark.parametrize(("blocks", "expected"), [(1, [1]), (4, [0, 1])])
def test_cait_gives_class_tokens_of_its_class_blocks(blocks, expected):
    model = make("cait", width=8, depth=2, heads=2)
    layers = output(model, IMAGES, "layers")
    tokens = [model.norm(layers[f"blocks_token_only.{i}"])[:, 0] for i in expected]
    found = output(model, IMAGES, "block_features", last_blocks=blocks)
    np.testing.assert_allclose(found, jnp.concatenate(tokens, axis=1), atol=1e-5)


def test_swin_gives_block_means_of_different_widths():
    model = make("swin", width=4, heads=1, depths=(1, 1, 2))
    layers = output(model, IMAGES, "layers")
    means = [
        layers["layers.1.blocks.0"].mean(axis=1),
        *(model.norm(layers[f"layers.2.blocks.{j}"]).mean(axis=1) for j in (0, 1)),
    ]
    found = output(model, IMAGES, "block_features", last_blocks=3)
    assert found.shape == (2, 8 + 16 + 16)
    np.testing.assert_allclose(found, jnp.concatenate(means, axis=1), atol=1e-5)
    np.testing.assert_allclose(found[:, -16:], model.features(IMAGES), atol=1e-5)
