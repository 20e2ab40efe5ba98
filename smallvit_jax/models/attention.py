"""Softmax and scaled dot-product attention with backward passes of their own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smallvit_jax.models.block_loop import keep

Heads = Float[Array, "batch tokens heads width"]


@jax.custom_vjp
def softmax(logits: Float[Array, "*rows columns"]) -> Float[Array, "*rows columns"]:
    """Softmax over the last axis, of which the backward pass keeps the result alone."""
    return jax.nn.softmax(logits, axis=-1)


def _softmax_forward(logits):
    weights = keep(jax.nn.softmax(logits, axis=-1))
    return weights, weights


def _softmax_backward(weights, gradient):
    product = weights * gradient
    return (product - weights * product.sum(axis=-1, keepdims=True),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@jax.custom_vjp
def attend(q: Heads, k: Heads, v: Heads) -> Heads:
    """Softmax(q kᵀ / √width) v per head; scores and softmax in float32.

    `q` may have fewer tokens than `k` and `v`. The backward pass is the textbook one; written out
    because XLA's CPU backend is several times slower at the order of products that differentiation
    gives for the keys, and so that of all [tokens, tokens] arrays only the weights are kept.
    """
    return _forward(q, k, v)[0]


def attention_weights(q: Heads, k: Heads) -> Float[Array, "batch heads queries keys"]:
    """Softmax(q kᵀ / √width) per head, float32."""
    return jax.nn.softmax(_scores(q * q.shape[-1] ** -0.5, k), axis=-1)


def _forward(q, k, v):
    weights = keep(attention_weights(q, k).astype(v.dtype))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v), (q, k, v, weights)


def _backward(kept, gradient):
    q, k, v, weights = kept
    products = weights * _scores(gradient, v)
    score_gradient = products - weights * products.sum(axis=-1, keepdims=True)
    score_gradient = (score_gradient * q.shape[-1] ** -0.5).astype(q.dtype)
    return (
        jnp.einsum("bhqk,bkhd->bqhd", score_gradient, k),
        _sum_over_queries(q, score_gradient),
        _sum_over_queries(gradient, weights),
    )


attend.defvjp(_forward, _backward)


def _scores(q, k) -> Float[Array, "batch heads queries keys"]:
    return jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)


def _sum_over_queries(q, weights) -> Heads:
    """What each key gets of the queries."""
    return jnp.einsum("bqhd,bhqk->bhdk", q, weights).transpose(0, 3, 1, 2)
