"""Self-attention on a TPU for crops of a few tokens, with the batch in the lanes.

A TPU computes with vectors of 8 x 128 numbers and multiplies matrices of 128 x 128. The scores of
17 tokens fill a hundredth of such a matrix, and their arrays are padded to ten times their size.
Here, the last axis of every array is the batch, so that vectors are full if there are enough crops,
and the products are sums on the vector unit. Their number grows with the square of the tokens, so
it only pays for few.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smallvit_jax.models.attention import ITSELF
from smallvit_jax.models.block_loop import save_for_backward
from smallvit_jax.process.platform import platform

Heads = Float[Array, "batch tokens 3 heads width"]
Lanes = Float[Array, "tokens heads width batch"]

LARGEST = 32  # tokens; for 65, the plain products take a quarter of the cycles
_LANES = 128  # crops; fewer leave lanes empty


def suits_lanes(batch: int, tokens: int) -> bool:
    """Whether `attend_in_lanes` is the faster one for so many crops and tokens here."""
    return platform() == "tpu" and batch >= _LANES and tokens <= LARGEST


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attend_in_lanes(
    qkv: Heads, mask_self: bool = False
) -> Float[Array, "batch tokens heads width"]:
    """`attention.attend` for the queries, keys and values of all tokens.

    Products and softmax are float32; weights are rounded to the input's dtype.
    """
    return _forward(qkv, mask_self)[0]


def _forward(qkv, mask_self):
    q, k, v = _parts(qkv)
    scores = (q[:, None] * k).sum(axis=-2) * q.shape[-2] ** -0.5
    if mask_self:
        itself = np.eye(len(scores), dtype=bool)[..., None, None]
        scores = jnp.where(itself, ITSELF, scores)
    weights = save_for_backward(jax.nn.softmax(scores, axis=1).astype(qkv.dtype))
    mixed = (_with_width(weights) * v).sum(axis=1)
    return jnp.moveaxis(mixed, -1, 0).astype(qkv.dtype), (qkv, weights)


def _backward(mask_self, kept, gradient):
    del mask_self  # masked weights are 0, and so are the gradients of their scores
    qkv, weights = kept
    q, k, v = _parts(qkv)
    of_output = _batch_last(gradient)
    products = weights * (of_output[:, None] * v).sum(axis=-2)
    of_scores = products - weights * products.sum(axis=1, keepdims=True)
    of_scores = _with_width(of_scores * q.shape[-2] ** -0.5)
    gradients = (
        (of_scores * k).sum(axis=1),
        (of_scores * q[:, None]).sum(axis=0),
        (_with_width(weights) * of_output[:, None]).sum(axis=0),
    )
    return (jnp.moveaxis(jnp.stack(gradients, axis=1), -1, 0).astype(qkv.dtype),)


attend_in_lanes.defvjp(_forward, _backward)


def _parts(qkv: Heads) -> tuple[Lanes, Lanes, Lanes]:
    q, k, v = (_batch_last(qkv[:, :, part]) for part in range(3))
    return q, k, v


def _batch_last(x: Float[Array, "batch tokens heads width"]) -> Lanes:
    return jnp.moveaxis(x, 0, -1).astype(jnp.float32)


def _with_width(
    weights: Float[Array, "queries keys heads batch"],
) -> Float[Array, "queries keys heads 1 batch"]:
    return weights[:, :, :, None].astype(jnp.float32)
