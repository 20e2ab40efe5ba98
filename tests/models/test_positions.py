"""Fixed positions against sums from timm 0.5.4 (float32)."""

import numpy as np
import pytest

from smallvit_jax.models.positions import sincos_positions


def test_sums_match_timm():
    table = sincos_positions(16, 16, 192).astype(np.float64)
    assert table.shape == (256, 192)
    assert table[0].sum() == pytest.approx(96, abs=1e-5)
    assert table[1].sum() == pytest.approx(99.86629, abs=1e-4)
    assert table[255].sum() == pytest.approx(77.191, abs=1e-3)
    assert table.mean() == pytest.approx(0.45261, abs=1e-5)
    assert table.std() == pytest.approx(0.54328, abs=1e-5)


def test_waves_encode_row_and_column():
    y, x = 2, 3
    row = sincos_positions(4, 6, 8)[y * 6 + x]
    waves = np.array([1, 1 / 100])  # 10000^0 and 10000^(-1/2)
    expected = [np.sin(y * waves), np.sin(x * waves), np.cos(y * waves), np.cos(x * waves)]
    np.testing.assert_allclose(row, np.concatenate(expected), atol=1e-7)
