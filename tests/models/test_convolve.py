"""Our CPU convolutions against XLA's."""

import jax
import numpy as np
import pytest

from smallvit_jax.models.convolve import convolve


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("groups", [1, 4])
def test_values_and_gradients_match_xla(side, stride, groups):
    draw = np.random.default_rng(0).normal
    x = draw(size=(2, 9, 8, 4)).astype(np.float32)
    kernel = draw(size=(side, side, 4 // groups, 8 if groups == 1 else 4)).astype(np.float32)
    settings = {
        "window_strides": (stride, stride),
        "padding": ((side // 2, side // 2),) * 2,
        "feature_group_count": groups,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    with jax.default_matmul_precision("highest"):
        expected, pull_expected = jax.vjp(
            lambda x, k: jax.lax.conv_general_dilated(x, k, **settings), x, kernel
        )
        found, pull_found = jax.vjp(lambda x, k: convolve(x, k, **settings), x, kernel)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        weights = draw(size=expected.shape).astype(np.float32)
        for ours, xla in zip(pull_found(weights), pull_expected(weights), strict=True):
            np.testing.assert_allclose(ours, xla, atol=2e-4)
