"""A training state with every kind of leaf, and ways to damage its checkpoints."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from smallvit_jax.checkpoints.store import CheckpointStore


class State(NamedTuple):
    step: Any
    weights: dict[str, Any]
    optimizer: Any
    extra: dict[str, Any]


def make_state(step: int = 3, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    weights = {
        f"blocks.{i}.kernel": jnp.asarray(rng.normal(size=(5, 7)), jnp.float32) for i in range(12)
    }
    return State(
        step=jnp.asarray(step, jnp.int32),
        weights=weights,
        optimizer=optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(weights),
        extra={
            "bfloat16": jnp.asarray(rng.normal(size=(3, 2)), jnp.bfloat16),
            "uint32": jnp.asarray([0, 1, 2**32 - 1], jnp.uint32),
            "bool": jnp.asarray([True, False]),
            "nan": jnp.asarray([np.nan, -0.0, np.inf], jnp.float32),
            "empty": jnp.zeros((0, 4)),
            "weak": jnp.asarray(0.25),
            "host": np.arange(3, dtype=np.int64),
            "list": [7, 0.1, True],
        },
    )


def bits(tree: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): (np.asarray(x).dtype, np.shape(x), np.asarray(x).tobytes())
        for path, x in leaves
    }


def params_of(state: State) -> dict[str, Any]:
    return state.weights


def save_steps(folder: Path, steps, **options) -> None:
    with CheckpointStore(folder, keep_best=False, **options) as store:
        for step in steps:
            state = make_state(step, seed=step)
            store.save(step, state, params_of(state), {"model": "vit"})


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_bit(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 16
    file.write_bytes(data)


def flip_stored_array(folder: Path) -> None:
    """Flips a bit in an array's own bytes: compressed chunks come first in a data file."""
    flip_bit(largest_file(folder), 60)
