"""Self-attention within the windows of a grid."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from smallvit_jax.models.attention import ITSELF, at_temperature, learned_temperature
from smallvit_jax.models.initializers import Scheme
from smallvit_jax.models.layers import Linear, product

Grid = Float[Array, "batch rows columns width"]

MASKED = -100.0  # added to logits between different regions (models/swin.py)


class WindowAttention(nnx.Module):
    """Multi-head self-attention within windows, with a learned bias per relative position.

    `shift` moves the windows down and right by this many tokens. With `lsa`, each head learns its
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
        # Added to logits, so it starts small in every scheme.
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
        """Attention that each token receives, averaged over all queries (with padding); float32."""
        weights, _ = self._weights_and_values(x)
        received = weights.sum(axis=3).transpose(0, 1, 3, 2)  # [batch, windows, tokens, heads]
        received = received / (received.shape[1] * received.shape[2])
        return self._to_grid(received, *x.shape[1:3]).transpose(0, 3, 1, 2)

    def _weights_and_values(self, x: Grid):
        """Attention weights [batch, windows, heads, queries, keys], float32, and values
        [batch, windows, tokens, heads, width]."""
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
        """Puts window tokens back into their grid positions, without the padding."""
        padded_rows, padded_columns = rows + -rows % self.window, columns + -columns % self.window
        x = from_windows(x, self.window, padded_rows, padded_columns)
        if self.shift:
            x = jnp.roll(x, (self.shift, self.shift), axis=(1, 2))
        return x[:, :rows, :columns]

    def _project(self, x: Grid) -> Float[Array, "batch padded_rows padded_columns qkv"]:
        """Queries, keys and values of the tokens and of the zeros that pad the windows.

        For padding they equal the bias, so only the tokens go through the matrix product.
        """
        assert self.qkv.bias is not None  # nothing above turns it off
        x, kernel, bias = (
            jnp.asarray(a, self.qkv.dtype) for a in (x, self.qkv.kernel[...], self.qkv.bias[...])
        )
        missing = (-x.shape[1] % self.window, -x.shape[2] % self.window)
        return (
            jnp.pad(product(x, kernel), ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0))) + bias
        )

    def _bias(self, rows: int, columns: int) -> Float[Array, "_ heads tokens tokens"]:
        """The term added to the logits: the learned bias and the mask of each window."""
        bias = self.relative_position_bias_table[...][relative_position_index(self.window)]
        mask = window_mask(rows, columns, self.window, self.shift, self.mask_padding, self.lsa)
        return bias.transpose(2, 0, 1) + (np.zeros((1, 1, 1)) if mask is None else mask)[:, None]


def relative_position_index(window: int) -> Int[np.ndarray, "tokens tokens"]:
    """Row of the bias table for each pair (query, key) of tokens in a window.

    The table holds offsets query - key in (rows, columns), starting at 1 - window, row by row.
    """
    row, column = np.divmod(np.arange(window**2), window)
    rows = row[:, None] - row + window - 1
    columns = column[:, None] - column + window - 1
    return rows * (2 * window - 1) + columns


def window_mask(
    rows: int, columns: int, window: int, shift: int, mask_padding: bool, mask_self: bool
) -> Float[np.ndarray, "windows tokens tokens"] | None:
    """Mask to add to the logits of a padded and shifted grid, or None if nothing is masked.

    A shifted grid wraps around, so windows at its border hold tokens from both ends, which must not
    attend to each other. With `mask_padding`, no token attends to padding; with `mask_self`, no
    token attends to itself unless it has nothing else to attend to.
    """
    padded_rows, padded_columns = rows + -rows % window, columns + -columns % window
    padded = (padded_rows, padded_columns) != (rows, columns)
    if not shift and not mask_self and not (mask_padding and padded):
        return None
    regions = _regions(padded_rows, window, shift)[:, None] * 3
    regions = regions + _regions(padded_columns, window, shift)
    regions = to_windows(regions[None, :, :, None], window)[0, :, :, 0]
    apart = regions[:, :, None] != regions[:, None, :]
    if mask_padding:
        real = np.zeros((padded_rows, padded_columns), bool)
        real[:rows, :columns] = True
        real = np.roll(real, (-shift, -shift), axis=(0, 1))
        apart = apart | ~to_windows(real[None, :, :, None], window)[0, :, None, :, 0]
    mask = np.where(apart, np.float32(MASKED), np.float32(0))
    if mask_self:
        itself = np.eye(window**2, dtype=bool)
        alone = (apart | itself).all(axis=-1, keepdims=True)
        mask[itself & ~alone] = ITSELF
    return mask


def _regions(size: int, window: int, shift: int) -> Int[np.ndarray, " size"]:
    """Regions of a side rolled by `shift`: 0 up to the last window, 1 and 2 for its two parts."""
    position = np.arange(size)
    return (position >= size - window).astype(int) + (position >= size - shift)


def to_windows(x, window: int):
    """[batch, rows, columns, width] → [batch, windows, window², width]."""
    batch, rows, columns, width = x.shape
    x = x.reshape(batch, rows // window, window, columns // window, window, width)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window**2, width)


def from_windows(x, window: int, rows: int, columns: int):
    """Inverse of `to_windows`."""
    x = x.reshape(x.shape[0], rows // window, columns // window, window, window, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], rows, columns, -1)
