"""Self-attention within the windows of a grid."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float

from smallvit_jax.models.attention import at_temperature, learned_temperature
from smallvit_jax.models.initializers import Scheme
from smallvit_jax.models.layers import Linear, product
from smallvit_jax.models.windows import (
    from_windows,
    relative_position_index,
    to_windows,
    window_mask,
)

Grid = Float[Array, "batch rows columns width"]


class WindowAttention(nnx.Module):
    """Multi-head self-attention within windows, with a learned bias per relative position.

    `shift` moves the windows by that many tokens down and right. With `lsa` each head learns its
    temperature, and no token attends to itself.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        shift: int,
        mask_padding: bool,
        *,
        lsa: bool = False,
        scheme: Scheme,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.heads, self.window, self.shift = heads, window, shift
        self.mask_padding, self.lsa = mask_padding, lsa
        self.temperature = learned_temperature(width, heads) if lsa else None
        linear = {"kernel_init": scheme.kernel, "dtype": dtype, "rngs": rngs}
        self.qkv = Linear(width, 3 * width, **linear)
        self.proj = Linear(width, width, **linear)
        # Added to logits, so small in every scheme.
        table_shape = ((2 * window - 1) ** 2, heads)
        self.relative_position_bias_table = nnx.Param(
            initializers.normal(0.02)(rngs.params(), table_shape)
        )

    def __call__(self, x: Grid) -> Grid:
        """Attends within each window of the grid."""
        weights, v = self._weights_and_values(x)
        mixed = jnp.einsum("bwhqk,bwkhd->bwqhd", weights.astype(v.dtype), v)
        mixed = mixed.reshape(*mixed.shape[:3], x.shape[-1])
        return self.proj(self._to_grid(mixed, *x.shape[1:3]))

    def received(self, x: Grid) -> Float[Array, "batch heads rows columns"]:
        """How much attention each token gets, averaged over all tokens that give some; float32."""
        weights, _ = self._weights_and_values(x)
        received = weights.sum(axis=3).transpose(0, 1, 3, 2)  # [batch, windows, tokens, heads]
        received = received / (received.shape[1] * received.shape[2])
        return self._to_grid(received, *x.shape[1:3]).transpose(0, 3, 1, 2)

    def _weights_and_values(self, x: Grid):
        """Attention weights [batch, windows, heads, queries, keys], float32, and values [batch,
        windows, tokens, heads, width]."""
        rows, columns = x.shape[1:3]
        qkv = self._project(x)
        if self.shift:
            qkv = jnp.roll(qkv, (-self.shift, -self.shift), axis=(1, 2))
        qkv = to_windows(qkv, self.window)
        q, k, v = jnp.split(qkv.reshape(*qkv.shape[:3], 3 * self.heads, -1), 3, axis=3)
        q = at_temperature(q, self.temperature)
        logits = jnp.einsum(
            "bwqhd,bwkhd->bwhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32
        )
        logits = logits.astype(jnp.float32) + self._bias(rows, columns)
        return jax.nn.softmax(logits, axis=-1), v

    def _to_grid(
        self, x: Float[Array, "batch windows tokens _"], rows: int, columns: int
    ) -> Float[Array, "batch rows columns _"]:
        """Puts the tokens of the windows back where they were, without the padding."""
        padded_rows, padded_columns = rows + -rows % self.window, columns + -columns % self.window
        x = from_windows(x, self.window, padded_rows, padded_columns)
        if self.shift:
            x = jnp.roll(x, (self.shift, self.shift), axis=(1, 2))
        return x[:, :rows, :columns]

    def _project(self, x: Grid) -> Float[Array, "batch padded_rows padded_columns qkv"]:
        """Queries, keys and values of the tokens and of the zeros that make the windows whole.

        Those of a zero are the bias alone, so only the tokens go through the matrix product.
        """
        x, kernel, bias = (
            jnp.asarray(a, self.qkv.dtype) for a in (x, self.qkv.kernel[...], self.qkv.bias[...])
        )
        missing = (-x.shape[1] % self.window, -x.shape[2] % self.window)
        return (
            jnp.pad(product(x, kernel), ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0))) + bias
        )

    def _bias(self, rows: int, columns: int) -> Float[Array, "_ heads tokens tokens"]:
        """What is added to the logits: the learned bias, and the mask of each window."""
        bias = self.relative_position_bias_table[...][relative_position_index(self.window)]
        mask = window_mask(rows, columns, self.window, self.shift, self.mask_padding, self.lsa)
        return bias.transpose(2, 0, 1) + (np.zeros((1, 1, 1)) if mask is None else mask)[:, None]
