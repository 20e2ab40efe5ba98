"""Reads recorded outputs of Pillow and torchvision, and compares with them."""

import functools

import numpy as np

from tests.support.golden_formulas import GOLDEN, read_golden

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@functools.cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "augment_ops.npz") as arrays:
        return dict(arrays)


@functools.cache
def recorded_autoaugment() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "augment_autoaug.npz") as arrays:
        return dict(arrays)


@functools.cache
def recorded_notes() -> dict:
    return read_golden("augment_meta")


def difference(got, expected) -> np.ndarray:
    """Absolute differences in levels."""
    assert got.shape == expected.shape
    return np.abs(np.asarray(got, np.float64) - expected)


def assert_close(got, expected, mean: float = 1.0, share_above_4: float = 0.01) -> None:
    levels = difference(got, expected)
    assert levels.mean() <= mean
    assert (levels > 4).mean() <= share_above_4


def assert_same_moments(draws, expected_mean, expected_sd, count: int) -> None:
    """Mean and deviation agree with those of `count` other draws within 5 standard errors."""
    draws = np.asarray(draws, np.float64)
    mean, sd = draws.mean(0), draws.std(0)
    both = 1 / len(draws) + 1 / count
    kurtosis = ((draws - mean) ** 4).mean(0) / sd**4
    np.testing.assert_array_less(np.abs(mean - expected_mean), 5 * sd * np.sqrt(both))
    np.testing.assert_array_less(
        np.abs(sd - expected_sd), 5 * sd * np.sqrt((kurtosis - 1) / 4 * both)
    )
