"""Accuracies from logits, all in percent."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int


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


def confusion_matrix(
    logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, " count"]
) -> Int[np.ndarray, "classes classes"]:
    """How many images of each class (row) are taken for which (column)."""
    classes = logits.shape[1]
    pairs = labels.astype(np.int64) * classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def per_class_accuracy(
    confusion: Int[np.ndarray, "classes classes"], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Name, number of images and top-1 accuracy in percent (None without images) by class."""
    counts = confusion.sum(axis=1)
    return [
        {
            "name": name,
            "images": int(count),
            "top1": float(right / count * 100) if count else None,
        }
        for name, count, right in zip(class_names, counts, np.diag(confusion), strict=True)
    ]
