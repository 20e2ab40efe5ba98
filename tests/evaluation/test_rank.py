"""RankMe counts the directions that features use."""

import numpy as np
import pytest

from smallvit_jax.evaluation.rank import rankme


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_equal_directions_are_counted(rank):
    vectors, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 16)))
    scaled = vectors * (np.arange(16) < rank)
    assert rankme(3 * scaled) == pytest.approx(rank, rel=1e-4)


def test_value_is_exp_of_the_entropy_of_singular_values():
    features = np.diag([4.0, 2.0, 1.0, 1.0])
    assert rankme(features) == pytest.approx(2**1.75, rel=1e-5)  # shares 1/2, 1/4, 1/8, 1/8
