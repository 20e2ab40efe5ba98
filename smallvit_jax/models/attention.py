"""Softmax and scaled dot-product attention with custom backward passes.

Includes locality self-attention (Lee et al., "Vision Transformer for Small-Size Datasets", 2021,
section 3.3): a learned temperature, and a mask that keeps tokens from attending to themselves.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.models.block_loop import save_for_backward

Heads = Float[Array, "batch tokens heads width"]

# Logit that masks a token's attention to itself; finite, so that a lone token still sees itself.
ITSELF = -1e9


@jax.custom_vjp
def softmax(logits: Float[Array, "*rows columns"]) -> Float[Array, "*rows columns"]:
    """Softmax over the last axis; the backward pass keeps only the result."""
    return jax.nn.softmax(logits, axis=-1)


def _softmax_forward(logits):
    weights = save_for_backward(jax.nn.softmax(logits, axis=-1))
    return weights, weights


def _softmax_backward(weights, gradient):
    product = weights * gradient
    return (product - weights * product.sum(axis=-1, keepdims=True),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(q: Heads, k: Heads, v: Heads, mask_self: bool = False) -> Heads:
    """Softmax(q kᵀ / √width) v per head; scores and softmax in float32.

    `q` may hold only the first tokens of `k` and `v`. With `mask_self`, no token attends to itself.
    The backward pass is the textbook one. It is written out so that the weights are the only
    [tokens, tokens] array kept, and because XLA's CPU backend is several times slower with the
    order of products that autodiff gives for the keys.
    """
    return _forward(q, k, v, mask_self)[0]


def attention_weights(
    q: Heads, k: Heads, mask_self: bool = False
) -> Float[Array, "batch heads queries keys"]:
    """The attention weights of `attend`, float32."""
    scores = attention_scores(q * q.shape[-1] ** -0.5, k)
    return jax.nn.softmax(fill_diagonal(scores, ITSELF) if mask_self else scores, axis=-1)


def fill_diagonal(
    scores: Float[Array, "*batch queries keys"], value: float
) -> Float[Array, "*batch queries keys"]:
    """Sets each token's score for itself to `value`; the queries are the first tokens."""
    queries, keys = scores.shape[-2:]
    return jnp.where(jnp.eye(queries, keys, dtype=bool), value, scores)


def learned_temperature(width: int, heads: int) -> nnx.Param:
    """A learned factor for each head's scores, initialized to 1/√(width / heads)."""
    return nnx.Param(jnp.full(heads, (width // heads) ** -0.5))


def at_temperature(
    q: Float[Array, "*batch heads width"], temperature: nnx.Param | None
) -> Float[Array, "*batch heads width"]:
    """Scales queries by temperature · √width, because attention divides the scores by √width.

    None leaves them unchanged.
    """
    if temperature is None:
        return q
    factor = temperature[...] * q.shape[-1] ** 0.5
    return (q * factor[:, None]).astype(q.dtype)


def _forward(q, k, v, mask_self):
    weights = save_for_backward(attention_weights(q, k, mask_self).astype(v.dtype))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v), (q, k, v, weights)


def _backward(mask_self, kept, gradient):
    del mask_self  # masked weights are 0, and so are the gradients of their scores
    q, k, v, weights = kept
    products = weights * attention_scores(gradient, v)
    score_gradient = products - weights * products.sum(axis=-1, keepdims=True)
    score_gradient = (score_gradient * q.shape[-1] ** -0.5).astype(q.dtype)
    return (
        jnp.einsum("bhqk,bkhd->bqhd", score_gradient, k),
        _sum_over_queries(q, score_gradient),
        _sum_over_queries(gradient, weights),
    )


attend.defvjp(_forward, _backward)


def attention_scores(q: Heads, k: Heads) -> Float[Array, "batch heads queries keys"]:
    """q kᵀ per head, float32."""
    return jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)


def _sum_over_queries(q, weights) -> Heads:
    """Weighted sum of the queries for each key."""
    return jnp.einsum("bqhd,bhqk->bhdk", q, weights).transpose(0, 3, 1, 2)
