"""Accuracies from logits or features, all in percent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def top_k_accuracy(
    logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, " count"], k: int
) -> float:
    """Share of images whose label is among the k largest logits, in percent.

    With fewer than k classes every label is: 100.
    """
    k = min(k, logits.shape[1])
    best = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean() * 100)


def cross_entropy(
    logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, " count"]
) -> float:
    """Mean negative log-likelihood in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())


def classification_figures(
    logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, " count"]
) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent, and the loss without label smoothing in nats."""
    return {
        "top1": top_k_accuracy(logits, labels, 1),
        "top5": top_k_accuracy(logits, labels, 5),
        "loss": cross_entropy(logits, labels),
    }


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
    """Top-1 accuracy of DINO's weighted nearest-neighbour classifier, in percent.

    Features are L2-normalised; each of the k most similar bank images votes for its class with
    weight exp(similarity / temperature) (facebookresearch/dino, eval_knn.py).
    """
    bank, queries = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (bank, queries)
    )
    k = min(k, len(bank))
    vote = functools.partial(
        _vote, jnp.asarray(bank), jnp.asarray(bank_labels), num_classes, k, temperature
    )
    padding = -len(queries) % chunk
    queries = np.pad(queries, ((0, padding), (0, 0)))
    votes = [vote(queries[i : i + chunk]) for i in range(0, len(queries), chunk)]
    predicted = np.concatenate(jax.device_get(votes))[: len(labels)]
    return float((predicted == labels).mean() * 100)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _vote(
    bank: Float[Array, "bank width"],
    bank_labels: Int[Array, " bank"],
    num_classes: int,
    k: int,
    temperature: float,
    queries: Float[Array, "chunk width"],
) -> Int[Array, " chunk"]:
    similarity, index = jax.lax.top_k(jnp.matmul(queries, bank.T, precision="highest"), k)
    weight = jnp.exp(similarity / temperature)
    votes = jnp.einsum("qk,qkc->qc", weight, jax.nn.one_hot(bank_labels[index], num_classes))
    return votes.argmax(axis=-1)
