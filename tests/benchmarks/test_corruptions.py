"""Timings of the corruptions: every kind has one, and they add up."""

import pytest

from benchmarks.corruptions import measure, waves
from smallvit_jax.evaluation.corruptions import KINDS, missing_kinds


def test_every_kind_is_timed():
    result = measure(3, 32, 1)
    kinds = [kind for kind in KINDS if kind not in missing_kinds()]
    assert list(result["seconds_per_1000"]) == kinds and result["settings"] == 5 * len(kinds)
    assert min(result["seconds_per_1000"].values()) > 0
    total = sum(result["seconds_per_1000"].values())
    assert result["all_on_one_core"] == pytest.approx(total, abs=0.2)


def test_images_differ_and_fill_the_range():
    images = waves(5, 64)
    assert images.shape == (5, 64, 64, 3) and images.min() < 40 and images.max() > 215
    assert (images[0] != images[1]).any() and (images[0, ..., 0] != images[0, ..., 1]).any()
