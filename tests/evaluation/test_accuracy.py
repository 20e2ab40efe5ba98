"""Accuracies against plain implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from smallvit_jax.evaluation.accuracy import (
    classification_figures,
    cross_entropy,
    knn_accuracy,
    top_k_accuracy,
)


def some_logits(seed: int, count: int, classes: int):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, classes)) * 3, rng.integers(0, classes, count)


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 40),
    classes=st.integers(2, 12),
    k=st.integers(1, 12),
)
@settings(deadline=None)
def test_top_k_and_loss_equal_scikit_learns(seed, count, classes, k):
    logits, labels = some_logits(seed, count, classes)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected_loss = log_loss(labels, probabilities, labels=np.arange(classes))
    assert cross_entropy(logits, labels) == pytest.approx(expected_loss)
    in_order = np.argsort(-logits, axis=1)[:, :k]
    expected = np.mean([label in row for label, row in zip(labels, in_order, strict=True)]) * 100
    assert top_k_accuracy(logits, labels, k) == pytest.approx(expected)
    if classes > 2 and k < classes:
        score = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(classes))
        assert expected == pytest.approx(score * 100)


def test_figures_of_a_case_worked_out_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]]))
    figures = classification_figures(logits, np.array([0, 2, 2]))
    assert figures["top1"] == pytest.approx(200 / 3)
    assert figures["top5"] == 100  # there are only three classes
    assert figures["loss"] == pytest.approx(-np.log(0.5 * 0.8 * 0.3) / 3)


def test_loss_of_huge_logits_is_finite():
    assert cross_entropy(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(1e4)


def plain_knn(bank, bank_labels, queries, labels, classes, k, temperature):
    """DINO's vote in a loop, in float64."""
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    right = 0
    for query, label in zip(queries, labels, strict=True):
        similarity = bank @ query
        votes = np.zeros(classes)
        for i in np.argsort(-similarity)[:k]:
            votes[bank_labels[i]] += np.exp(similarity[i] / temperature)
        right += votes.argmax() == label
    return right / len(labels) * 100


def some_features(seed: int, bank: int, queries: int, classes: int, width: int = 6):
    """Noisy clusters, so that neighbours tell something but not all."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, width))
    both = [rng.integers(0, classes, n) for n in (bank, queries)]
    points = [(centers[y] + rng.normal(size=(len(y), width))).astype(np.float32) for y in both]
    return points[0], both[0], points[1], both[1]


@pytest.mark.parametrize(
    ("bank", "queries", "k", "chunk"),
    [(60, 37, 5, 10), (60, 40, 20, 40), (7, 12, 20, 500), (50, 1, 1, 500)],
    ids=["uneven chunks", "one chunk", "fewer than k in the bank", "one query"],
)
def test_knn_equals_a_plain_loop(bank, queries, k, chunk):
    arrays = some_features(bank, bank, queries, 4)
    accuracy = knn_accuracy(*arrays, num_classes=4, k=k, temperature=0.07, chunk=chunk)
    assert accuracy == pytest.approx(plain_knn(*arrays, 4, k, 0.07))


def test_knn_equals_scikit_learns_on_well_spread_features():
    bank, bank_labels, queries, labels = some_features(3, 200, 100, 5)
    classifier = KNeighborsClassifier(
        15, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)
    )
    expected = classifier.fit(bank, bank_labels).score(queries, labels) * 100
    accuracy = knn_accuracy(
        bank, bank_labels, queries, labels, num_classes=5, k=15, temperature=0.1
    )
    assert 30 < expected < 95
    assert accuracy == pytest.approx(expected)


def test_knn_ignores_the_length_of_features_and_finds_the_image_itself():
    bank, bank_labels, _, _ = some_features(1, 30, 1, 10)
    scaled = bank * np.random.default_rng(0).uniform(0.1, 10, (30, 1)).astype(np.float32)
    assert knn_accuracy(bank, bank_labels, scaled, bank_labels, num_classes=10, k=1) == 100
