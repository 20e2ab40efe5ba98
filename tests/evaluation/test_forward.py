"""Forward passes over a whole split."""

import jax
import numpy as np
import pytest

from smallvit_jax.evaluation.forward import forward_all
from smallvit_jax.process.sharding import make_mesh

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 3, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 20, 23])
@pytest.mark.parametrize("batch_size", [1, 7, 23, 500])
def test_every_image_comes_back_once_and_in_order(count, batch_size):
    shapes = set()

    @jax.jit
    def apply(batch):
        shapes.add(batch.shape)
        flat = batch.reshape(len(batch), -1).astype(float)
        return flat[:, :2] + flat.sum(axis=1, keepdims=True)

    result = forward_all(apply, IMAGES[:count], batch_size, make_mesh())
    flat = IMAGES[:count].reshape(count, -1).astype(float)
    np.testing.assert_array_equal(result, flat[:, :2] + flat.sum(axis=1, keepdims=True))
    assert shapes == {(min(batch_size, count), 3, 3, 3)}  # one program for all batches
