"""LeJEPA's loss equals recorded values and formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.objectives.lejepa import (
    collapsed_statistic,
    draw_directions,
    gaussian_statistic,
    lejepa_losses,
)


@pytest.fixture(scope="module")
def recorded(golden):
    """The golden values with their inputs: projections [24, 6, 16] and directions [16, 32]."""
    b, v, d = np.meshgrid(np.arange(24), np.arange(6), np.arange(16), indexing="ij")
    projections = 1.3 * np.sin(0.37 * b + 1.3 * v + 0.71 * d + 0.05 * b * d)
    projections += 0.4 * np.cos(2.1 * b * (d + 1) + 0.3 * v)
    d, k = np.meshgrid(np.arange(16), np.arange(32), indexing="ij")
    directions = np.cos(0.9 * d * (k + 1) + 0.2 * k)
    directions /= np.linalg.norm(directions, axis=0)
    return golden("sigreg"), jnp.float32(projections), jnp.float32(directions)


def test_losses_equal_recorded_values(recorded):
    expected, projections, directions = recorded
    losses = lejepa_losses(projections, directions, 17, 0.05)
    assert losses.total == pytest.approx(expected["loss_global"], rel=1e-5)
    assert losses.statistic == pytest.approx(expected["statistic_mean"], rel=1e-5)
    assert losses.prediction == pytest.approx(
        expected["invariance_to_mean_of_global_views"], rel=1e-5
    )
    first = gaussian_statistic(projections @ directions, 17)[0, :8]
    np.testing.assert_allclose(first, expected["statistic_first"], rtol=2e-5)


def test_gradient_equals_recorded_values(recorded):
    expected, projections, directions = recorded
    gradient = jax.grad(lambda z: lejepa_losses(z, directions, 17, 0.05).total)(projections)
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(
        gradient.ravel()[:6], expected["gradient_first_global"], atol=1e-5 * largest
    )
    assert np.linalg.norm(gradient) == pytest.approx(expected["gradient_norm_global"], rel=1e-5)


def test_constant_projections_have_the_recorded_statistic(recorded):
    expected = recorded[0]["collapsed"]["statistic_mean"]
    assert collapsed_statistic(24, 17) == pytest.approx(expected, rel=1e-12)
    zeros = gaussian_statistic(jnp.zeros((24, 1, 1)), 17)
    assert float(zeros[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_gradient_of_statistic_equals_that_of_the_plain_formula():
    values = jax.random.normal(jax.random.key(1), (10, 2, 3))
    weights = jax.random.normal(jax.random.key(2), (2, 3))
    t = np.linspace(0, 3, 9)[1:, None, None, None]
    trapezoid = np.full(8, 2 * 3 / 8)
    trapezoid[-1] /= 2

    def plain(values):
        real = jnp.cos(t * values).mean(axis=1) - np.exp(-(t[:, 0] ** 2) / 2)
        imaginary = jnp.sin(t * values).mean(axis=1)
        by_knot = trapezoid * np.exp(-(t[:, 0, 0, 0] ** 2) / 2)
        return 10 * jnp.tensordot(by_knot, real**2 + imaginary**2, axes=1)

    def summed(function):
        return lambda values: (function(values) * weights).sum()

    np.testing.assert_allclose(gaussian_statistic(values, 9), plain(values), rtol=1e-5)
    np.testing.assert_allclose(
        jax.grad(summed(lambda v: gaussian_statistic(v, 9)))(values),
        jax.grad(summed(plain))(values),
        atol=1e-5,
    )


def test_statistic_of_normal_values_is_about_one():
    """Its mean is the sum over knots of weight · (1 - exp(-t²))."""
    values = jax.random.normal(jax.random.key(0), (64, 50, 100))
    t = np.linspace(0, 3, 17)
    expected = 2 * np.trapezoid(np.exp(-(t**2) / 2) * (1 - np.exp(-(t**2))), t)
    assert float(gaussian_statistic(values, 17).mean()) == pytest.approx(expected, rel=0.03)
    assert 0.9 < expected < 1.1
    uniform = jax.random.uniform(jax.random.key(0), (64, 50, 100), minval=-3, maxval=3)
    assert float(gaussian_statistic(uniform, 17).mean()) > 3 * expected


def test_directions_are_uniform_unit_vectors():
    directions = draw_directions(jax.random.key(0), 8, 4000)
    np.testing.assert_allclose(jnp.linalg.norm(directions, axis=0), 1, rtol=1e-5)
    covariance = directions @ directions.T / 4000
    np.testing.assert_allclose(covariance, np.eye(8) / 8, atol=4 / 8 / math.sqrt(4000))
