"""Accuracy metrics from logits, in percent."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from jaxtyping import Array, Bool, Float, Int


@flax.struct.dataclass
class Percent(metrics.Average):
    """Percentage of true values, exact for up to 2^24 of them."""

    def compute(self) -> float:
        """The percentage so far, divided in float64."""
        return 100 * float(self.total) / float(self.count)


def _in_top(
    k: int, logits: Float[Array, "count classes"], labels: Int[Array, " count"], **_: Any
) -> Bool[Array, " count"]:
    """Whether the label is among the k largest logits; always true with k classes or fewer."""
    best = jax.lax.top_k(logits, min(k, logits.shape[1]))[1]
    return (best == labels[:, None]).any(axis=1)


def _cross_entropy(
    logits: Float[Array, "count classes"], labels: Int[Array, " count"], **_: Any
) -> Float[Array, " count"]:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@flax.struct.dataclass
class ClassificationMetrics(metrics.Collection):
    """Top-1 and top-5 accuracy in percent, and the mean cross-entropy in nats.

    Takes `logits` [count, classes] and `labels` [count].
    """

    # clu's way to declare a metric; type checkers take no calls in annotations.
    top1: Percent.from_fun(functools.partial(_in_top, 1))  # type: ignore[valid-type]
    top5: Percent.from_fun(functools.partial(_in_top, 5))  # type: ignore[valid-type]
    loss: metrics.Average.from_fun(_cross_entropy)  # type: ignore[valid-type]


def classification_figures(
    logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, " count"]
) -> dict[str, float]:
    """Top-1 and top-5 accuracy in percent, and the loss in nats, without label smoothing."""
    measured = ClassificationMetrics.single_from_model_output(
        logits=jnp.asarray(logits, jnp.float32), labels=jnp.asarray(labels)
    )
    return {name: float(value) for name, value in measured.compute().items()}


def confusion_matrix(
    logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, " count"]
) -> Int[np.ndarray, "classes classes"]:
    """Number of images by true class (row) and predicted class (column)."""
    classes = logits.shape[1]
    pairs = labels.astype(np.int64) * classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def per_class_accuracy(
    confusion: Int[np.ndarray, "classes classes"], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """For each class: name, number of images, top-1 accuracy in percent (None without images)."""
    counts = confusion.sum(axis=1)
    return [
        {
            "name": name,
            "images": int(count),
            "top1": float(right / count * 100) if count else None,
        }
        for name, count, right in zip(class_names, counts, np.diag(confusion), strict=True)
    ]
