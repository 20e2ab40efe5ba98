"""CaiT's two kinds of attention: talking heads among the patches, and class attention."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.models.attention import (
    ITSELF,
    Heads,
    at_temperature,
    attend,
    attention_scores,
    attention_weights,
    fill_diagonal,
    learned_temperature,
    softmax,
)
from smallvit_jax.models.block_loop import save_for_backward
from smallvit_jax.models.initializers import Scheme
from smallvit_jax.models.layers import Linear, Tokens


class TalkingHeads(nnx.Module):
    """Self-attention whose heads are mixed linearly before and after the softmax.

    Shazeer et al., "Talking-Heads Attention", 2020. With `lsa`, each head learns its
    temperature, and `lsa_mask` selects how a token's attention to itself is masked (see `CaiT`).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        lsa: bool,
        lsa_mask: str,
        scheme: Scheme,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        self.diagonal = lsa_mask if lsa else None
        self.temperature = learned_temperature(width, heads) if lsa else None
        linear = {"kernel_init": scheme.kernel, "dtype": dtype, "rngs": rngs}
        self.qkv = Linear(width, 3 * width, **linear)
        self.proj = Linear(width, width, **linear)
        self.proj_l = nnx.Linear(heads, heads, **linear)
        self.proj_w = nnx.Linear(heads, heads, **linear)

    def __call__(self, x: Tokens) -> Tokens:
        q, k, v = jnp.split(save_for_backward(self.qkv(x)), 3, axis=-1)
        q, k, v = (t.reshape(*t.shape[:2], self.heads, -1) for t in (q, k, v))
        q = at_temperature(q, self.temperature)
        logits = attention_scores(q * q.shape[-1] ** -0.5, k)  # float32; the mixed scores are too
        if self.diagonal == "released":
            logits = fill_diagonal(logits, -1e-9)
        logits = _mix_heads(self.proj_l, logits)
        if self.diagonal == "masked":
            logits = fill_diagonal(logits, ITSELF)
        weights = softmax(logits).astype(v.dtype)
        weights = _mix_heads(self.proj_w, weights)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return self.proj(save_for_backward(mixed.reshape(*x.shape[:2], -1)))


def _mix_heads(
    linear: nnx.Linear, x: Float[Array, "batch heads queries keys"]
) -> Float[Array, "batch heads queries keys"]:
    """Applies a linear layer along the head axis."""
    assert linear.bias is not None  # nothing above turns it off
    kernel, bias = linear.kernel[...].astype(x.dtype), linear.bias[...].astype(x.dtype)
    return jnp.einsum("bhqk,hg->bgqk", x, kernel) + bias[:, None, None]


class ClassAttention(nnx.Module):
    """Multi-head attention from the first token to all tokens.

    With `lsa` it learns the temperature, but the first token is not masked.
    """

    def __init__(self, width: int, heads: int, *, lsa: bool, scheme: Scheme, dtype, rngs: nnx.Rngs):
        self.heads = heads
        self.temperature = learned_temperature(width, heads) if lsa else None
        linear = {"kernel_init": scheme.kernel, "dtype": dtype, "rngs": rngs}
        self.q = Linear(width, width, **linear)
        self.k = Linear(width, width, **linear)
        self.v = Linear(width, width, **linear)
        self.proj = Linear(width, width, **linear)

    def __call__(self, x: Tokens) -> Float[Array, "batch 1 width"]:
        mixed = attend(*self._heads_of(x))
        return self.proj(mixed.reshape(x.shape[0], 1, -1))

    def weights(self, x: Tokens) -> Float[Array, "batch heads 1 tokens"]:
        """Attention weights from the first token to all tokens, float32."""
        q, k, _ = self._heads_of(x)
        return attention_weights(q, k)

    def _heads_of(self, x: Tokens) -> tuple[Heads, Heads, Heads]:
        """The first token's query and all keys and values, split into heads."""
        q, k, v = (self.q(x[:, :1]), self.k(x), self.v(x))
        q, k, v = (t.reshape(*t.shape[:2], self.heads, -1) for t in (q, k, v))
        return at_temperature(q, self.temperature), k, v
