"""Look-ups and histograms, in the way that is fast on the platform compiled for.

A TPU moves single elements one at a time, but is fast at matrix products and sums. There, a look-up
selects the row of a table by a product with one-hot vectors, and the column by a masked sum. That
is exact for the values here: bfloat16 represents whole numbers up to 256, and in every sum all
terms but one are 0. Other platforms gather and scatter, which takes less arithmetic.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smallvit_jax.process.platform import platform

LEVELS = 256  # pixel values are whole numbers below this
_ROOT = 16  # its square root

_Tables = TypeVar("_Tables")


def pick_pixels(
    planes: Float[Array, "rows channels columns"],
    y: Int[Array, "height width"],
    x: Int[Array, "height width"],
) -> Float[Array, "height channels width"]:
    """Returns the image whose pixels are those at (y, x), which must be inside `planes`.

    The values must be whole numbers 0..255.
    """
    rows, channels, columns = planes.shape
    if platform() != "tpu":
        place = y * (channels * columns) + x
        return planes.reshape(-1)[place[:, None] + columns * jnp.arange(channels)[:, None]]
    row = jax.nn.one_hot(y, rows, dtype=jnp.bfloat16)
    selected = _product("hwr,rci->hcwi", row, planes.astype(jnp.bfloat16))
    is_column = x[:, None, :, None] == jnp.arange(columns)
    return jnp.where(is_column, selected, 0.0).sum(-1)


def pick_neighbors(
    planes: Float[Array, "size 3 size"],
    y: Int[Array, "size size"],
    x: Int[Array, "size size"],
    vertical: Bool[Array, ""],
) -> tuple[Float[Array, "size 3 size"], ...]:
    """Returns the pixels before those at (y, x), the pixels there, the next and the ones after it.

    Next means to the right, or below if `vertical`. The first, third and fourth are right only
    where (y, x) itself increases by one from each pixel to the next. Beyond the edge, pixels are
    copies of the last one.
    """
    size = len(planes)

    def pick(y: Int[Array, "height width"], x: Int[Array, "height width"]) -> Array:
        return pick_pixels(planes, jnp.clip(y, 0, size - 1), jnp.clip(x, 0, size - 1))

    if platform() != "tpu":
        down, right = jnp.where(vertical, 1, 0), jnp.where(vertical, 0, 1)
        return tuple(pick(y + i * down, x + i * right) for i in (-1, 0, 1, 2))
    # One product instead of four: of an image with one more pixel before and two after it.
    index = jnp.arange(-1, size + 2)
    added = index - jnp.clip(index, 0, size - 1)
    y = jnp.pad(y, (1, 2), mode="edge") + jnp.where(vertical, added[:, None], 0)
    x = jnp.pad(x, (1, 2), mode="edge") + jnp.where(vertical, 0, added)
    picked, here = pick(y, x), slice(1, 1 + size)
    windows = [slice(start, start + size) for start in range(4)]
    return tuple(jnp.where(vertical, picked[w, :, here], picked[here, :, w]) for w in windows)


def map_levels(
    values: Int[Array, "height channels width"], table: Float[Array, "channels 256"]
) -> Float[Array, "height channels width"]:
    """Replaces each value 0..255 by the table's entry for it, also a whole number 0..255."""
    if platform() != "tpu":
        start = LEVELS * jnp.arange(len(table))[:, None]
        return table.reshape(-1)[values + start]
    # As an image of 16 by 16 pixels, the table has value v in row v // 16, column v % 16.
    image = table.reshape(-1, _ROOT, 1, _ROOT)
    pick = jax.vmap(pick_pixels, in_axes=(0, 1, 1), out_axes=2)
    return pick(image, values // _ROOT, values % _ROOT)[:, 0]


def count_levels(values: Int[Array, "height channels width"]) -> Int[Array, "channels 256"]:
    """Returns how often each value 0..255 occurs in each channel."""
    channels = values.shape[1]
    if platform() != "tpu":
        start = LEVELS * jnp.arange(channels)[:, None]
        # Integer sums do not depend on the order of addition, which varies on a GPU.
        counts = jnp.zeros(channels * LEVELS, jnp.int32).at[values + start].add(1)
        return counts.reshape(channels, LEVELS)
    high = jax.nn.one_hot(values // _ROOT, _ROOT, dtype=jnp.bfloat16)
    low = jax.nn.one_hot(values % _ROOT, _ROOT, dtype=jnp.bfloat16)
    counts = _product("hcwi,hcwj->cij", high, low)
    return counts.reshape(channels, LEVELS).astype(jnp.int32)


def choose_row(tables: _Tables, row: Int[Array, ""] | int) -> _Tables:
    """Returns one row of each table of a tree; tables of one dimension have rows of one number."""

    def choose(table: Array) -> Array:
        table = jnp.asarray(table)
        if platform() != "tpu":
            return table[row]
        chosen = jnp.expand_dims(jnp.arange(len(table)) == row, range(1, table.ndim))
        return jnp.where(chosen, table, jnp.zeros_like(table)).sum(0, dtype=table.dtype)

    return jax.tree.map(choose, tables)


def _product(formula: str, one_hot: Array, values: Array) -> Array:
    return jnp.einsum(formula, one_hot, values, preferred_element_type=jnp.float32)
