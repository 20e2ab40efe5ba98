"""Applies identical blocks, in one compiled loop or, a few of them on a GPU, unrolled.

A loop compiles one block instead of a dozen. It also trains faster on CPU: without it, XLA fuses
the sum of all residual branches' gradients into each of its consumers, again and again. But what a
loop keeps for the backward pass, it copies into arrays of all blocks and back, which on a GPU was a
quarter of a step's memory traffic.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from smallvit_jax.process.platform import fused_attention, platform

_KEPT = "kept"
# Most blocks that are unrolled on a GPU; more take minutes to compile, and XLA's compiler (jax
# 0.10.2) fails on CaiT's 24 in pre-training.
MOST_UNROLLED = 12


def save_for_backward(x: jax.Array) -> jax.Array:
    """Marks a value that its block keeps for the backward pass; the rest is recomputed.

    Unmarked values (norms, GELU) are cheaper to recompute than to store in memory and read back.
    """
    return checkpoint_name(x, _KEPT)


def apply_blocks(
    blocks: Sequence[Any],
    x: Float[Array, "batch tokens width"],
    drops: Sequence[jax.Array | None],
    remat: bool = False,
) -> Float[Array, "batch tokens width"]:
    """Applies blocks that differ only in weights and drop path rates.

    `drops` has the random numbers of each block's drop path (see `layers.draw_drops`). With
    `remat`, a block keeps only its input for the backward pass, and blocks are always looped:
    unrolled, XLA computes them again without needing less memory.
    """
    if not len(blocks):
        return x
    graph = nnx.graphdef(blocks[0])
    body = _loop_body(graph, remat, platform(), fused_attention())
    if platform() == "gpu" and not remat and len(blocks) <= MOST_UNROLLED:
        for block, drawn in zip(blocks, drops, strict=True):
            x, _ = body(x, (nnx.to_pure_dict(nnx.state(block)), block.drop_path_rate, drawn))
        return x
    weights = jax.tree.map(
        lambda *w: jnp.stack(w), *(nnx.to_pure_dict(nnx.state(block)) for block in blocks)
    )
    rates = jnp.asarray([block.drop_path_rate for block in blocks])
    drawn = None if drops[0] is None else jnp.stack([d for d in drops if d is not None])
    return jax.lax.scan(body, x, (weights, rates, drawn))[0]


@functools.cache  # returns the same function object; otherwise every call outside jit would compile
def _loop_body(graph: nnx.GraphDef, remat: bool, *traced_for: str | bool):
    del traced_for  # what the blocks' code depends on: another program needs another function

    def body(x, parts):
        weights, rate, drawn = parts
        block = nnx.merge(graph, weights)
        block.drop_path_rate = rate
        return block(x, drawn), None

    policy = None if remat else jax.checkpoint_policies.save_only_these_names(_KEPT)
    return jax.checkpoint(body, policy=policy, prevent_cse=False)
