"""The view-prediction loss against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.objectives import dino as objective
from tests.support.golden_formulas import array


@pytest.mark.parametrize("epoch", [0, 5, 10, 50, 199])
def test_loss_center_and_gradient_equal_the_reference(golden, epoch):
    recorded = golden("view_pred_loss")[f"epoch_{epoch}"]
    center = jnp.zeros(64)
    for call, expected in enumerate(recorded["calls"]):
        # Recorded view by view, 4 images each.
        student = jnp.asarray(array(f"student{call}", (40, 64)).reshape(10, 4, 64)).swapaxes(0, 1)
        teacher = jnp.asarray(array(f"teacher{call}", (8, 64)).reshape(2, 4, 64)).swapaxes(0, 1)
        targets = objective.teacher_probabilities(teacher, center, recorded["teacher_temp"])

        def loss_of(student, targets=targets):
            return objective.view_prediction_loss(student, targets, 0.1)

        loss, gradient = jax.value_and_grad(loss_of)(student)
        center = objective.update_center(center, teacher.mean(axis=(0, 1)), 0.9)
        assert float(loss) == pytest.approx(expected["loss"], rel=1e-6)
        np.testing.assert_allclose(
            center, np.ravel(expected["center_after"]["values"]), atol=1e-8, rtol=1e-5
        )
        first = np.asarray(expected["student_grad"]["first"])
        np.testing.assert_allclose(
            gradient.swapaxes(0, 1).ravel()[: len(first)], first, atol=1e-7, rtol=2e-5
        )
        assert np.linalg.norm(gradient) == pytest.approx(expected["student_grad"]["l2"], rel=1e-6)


def test_information_of_known_distributions():
    certain = jnp.eye(4).reshape(2, 2, 4)
    entropy, information = information_of(certain)
    assert entropy == pytest.approx(0, abs=1e-6)
    assert information == pytest.approx(np.log(4), rel=1e-6)
    constant = jnp.tile(jnp.asarray([0.5, 0.25, 0.25, 0.0]), (4, 2, 1))
    entropy, information = information_of(constant)
    assert entropy == pytest.approx(1.5 * np.log(2), rel=1e-6)
    assert information == pytest.approx(0, abs=1e-6)


def information_of(probabilities):
    entropy = objective.mean_entropy(probabilities)
    information = objective.mutual_information(probabilities.mean(axis=(0, 1)), entropy)
    return float(entropy), float(information)


@pytest.mark.parametrize(
    ("information", "entropy", "words"),
    [
        (0.0, np.log(64) * 0.99, "uniform"),
        (0.0, 0.01, "one-hot"),
        (0.0, 2.47, "one constant distribution"),
    ],
)
def test_collapse_is_reported_by_kind(information, entropy, words):
    assert words in objective.describe_collapse(information, entropy, 64)


def test_healthy_run_is_not_reported_as_collapsed():
    assert objective.describe_collapse(2.36 - 0.67, 0.67, 64) is None
