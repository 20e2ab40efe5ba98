"""Accuracies against scikit-learn and a worked example."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import log_loss, recall_score, top_k_accuracy_score

from smallvit_jax.evaluation.accuracy import (
    classification_figures,
    confusion_matrix,
    per_class_accuracy,
)


def some_logits(seed: int, count: int, classes: int):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, classes)) * 3, rng.integers(0, classes, count)


@given(
    seed=st.integers(0, 1000),
    count=st.sampled_from([1, 8, 40]),  # each shape compiles a program
    classes=st.sampled_from([2, 3, 10]),
)
@settings(deadline=None, max_examples=30)
def test_accuracies_and_loss_match_scikit_learn(seed, count, classes):
    logits, labels = some_logits(seed, count, classes)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected_loss = log_loss(labels, probabilities, labels=np.arange(classes))
    figures = classification_figures(logits, labels)
    assert figures["loss"] == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
    for k in (1, 5):
        in_order = np.argsort(-logits, axis=1)[:, :k]
        right = [label in row for label, row in zip(labels, in_order, strict=True)]
        assert figures[f"top{k}"] == pytest.approx(np.mean(right) * 100)
        if classes > 2 and k < classes:
            score = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(classes))
            assert figures[f"top{k}"] == pytest.approx(score * 100)


def test_metrics_match_a_worked_example():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]]))
    figures = classification_figures(logits, np.array([0, 2, 2]))
    assert figures["top1"] == pytest.approx(200 / 3)
    assert figures["top5"] == 100  # there are only three classes
    assert figures["loss"] == pytest.approx(-np.log(0.5 * 0.8 * 0.3) / 3)


def test_loss_of_huge_logits_is_finite():
    figures = classification_figures(np.array([[1e4, 0.0]]), np.array([1]))
    assert figures["loss"] == pytest.approx(1e4)


@given(seed=st.integers(0, 1000), count=st.integers(1, 60), classes=st.integers(2, 6))
@settings(deadline=None)
def test_confusion_and_per_class_accuracy_match_scikit_learn(seed, count, classes):
    logits, labels = some_logits(seed, count, classes)
    predicted, every = logits.argmax(axis=1), np.arange(classes)
    confusion = confusion_matrix(logits, labels)
    assert np.array_equal(confusion, sklearn_confusion_matrix(labels, predicted, labels=every))
    rows = per_class_accuracy(confusion, [f"c{i}" for i in every])
    recall = recall_score(labels, predicted, labels=every, average=None, zero_division=np.nan)
    for row, expected, i in zip(rows, recall, every, strict=True):
        assert (row["name"], row["images"]) == (f"c{i}", np.sum(labels == i))
        if row["images"]:
            assert row["top1"] == pytest.approx(expected * 100)
        else:
            assert row["top1"] is None
