import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from smallvit_jax.data.digits import read_digits
from smallvit_jax.evaluation.linear_probe import linear_probe


def pixels(split):
    images, labels, _ = read_digits(split, 8)
    return images[..., 0].reshape(len(images), -1).astype(np.float32), labels


def test_probe_matches_logistic_regression_on_pixels():
    train, test = pixels("train"), pixels("test")
    scaler = StandardScaler().fit(train[0])
    classifier = LogisticRegression(max_iter=1000).fit(scaler.transform(train[0]), train[1])
    expected = classifier.score(scaler.transform(test[0]), test[1]) * 100
    found = linear_probe(*train, *test, num_classes=10)
    assert expected > 90
    assert found["top1"] == pytest.approx(expected, abs=2)
    assert found == linear_probe(*train, *test, num_classes=10)
    chosen = max(found["sweep"], key=lambda row: row["validation_top1"])
    assert (found["top1"], found["learning_rate"]) == (chosen["test_top1"], chosen["learning_rate"])


def test_learning_rate_is_chosen_on_held_out_images():
    """On a test set with wrong labels, the rate that learns least would be the best."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    features = (rng.normal(size=(400, 3)) + 4 * labels[:, None]).astype(np.float32)
    rates = (1e-9, 0.1)
    found = linear_probe(
        *(features[:300], labels[:300], features[300:], 1 - labels[300:]),
        num_classes=2,
        epochs=5,
        learning_rates=rates,
    )
    untrained, trained = found["sweep"]
    assert trained["validation_top1"] > 95 and found["learning_rate"] == 0.1
    assert found["top1"] == trained["test_top1"] < 5 < untrained["test_top1"]


def test_feature_scale_does_not_matter():
    train, test = pixels("train"), pixels("test")
    factors = np.geomspace(1e-3, 1e3, 64).astype(np.float32)
    options = dict(num_classes=10, epochs=3, learning_rates=(0.03,))
    plain = linear_probe(*train, *test, **options)["top1"]
    scaled = linear_probe(train[0] * factors, train[1], test[0] * factors, test[1], **options)
    assert scaled["top1"] == pytest.approx(plain, abs=0.6)
