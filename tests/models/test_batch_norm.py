"""Batch norm against its formulas in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.models.batch_norm import BatchNorm

# Means that are large relative to the deviations, where E[x²] - E[x]² would be inaccurate.
X = np.random.default_rng(0).normal((100.0, -3.0, 0.0), (0.01, 2.0, 1.0), (6, 4, 5, 3))
X = X.astype(np.float32)


def filled() -> BatchNorm:
    norm = BatchNorm(3, dtype=jnp.float32)
    norm.scale[...], norm.bias[...] = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 0.0, -1.0])
    norm.mean[...], norm.var[...] = jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 5.0, 6.0])
    return norm


def normalized(mean, variance):
    centered = X.astype(np.float64) - mean
    return centered / np.sqrt(np.add(variance, 1e-5)) * [1, 2, 3] + [0.5, 0, -1]


def test_training_uses_and_records_batch_statistics():
    norm, x = filled(), X.astype(np.float64)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    output = norm(jnp.asarray(X), train=True)
    # Near 100, float32 values are 7.6e-6 apart, which is 7.6e-4 of the first channel's deviation.
    # Its mean may be off by two such steps, depending on the order of summation.
    np.testing.assert_allclose(output, normalized(mean, variance), 0, 1.6e-3)
    np.testing.assert_allclose(output[..., 1:], normalized(mean, variance)[..., 1:], 0, 1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.9 * np.array([1, 2, 3]) + 0.1 * mean, 1e-5)
    unbiased = x.var((0, 1, 2), ddof=1)  # over 120 values; the output uses the biased variance
    np.testing.assert_allclose(norm.var[...], 0.9 * np.array([4, 5, 6]) + 0.1 * unbiased, 1e-5)
    assert float(norm.var[0]) == pytest.approx(3.6 + 0.1 * unbiased[0], rel=1e-5)


def test_running_statistics_stay_without_record():
    norm, fresh = filled(), filled()
    output = norm(jnp.asarray(X), train=True, record=False)
    np.testing.assert_array_equal(output, fresh(jnp.asarray(X), train=True))
    np.testing.assert_array_equal(norm.mean[...], [1, 2, 3])
    np.testing.assert_array_equal(norm.var[...], [4, 5, 6])


def test_evaluation_uses_running_statistics():
    norm = filled()
    output = norm(jnp.asarray(X), train=False)
    np.testing.assert_allclose(output, normalized([1, 2, 3], [4, 5, 6]), 1e-5, 1e-5)
    np.testing.assert_array_equal(norm.mean[...], [1, 2, 3])


def test_bfloat16_statistics_are_float32():
    """The mean of 480 values of 1.25, whose sum is beyond bfloat16's precision."""
    norm = BatchNorm(1, dtype=jnp.bfloat16)
    x = jnp.full((30, 4, 4, 1), 1.25, jnp.bfloat16)
    assert norm(x, train=True).dtype == jnp.bfloat16
    assert norm.mean.get_value().dtype == jnp.float32
    assert float(norm.mean[0]) == pytest.approx(0.125, rel=1e-6)
    assert float(norm.var[0]) == pytest.approx(0.9, rel=1e-6)
