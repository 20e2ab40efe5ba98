"""DINO's weighted kNN classifier on features (facebookresearch/dino, eval_knn.py)."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from smallvit_jax.process.terminal import progress


def knn_accuracy(
    bank: Float[np.ndarray, "bank width"],
    bank_labels: Int[np.ndarray, " bank"],
    queries: Float[np.ndarray, "count width"],
    labels: Int[np.ndarray, " count"],
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 500,
) -> float:
    """Top-1 accuracy in percent for one k and one temperature; see `knn_sweep`."""
    (row,) = knn_sweep(
        *(bank, bank_labels, queries, labels),
        num_classes=num_classes,
        neighbors=(k,),
        temperatures=(temperature,),
        chunk=chunk,
    )
    return row["top1"]


def knn_sweep(
    bank: Float[np.ndarray, "bank width"],
    bank_labels: Int[np.ndarray, " bank"],
    queries: Float[np.ndarray, "count width"],
    labels: Int[np.ndarray, " count"],
    *,
    num_classes: int,
    neighbors: Sequence[int],
    temperatures: Sequence[float],
    chunk: int = 500,
) -> list[dict[str, Any]]:
    """Top-1 accuracy in percent for each number of neighbors and each temperature.

    Features are L2-normalized; each of the most similar bank images votes for its class with weight
    exp(similarity / temperature). Similarities are computed once for all settings. If the bank has
    fewer images than neighbors are asked for, all of them vote.
    """
    bank, queries = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (bank, queries)
    )
    settings = [(k, t) for k in neighbors for t in temperatures]
    limited = tuple((min(k, len(bank)), t) for k, t in settings)
    vote = functools.partial(
        _vote, jnp.asarray(bank), jnp.asarray(bank_labels), num_classes, limited
    )
    padding = -len(queries) % chunk
    padded = np.pad(queries, ((0, padding), (0, 0)))
    votes = []
    with progress("nearest neighbors", len(labels)) as advance:
        for start in range(0, len(padded), chunk):
            votes.append(jax.device_get(vote(padded[start : start + chunk])))
            advance(chunk)
    predicted = np.concatenate(votes, axis=1)[:, : len(labels)]
    accuracies = (predicted == labels).mean(axis=1) * 100
    return [
        {"neighbors": k, "temperature": t, "top1": float(accuracy)}
        for (k, t), accuracy in zip(settings, accuracies, strict=True)
    ]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _vote(
    bank: Float[Array, "bank width"],
    bank_labels: Int[Array, " bank"],
    num_classes: int,
    settings: tuple[tuple[int, float], ...],
    queries: Float[Array, "chunk width"],
) -> Int[Array, "settings chunk"]:
    most = max(k for k, _ in settings)
    nearest = jax.lax.top_k(jnp.matmul(queries, bank.T, precision="highest"), most)
    # Without the barrier, XLA merges top_k with the slices below and, on CPUs, sorts every row.
    similarity, index = jax.lax.optimization_barrier(nearest)
    classes = jax.nn.one_hot(bank_labels[index], num_classes)

    def predicted(k: int, temperature: float):
        # Relative to the nearest neighbor: same result, and no overflow at low temperatures.
        weight = jnp.exp((similarity[:, :k] - similarity[:, :1]) / temperature)
        return jnp.einsum("qk,qkc->qc", weight, classes[:, :k]).argmax(axis=-1)

    return jnp.stack([predicted(k, temperature) for k, temperature in settings])
