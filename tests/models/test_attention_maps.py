"""Attention maps show the weights that the model computes with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import smallvit_jax
from smallvit_jax.models.initializers import get_scheme
from smallvit_jax.models.window_attention import WindowAttention
from tests.support.outputs import output

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def make(name, **options):
    """A model whose attention is far from uniform."""
    model = smallvit_jax.create_model(name, image_size=16, init="fan_in", **options)
    state = nnx.state(model)
    return nnx.merge(nnx.graphdef(model), jax.tree.map(lambda x: 3 * x, state))


def split_heads(x, heads):
    return x.reshape(*x.shape[:2], heads, -1)


@pytest.mark.parametrize("block", [0, 1, -1])
def test_vit_maps_are_class_token_weights(block):
    model = make("vit", width=8, depth=3, heads=2)
    layers = output(model, IMAGES, "layers")
    before = layers["block_input"] if block == 0 else layers[f"blocks.{block % 3 - 1}"]
    chosen = model.blocks[block]
    tokens = chosen.norm1(before)
    weights = chosen.attn.weights(tokens, queries=1)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    found = output(model, IMAGES, "attention", attention_block=block)
    np.testing.assert_allclose(found.reshape(2, 2, 64), weights[:, :, 0, 1:], atol=1e-5)
    assert np.ptp(found) > 0.01

    values = split_heads(chosen.attn.qkv(tokens)[..., 16:], 2)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(2, 1, 8)
    expected = chosen.attn(tokens)[:, :1]
    np.testing.assert_allclose(chosen.attn.proj(mixed), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [0, -1])
def test_cait_maps_are_class_token_weights(block):
    model = make("cait", width=8, depth=1, heads=2)
    layers = output(model, IMAGES, "layers")
    patches = layers["blocks.0"]
    cls = model._class_token(patches) if block == 0 else layers["blocks_token_only.0"]
    chosen = model.blocks_token_only[block]
    tokens = chosen.norm1(jnp.concatenate([cls, patches], axis=1))
    weights = chosen.attn.weights(tokens)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    found = output(model, IMAGES, "attention", attention_block=block)
    np.testing.assert_allclose(found.reshape(2, 2, 64), weights[:, :, 0, 1:], atol=1e-5)

    values = split_heads(chosen.attn.v(tokens), 2)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(2, 1, 8)
    expected = chosen.attn(tokens)
    np.testing.assert_allclose(chosen.attn.proj(mixed), expected, rtol=1e-4, atol=1e-4)


def test_map_has_the_layout_of_the_image():
    """Changing one patch changes the attention most at that patch, in every head."""
    model = smallvit_jax.create_model(
        "vit", image_size=16, init="fan_in", width=8, depth=1, heads=2
    )
    images = np.zeros((1, 16, 24, 3), np.float32)  # wider than tall: 8 x 12 patches
    plain = np.asarray(output(model, images, "attention"))
    images[:, 4:6, 20:22] = 5.0  # row 2, column 10
    change = np.abs(np.asarray(output(model, images, "attention")) / plain - 1).reshape(2, 8, 12)
    relative = change / np.median(change, axis=(1, 2), keepdims=True)
    assert plain.shape == (1, 2, 8, 12)
    for head in relative:
        assert np.unravel_index(head.argmax(), head.shape) == (2, 10)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (6, 7)], ids=str)
def test_swin_maps_place_attention_at_the_attended_token(shift, size):
    """Every query prefers one marked key, which receives its window's attention."""
    attention = WindowAttention(
        4, 2, 4, shift, True, scheme=get_scheme("fan_in"), dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    attention.qkv.kernel[...] = jnp.concatenate([jnp.zeros((4, 4)), 30 * jnp.eye(4), jnp.eye(4)], 1)
    attention.qkv.bias[...] = jnp.concatenate([jnp.ones(4), jnp.zeros(8)])  # queries are all ones
    x = np.zeros((1, *size, 4), np.float32)
    plain = np.asarray(attention.received(x))
    x[0, 4, 5] = 1.0
    found = np.asarray(attention.received(x))
    assert found.shape == (1, 2, *size)
    for head, before in zip(found[0], plain[0], strict=True):
        assert np.unravel_index(head.argmax(), head.shape) == (4, 5)
        assert head[4, 5] > 5 * before[4, 5]
    tokens = (size[0] + -size[0] % 4) * (size[1] + -size[1] % 4)
    # Windows of padding alone attend to themselves; otherwise, padding receives nothing.
    total = 1 if shift == 0 or tokens == size[0] * size[1] else found.sum(axis=(2, 3)).max()
    np.testing.assert_allclose(found.sum(axis=(2, 3)), total, atol=1e-3)
    assert total < 1.0001
    assert head[4, 5] <= 16 / tokens + 1e-5  # at most the queries of one window


@pytest.mark.slow
def test_swin_weights_give_the_attention_output():
    model = make("swin", width=4, heads=1, depths=(2, 1, 1))
    block = model.layers[0].blocks[1]
    assert block.attn.shift == 2
    layers = output(model, IMAGES, "layers")
    tokens = block.norm1(layers["layers.0.blocks.0"].reshape(2, 16, 16, 4))
    weights, values = block.attn._weights_and_values(tokens)
    mixed = jnp.einsum("bwhqk,bwkhd->bwqhd", weights, values)
    mixed = block.attn._to_grid(mixed.reshape(*mixed.shape[:3], 4), 16, 16)
    np.testing.assert_allclose(block.attn.proj(mixed), block.attn(tokens), atol=1e-5)
    np.testing.assert_allclose(
        output(model, IMAGES, "attention", attention_block=1),
        block.attn.received(tokens),
        atol=1e-6,
    )
    assert [output(model, IMAGES, "attention", attention_block=i).shape for i in (0, 2, -1)] == [
        (2, 1, 16, 16),
        (2, 2, 8, 8),
        (2, 4, 4, 4),
    ]
    with pytest.raises(IndexError):
        output(model, IMAGES, "attention", attention_block=4)
