"""Impulse initialization: queries and keys whose attention shifts the image by a patch or so.

Zheng et al., "Structured Initialization for Attention in Vision Transformers" (arXiv:2404.01139),
following the authors' published code; docs/structured_init.md lists what the paper leaves open or
describes differently.
"""

import contextlib
import functools
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from smallvit_jax.models.positions import sincos_positions

STEPS = 2000  # instead of the published 10,000; the maps are as good
CACHE = Path("~/.cache/smallvit_jax/impulse")  # stores every solution, 0.3 MB at width 192

_FORMAT = 1  # increase it when the procedure changes
_LEARNING_RATE = 1e-4
_RESCALE_EVERY = 100  # steps
_EPSILON = 1e-5  # of the LayerNorm over positions

Queries = Float[Array, "heads width head_width"]
Keys = Float[Array, "heads head_width width"]


class Solution(NamedTuple):
    """Head i's logits between normalized positions Z are Z `queries`[i] `keys`[i] Zᵀ / √head_width.

    `offsets` are the rows and columns from a patch to the one that each head should attend to.
    """

    queries: Float[np.ndarray, "heads width head_width"]
    keys: Float[np.ndarray, "heads head_width width"]
    offsets: Int[np.ndarray, "heads 2"]


def solve(
    width: int, heads: int, grid: int, filter_size: int, *, seed: int = 0, steps: int = STEPS
) -> Solution:
    """Fits queries and keys so that each head attends to a randomly drawn neighbor of each patch.

    Neighbors are drawn with replacement from a filter of `filter_size` (odd) patches per side;
    `grid` is the number of patches per side of the image. The result depends on the arguments and,
    through rounding, on the device. It is cached in the process and in the folder `CACHE`; damaged
    files are recreated, and an unwritable folder is ignored.
    """
    return _solve_once(width, heads, grid, filter_size, seed, steps)


def positions_seen(grid: int, width: int) -> Float[np.ndarray, "tokens width"]:
    """The fixed positions after a block's first norm, the input of the fit; float32."""
    positions = sincos_positions(grid, grid, width).astype(np.float64)
    centered = positions - positions.mean(axis=1, keepdims=True)
    spread = np.sqrt(positions.var(axis=1, keepdims=True) + _EPSILON)
    return (centered / spread).astype(np.float32)


def targets(grid: int, offset: tuple[int, int]) -> Float[np.ndarray, "tokens tokens"]:
    """The target attention: 1 at each patch's neighbor, 0 elsewhere.

    A patch whose neighbor lies beyond the edge has a row of zeros, which no attention can match.
    """
    y, x = np.divmod(np.arange(grid * grid), grid)
    row, column = y + offset[0], x + offset[1]
    inside = (row >= 0) & (row < grid) & (column >= 0) & (column < grid)
    wanted = np.zeros((grid * grid, grid * grid), np.float32)
    wanted[np.flatnonzero(inside), (row * grid + column)[inside]] = 1
    return wanted


def attention(
    queries: Queries, keys: Keys, positions: Float[Array, "tokens width"]
) -> Float[Array, "heads tokens tokens"]:
    """Softmax over the logits defined in `Solution`."""
    q = jnp.einsum("td,hde->hte", positions, queries) * queries.shape[-1] ** -0.5
    k = jnp.einsum("td,hed->hte", positions, keys)
    return jax.nn.softmax(jnp.einsum("hqe,hke->hqk", q, k), axis=-1)


def rescale(queries: Queries, keys: Keys, norm: Float[Array, ""]) -> tuple[Queries, Keys]:
    """Rescales vectors of both factors to norm `norm`, along the axes of the published code.

    For the queries, these are the columns, over the width; for the keys, the vectors over the head
    width, one per input. So the two factors differ in size by √(width / head width).
    """
    queries = norm * queries / jnp.linalg.norm(queries, axis=1, keepdims=True)
    return queries, norm * keys / jnp.linalg.norm(keys, axis=1, keepdims=True)


def optimize(
    key: jax.Array,
    offsets: np.ndarray,
    width: int,
    grid: int,
    steps: int,
    rescale: Callable[[Queries, Keys, Array], tuple[Queries, Keys]] = rescale,
) -> tuple[Queries, Keys]:
    """Fits queries and keys to the heads' `offsets` [heads, 2], starting from random values.

    Adam on the mean squared difference between `attention` and `targets`; before every hundredth
    step, both factors are rescaled to the initial mean norm of the queries' columns.
    """
    wanted = jnp.stack([targets(grid, tuple(offset)) for offset in np.asarray(offsets).tolist()])
    return _descend(key, wanted, jnp.asarray(positions_seen(grid, width)), steps, rescale)


@functools.partial(jax.jit, static_argnames=("steps", "rescale"))
def _descend(key, wanted, positions, steps, rescale):
    heads, width = len(wanted), positions.shape[1]
    shape = (heads, width, width // heads)
    for_queries, for_keys = jax.random.split(key)
    bound = width**-0.5
    queries = jax.random.uniform(for_queries, shape, minval=-bound, maxval=bound)
    keys = jax.random.uniform(for_keys, shape, minval=-bound, maxval=bound).transpose(0, 2, 1)
    norm = jnp.linalg.norm(queries, axis=1).mean()
    adam = optax.adam(_LEARNING_RATE)

    def loss(factors):
        return jnp.mean((attention(*factors, positions) - wanted) ** 2)

    def step(number, carry):
        factors, state = carry
        factors = jax.lax.cond(
            number % _RESCALE_EVERY == 0, lambda f: rescale(*f, norm), lambda f: f, factors
        )
        updates, state = adam.update(jax.grad(loss)(factors), state)
        return optax.apply_updates(factors, updates), state

    start = (queries, keys)
    with jax.default_matmul_precision("highest"):
        return jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))[0]


def draw_offsets(key: jax.Array, heads: int, filter_size: int) -> Int[np.ndarray, "heads 2"]:
    """A random position in the filter for each head, relative to the filter's center."""
    places = np.asarray(jax.random.randint(key, (heads,), 0, filter_size**2))
    return np.stack(np.divmod(places, filter_size), axis=1) - filter_size // 2


@functools.lru_cache(maxsize=8)
def _solve_once(width, heads, grid, filter_size, seed, steps) -> Solution:
    # Processes of one run must agree to the last bit, so the cache is kept per kind of device.
    device = jax.devices()[0].device_kind.replace(" ", "-").replace("/", "-")
    name = f"w{width}_h{heads}_g{grid}_f{filter_size}_seed{seed}_steps{steps}"
    path = CACHE.expanduser() / f"{name}_{device}_jax{jax.__version__}_{_FORMAT}.npz"
    shape = (heads, width, width // heads)
    if (found := _read(path, shape)) is not None:
        return found
    for_offsets, for_factors = jax.random.split(jax.random.key(seed))
    offsets = draw_offsets(for_offsets, heads, filter_size)
    queries, keys = optimize(for_factors, offsets, width, grid, steps)
    solution = Solution(np.asarray(queries), np.asarray(keys), offsets)
    _write(path, solution)
    return solution


def _read(path: Path, shape: tuple[int, int, int]) -> Solution | None:
    """Reads a solution; returns None if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            solution = Solution(**{name: file[name] for name in Solution._fields})
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return None
    heads, width, head_width = shape
    shapes = [shape, (heads, head_width, width), (heads, 2)]
    return solution if [a.shape for a in solution] == shapes else None


def _write(path: Path, solution: Solution) -> None:
    """Writes a solution if possible; readers see the whole file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **solution._asdict())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
