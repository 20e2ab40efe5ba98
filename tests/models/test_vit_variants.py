"""The ViT with mean pooling in place of the class token, and with fixed positions."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import get_arrays
from smallvit_jax.models.positions import sincos_positions
from tests.support.outputs import output

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
TINY = {"image_size": 16, "width": 8, "depth": 3, "heads": 2, "init": "fan_in"}


def make(pool="mean", pos_embed="sincos", **options):
    model = create_model("vit", pool=pool, pos_embed=pos_embed, **TINY | options)
    scale = 1 + jnp.arange(8) / 8  # a final norm that does not commute with the mean
    model.norm.scale[...], model.norm.bias[...] = scale, scale - 1
    return model


def normed(tokens, model):
    x = np.asarray(tokens, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * np.asarray(model.norm.scale[...]) + np.asarray(model.norm.bias[...])


def test_parameter_count_of_timms_tiny_vit():
    """12 blocks of 444,864 parameters, a patch embedding of 12 · 192 + 192, the final norm."""
    options = {"patch_size": 2, "depth": 12, "heads": 3, "mlp_ratio": 4.0}
    arrays = get_arrays(create_model("vit", **options, pool="mean", pos_embed="sincos"))
    assert sum(a.size for a in arrays.values()) == 12 * 444_864 + 2_496 + 384
    arrays = get_arrays(create_model("vit", **options, num_classes=10))
    # With class token, learned positions and classifier.
    assert sum(a.size for a in arrays.values()) == 5_341_248 + 192 * (1 + 257) + 1_930


def test_mean_is_taken_before_the_norm():
    model = make()
    layers = output(model, IMAGES, "layers")
    expected = normed(layers["blocks.2"].mean(axis=1), model)
    np.testing.assert_allclose(model.features(IMAGES), expected, atol=1e-5)
    np.testing.assert_allclose(layers["norm"][:, 0], expected, atol=1e-5)
    assert np.abs(normed(layers["blocks.2"], model).mean(axis=1) - expected).max() > 0.01


def test_block_features_are_block_means():
    model = make()
    layers = output(model, IMAGES, "layers")
    expected = [normed(layers[f"blocks.{i}"].mean(axis=1), model) for i in (1, 2)]
    found = output(model, IMAGES, "block_features", last_blocks=2)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-5)


@pytest.mark.parametrize("size", [16, 8, 24])
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_fixed_positions_follow_the_grid(pool, size):
    model = make(pool)
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    layers = output(model, images, "layers")
    added = layers["block_input"][:, 1 if pool == "cls" else 0 :] - layers["patch_embed"]
    expected = sincos_positions(size // 2, size // 2, 8)
    np.testing.assert_allclose(added, np.broadcast_to(expected, added.shape), atol=1e-6)
    if pool == "cls":
        token = np.broadcast_to(model.cls_token[...][0], (2, 1, 8))
        np.testing.assert_array_equal(layers["block_input"][:, :1], token)


def test_learned_positions_without_a_class_token_are_resized():
    model = make(pos_embed="learned")
    assert model.pos_embed.shape == (1, 64, 8)
    model.pos_embed[...] = jnp.full((1, 64, 8), 3.0)
    layers = output(model, IMAGES[:, :8, :12], "layers")
    np.testing.assert_allclose(layers["block_input"] - layers["patch_embed"], 3, atol=1e-5)


def test_maps_without_class_token_show_received_attention():
    model = make()
    layers = output(model, IMAGES, "layers")
    block = model.blocks[1]
    weights = block.attn.weights(block.norm1(layers["blocks.0"]), queries=64)
    found = output(model, IMAGES, "attention", attention_block=1)
    np.testing.assert_allclose(found.reshape(2, 2, 64), weights.mean(axis=2), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=(2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("pool", "pos_embed"), list(itertools.product(["cls", "mean"], ["learned", "sincos"]))
)
def test_options_determine_the_parameters(pool, pos_embed):
    names = set(get_arrays(make(pool, pos_embed)))
    assert ("cls_token" in names) == (pool == "cls")
    assert ("pos_embed" in names) == (pos_embed == "learned")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "meen"}, 'did you mean "mean"'),
        ({"pos_embed": "sin"}, "choose one of learned, sincos"),
        ({"width": 6, "heads": 2}, "but 6 is not a multiple of 4"),
    ],
)
def test_mistakes_get_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        make(**options)
