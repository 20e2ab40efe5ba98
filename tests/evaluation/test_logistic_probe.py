"""The fitted classifier predicts as scikit-learn's regression on standardized features does."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from smallvit_jax.evaluation.logistic_probe import fit_classifier


@pytest.fixture
def clusters():
    """300 points around 3 centers, at very different scales per feature, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    points = rng.normal(size=(3, 5))[labels] * 2 + rng.normal(size=(300, 5))
    return (points * [1, 100, 0.01, 1, 1] + 7).astype(np.float32), labels


def probabilities(classifier, features):
    logits = features @ classifier.kernel + classifier.bias
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_standardization_is_folded_into_the_weights(clusters, classes):
    points, labels = clusters
    chosen = np.flatnonzero(labels < classes)[:40]
    classifier = fit_classifier(points[chosen], labels[chosen], points, classes)
    scaler = StandardScaler().fit(points)
    expected = LogisticRegression(max_iter=1000).fit(
        scaler.transform(points[chosen]), labels[chosen]
    )
    np.testing.assert_allclose(
        probabilities(classifier, points),
        expected.predict_proba(scaler.transform(points)),
        atol=1e-3,
    )


def test_class_without_labels_is_never_predicted(clusters):
    points, labels = clusters
    chosen = np.flatnonzero(labels != 1)[:40]
    predicted = probabilities(fit_classifier(points[chosen], labels[chosen], points, 4), points)
    assert set(predicted.argmax(axis=1)) == {0, 2}
    one = fit_classifier(points[:1], labels[:1], points, 4)
    assert set(probabilities(one, points).argmax(axis=1)) == {labels[0]}
