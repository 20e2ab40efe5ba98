"""Running a model over a whole split, in batches of one fixed size."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from smallvit_jax.training.sharding import split_batch


def forward_all(
    apply: Callable[[UInt8[jax.Array, "batch height width 3"]], jax.Array],
    images: UInt8[np.ndarray, "count height width 3"],
    batch_size: int,
    mesh: Mesh,
) -> Float[np.ndarray, "count outputs"]:
    """Applies a jitted function to all images and returns its outputs on the host, in order.

    The last batch is padded with black images, whose outputs are dropped; every batch is split
    over the mesh, so `batch_size` is rounded up to a multiple of the number of devices.
    """
    devices = mesh.devices.size
    batch_size = -(-min(batch_size, len(images)) // devices) * devices
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        missing = batch_size - len(batch)
        if missing:
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
        outputs.append(apply(split_batch(batch, mesh)))
    return np.concatenate(jax.device_get(outputs))[: len(images)]
