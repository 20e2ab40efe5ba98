"""Self-attention on a GPU as one kernel that keeps the scores on the chip.

The plain path (see `attention`) writes the scores of all heads to memory, where for a few tokens
per crop they take most of a training step's traffic. Here, a program computes one head of one crop
from its queries, keys and values to its output; the backward pass computes the scores again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from smallvit_jax.models.attention import ITSELF
from smallvit_jax.process.platform import fused_attention, platform

Heads = Float[Array, "batch tokens 3 heads width"]

LARGEST = 256  # tokens; more keys at once do not fit in the registers of a program
_LARGEST_SUM = 256 * 64  # entries; the backward pass sums two such arrays in registers
_WIDTHS = (16, 32, 64, 128)  # per head; the sides of Triton's blocks are powers of two
_QUERIES = 32  # processed at once
_MASKED = -1e30


def can_fuse(tokens: int, width: int, dtype) -> bool:
    """Whether attention over so many tokens, with so many channels per head, can use the kernel.

    float32 is excluded: its exact products compile for minutes and run slowly.
    """
    fits = tokens <= LARGEST and width in _WIDTHS and _padded(tokens) * width <= _LARGEST_SUM
    return fits and dtype == jnp.bfloat16 and fused_attention()


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def fused_attend(qkv: Heads, mask_self: bool = False) -> Float[Array, "batch tokens heads width"]:
    """`attention.attend` for the queries, keys and values of all tokens, at most `LARGEST`.

    On platforms other than a GPU, the kernel is interpreted, which is slow.
    """
    return _call(_forward_kernel, (qkv,), _output_of(qkv), mask_self)


def _forward(qkv, mask_self):
    return fused_attend(qkv, mask_self), qkv


def _backward(mask_self, qkv, gradient):
    return (_call(_backward_kernel, (qkv, gradient), qkv, mask_self),)


fused_attend.defvjp(_forward, _backward)


def _output_of(qkv) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*qkv.shape[:2], *qkv.shape[3:]), qkv.dtype)


def _call(kernel, arrays, out, mask_self: bool):
    """Runs a program for each head of each crop; each sees only the part of that head."""
    batch, tokens, _, heads, _ = arrays[0].shape
    specs = [_one_head(array) for array in (*arrays, out)]
    return pl.pallas_call(
        functools.partial(kernel, tokens=tokens, mask_self=mask_self),
        grid=(batch * heads,),
        in_specs=specs[:-1],
        out_specs=specs[-1],
        out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
        # Chooses Triton as the compiler; Mosaic GPU has no matrix products this small.
        compiler_params=triton.CompilerParams(num_warps=max(1, _padded(tokens) // 32)),
        interpret=platform() != "gpu",
    )(*arrays)


def _one_head(array) -> pl.BlockSpec:
    """All tokens of one crop and one head; the head is the last axis but one."""
    *between, heads, width = array.shape[1:]
    inner = len(between)

    def place(program):
        return (program // heads, *[0] * inner, program % heads, 0)

    return pl.BlockSpec((None, *between, None, width), place)


def _forward_kernel(qkv, out, *, tokens: int, mask_self: bool):
    k, v = (_load(qkv, 0, _padded(tokens), tokens, part) for part in (1, 2))

    def some_queries(i, _):
        first = i * _QUERIES
        q = _load(qkv, first, _QUERIES, tokens, 0)
        weights = _weights(q, k, first, tokens, mask_self)
        _store(out, _dot(weights.astype(v.dtype), v), first, tokens)
        return _

    jax.lax.fori_loop(0, pl.cdiv(tokens, _QUERIES), some_queries, None)


def _backward_kernel(qkv, gradient, out, *, tokens: int, mask_self: bool):
    k, v = (_load(qkv, 0, _padded(tokens), tokens, part) for part in (1, 2))

    def some_queries(i, sums):
        first = i * _QUERIES
        q = _load(qkv, first, _QUERIES, tokens, 0)
        of_output = _load(gradient, first, _QUERIES, tokens)
        weights = _weights(q, k, first, tokens, mask_self)
        products = weights * _dot(of_output, v.T)
        of_scores = products - weights * products.sum(axis=1, keepdims=True)
        of_scores = (of_scores * q.shape[-1] ** -0.5).astype(q.dtype)
        _store(out, _dot(of_scores, k), first, tokens, 0)
        return (
            sums[0] + _dot(of_scores.T, q),
            sums[1] + _dot(weights.astype(q.dtype).T, of_output),
        )

    zeros = jnp.zeros(k.shape, jnp.float32)
    sums = jax.lax.fori_loop(0, pl.cdiv(tokens, _QUERIES), some_queries, (zeros, zeros))
    for part, gradients in enumerate(sums, 1):
        _store(out, gradients, 0, tokens, part)


def _weights(q, k, first: int, tokens: int, mask_self: bool) -> Float[Array, "queries keys"]:
    """Attention weights of the queries from number `first` on; 0 for keys that are padding."""
    scores = _dot(q * q.shape[-1] ** -0.5, k.T)
    key = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    if mask_self:
        query = first + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
        scores = jnp.where(query == key, ITSELF, scores)
    scores = jnp.where(key < tokens, scores, _MASKED)
    exponentials = jnp.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _padded(tokens: int) -> int:
    """Rows of a block; Triton's have sides that are powers of two, in products at least 16."""
    return max(16, pl.next_power_of_2(tokens))


def _dot(a, b) -> jax.Array:
    """The product, float32, at full precision if the factors are float32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return triton.dot(a, b, precision=precision)


def _load(ref, first: int, rows: int, tokens: int, *part: int) -> Float[Array, "rows width"]:
    """Rows from number `first` on (of queries, keys or values); those past the last token are 0."""
    mask = _inside(ref, first, rows, tokens)
    return triton.load(_rows(ref, first, rows, part), mask=mask, other=0)


def _store(ref, values: Float[Array, "rows width"], first: int, tokens: int, *part: int) -> None:
    mask = _inside(ref, first, len(values), tokens)
    at = _rows(ref, first, len(values), part)
    triton.store(at, values.astype(ref.dtype), mask=mask)


def _rows(ref, first: int, rows: int, part: tuple[int, ...]):
    return ref.at[(pl.ds(jnp.int32(first), rows), *map(jnp.int32, part))]


def _inside(ref, first: int, rows: int, tokens: int):
    number = first + jax.lax.broadcasted_iota(jnp.int32, (rows, ref.shape[-1]), 0)
    return number < tokens
