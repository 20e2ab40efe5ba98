"""Gradient accumulation: a batch in parts, so that memory holds one part's activations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def mean_over_parts(
    function: Callable[[Any, jax.Array | None], tuple[Any, Any]],
    parts: int,
    batch: Any,
    key: jax.Array | None,
) -> tuple[Any, Any]:
    """Applies `function` to equal parts of a batch and averages the results.

    One part is the same as `function(batch, key)`.

    Args:
      function: (part of the batch, key) → (means over the part, anything else).
      parts: number of parts; must divide the batch size.
      batch: a pytree of arrays whose leading axis is the batch.
      key: PRNG key or None. Each part gets its own key, so draws differ from an unsplit batch.

    Returns the means over the whole batch, exact up to rounding, and the last part's other value.
    """
    if parts == 1:
        return function(batch, key)
    # Part i takes rows i, i + parts, ...: equally many from each device, and no row moves.
    split = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch
    )
    keys = None if key is None else jax.random.split(key, parts)
    first = jax.tree.map(lambda x: x[0], (split, keys))
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *first))

    def add(carry, part_and_key):
        means, other = function(*part_and_key)
        return (jax.tree.map(jnp.add, carry[0], means), other), None

    (sums, other), _ = jax.lax.scan(add, blank, (split, keys))
    return jax.tree.map(lambda total: total / parts, sums), other
