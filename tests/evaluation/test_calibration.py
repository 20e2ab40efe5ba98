import numpy as np
import pytest

from smallvit_jax.evaluation.calibration import calibration


def probabilities(*confident):
    """Probabilities of two classes, of which the first has these."""
    return np.array([[p, 1 - p] for p in confident])


def test_calibration_matches_a_worked_example():
    """Predictions of .6, .65 and 1.0 are correct, and one of two of .9."""
    found = calibration(probabilities(0.6, 0.65, 0.9, 0.9, 1.0), np.array([0, 0, 0, 1, 0]), bins=5)
    assert [entry["images"] for entry in found["bins"]] == [1, 1, 3]
    # (.4, .6]: 1 against .6; (.6, .8]: 1 against .65; (.8, 1]: 2/3 against 2.8/3.
    assert [entry["accuracy"] for entry in found["bins"]] == pytest.approx([100, 100, 200 / 3])
    assert [entry["confidence"] for entry in found["bins"]] == pytest.approx([60, 65, 280 / 3])
    assert found["ece"] == pytest.approx((40 + 35 + 3 * 80 / 3) / 5)


def test_calibrated_probabilities_have_no_error():
    rng = np.random.default_rng(0)
    confident = rng.uniform(0.5, 1, 200_000)
    labels = (rng.uniform(size=len(confident)) > confident).astype(int)
    assert calibration(probabilities(*confident), labels)["ece"] < 0.5
    assert calibration(probabilities(*confident), 1 - labels)["ece"] > 40


def test_probabilities_at_bin_edges_are_counted():
    found = calibration(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 1]), bins=2)
    assert [entry["images"] for entry in found["bins"]] == [1, 1]
