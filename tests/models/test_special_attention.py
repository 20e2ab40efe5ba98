"""The attention of GPUs (one kernel, interpreted here) and of TPUs, against plain products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax.models import fused_attention, lane_attention
from smallvit_jax.models.attention import attend
from smallvit_jax.models.fused_attention import can_fuse, fused_attend
from smallvit_jax.models.initializers import SCHEMES
from smallvit_jax.models.lane_attention import attend_in_lanes, suits_lanes
from smallvit_jax.models.layers import Attention
from smallvit_jax.process.platform import compiling_for, set_fused_attention

# Crops of 16, 32, 48 and 224 pixels, and a number below the smallest block.
TOKENS = (3, 16, 17, 37, 65, 197)


def plain(qkv, mask_self):
    return attend(*(qkv[:, :, part] for part in range(3)), mask_self)


@pytest.mark.parametrize(
    ("special", "tokens"),
    [(fused_attend, tokens) for tokens in TOKENS]
    + [(attend_in_lanes, tokens) for tokens in TOKENS if tokens <= lane_attention.LARGEST],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mask_self", [False, True])
def test_values_and_gradients_are_those_of_the_plain_products(special, tokens, dtype, mask_self):
    key, other = jax.random.split(jax.random.key(tokens))
    qkv = jax.random.normal(key, (2, tokens, 3, 3, 16), dtype)
    gradient = jax.random.normal(other, (2, tokens, 3, 16), dtype)
    # Two roundings of a bfloat16 between 1 and 2.
    tolerance = 1e-6 if dtype == "float32" else 2**-6
    with jax.default_matmul_precision("highest"):
        for ours, theirs in zip(
            _values_and_gradients(special, qkv, gradient, mask_self),
            _values_and_gradients(plain, qkv, gradient, mask_self),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def _values_and_gradients(function, qkv, gradient, mask_self):
    values, backward = jax.vjp(lambda qkv: function(qkv, mask_self), qkv)
    return (np.asarray(x, np.float32) for x in (values, *backward(gradient)))


@pytest.mark.parametrize("special", [fused_attend, attend_in_lanes])
def test_a_masked_token_alone_still_sees_itself(special):
    qkv = jax.random.normal(jax.random.key(0), (1, 1, 3, 1, 16))
    np.testing.assert_allclose(special(qkv, True), qkv[:, :, 2], rtol=1e-6)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("lsa", [False, True])
def test_the_attention_layer_uses_it(platform, lsa):
    """What the layer traces on each platform, and that its values are those of a CPU."""
    layer = Attention(
        64, 4, lsa=lsa, scheme=SCHEMES["reference"], dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(1), (128, 17, 64))
    expected = np.asarray(layer(x), np.float32)
    name = {"gpu": "fused_attend", "tpu": "attend_in_lanes"}[platform]
    with compiling_for(platform):
        assert name in str(jax.make_jaxpr(lambda x: layer(x))(x))
        only_plain_products_can = jax.make_jaxpr(lambda x: layer(x, queries=1))(x)
        assert name not in str(only_plain_products_can)
    special = {"gpu": fused_attend, "tpu": attend_in_lanes}[platform]
    found = layer.proj(special(layer._all_heads_of(x), lsa).reshape(x.shape))
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=1e-3)


def test_where_it_is_used():
    assert not can_fuse(17, 16, jnp.bfloat16)  # on a CPU
    with compiling_for("gpu"):
        assert can_fuse(17, 16, jnp.bfloat16)
        assert not can_fuse(17, 16, jnp.float32)
        assert not can_fuse(17, 48, jnp.bfloat16)
        assert not can_fuse(fused_attention.LARGEST + 1, 16, jnp.bfloat16)
        assert can_fuse(197, 64, jnp.bfloat16) and not can_fuse(197, 128, jnp.bfloat16)
        set_fused_attention(False)
        try:
            assert not can_fuse(17, 16, jnp.bfloat16)
        finally:
            set_fused_attention(True)
    assert not suits_lanes(128, 17)
    with compiling_for("tpu"):
        assert not can_fuse(17, 16, jnp.bfloat16)
        assert suits_lanes(128, 17)
        assert not suits_lanes(128, 65) and not suits_lanes(8, 17)
