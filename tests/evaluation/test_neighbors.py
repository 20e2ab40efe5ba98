"""Nearest neighbors against plain implementations."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from smallvit_jax.evaluation.neighbors import knn_accuracy, knn_sweep


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
    """Noisy clusters, so that neighbors are informative but not always right."""
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
def test_knn_matches_a_plain_loop(bank, queries, k, chunk):
    arrays = some_features(bank, bank, queries, 4)
    accuracy = knn_accuracy(*arrays, num_classes=4, k=k, temperature=0.07, chunk=chunk)
    assert accuracy == pytest.approx(plain_knn(*arrays, 4, k, 0.07))


def test_knn_matches_scikit_learn_on_spread_features():
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


def test_knn_ignores_feature_norm_and_finds_the_image_itself():
    bank, bank_labels, _, _ = some_features(1, 30, 1, 10)
    scaled = bank * np.random.default_rng(0).uniform(0.1, 10, (30, 1)).astype(np.float32)
    assert knn_accuracy(bank, bank_labels, scaled, bank_labels, num_classes=10, k=1) == 100


def test_sweep_has_every_setting_in_order():
    arrays = some_features(5, 80, 60, 4)
    rows = knn_sweep(*arrays, num_classes=4, neighbors=(1, 30, 500), temperatures=(0.05, 1.0))
    settings = [(row["neighbors"], row["temperature"]) for row in rows]
    assert settings == [(k, t) for k in (1, 30, 500) for t in (0.05, 1.0)]
    for row in rows:
        expected = plain_knn(*arrays, 4, row["neighbors"], row["temperature"])
        assert row["top1"] == pytest.approx(expected)
    assert len({row["top1"] for row in rows}) > 2
