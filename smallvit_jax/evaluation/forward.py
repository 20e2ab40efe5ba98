"""Running a model over a whole split, in batches of one fixed size."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.models.parameters import Arrays, Functional
from smallvit_jax.process.sharding import split_batch


class Forward:
    """A model's method as a function of its arrays and a whole split of uint8 images.

    Images are scaled to `image_size` and normalised with `mean` and `std` (scale 0 to 1);
    `arguments` are what the method takes behind them.
    """

    def __init__(
        self,
        network: Functional,
        method: str,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        mesh: Mesh,
        arguments: tuple = (),
    ):
        def apply(arrays, batch):
            images = evaluation_batch(batch, image_size, tuple(mean), tuple(std))
            return network(arrays, {}, images, *arguments, method=method)[0]

        # Whole on every device, hence in every process.
        self._apply = jax.jit(apply, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._batch_size, self._mesh = batch_size, mesh

    def __call__(
        self, arrays: Arrays, images: UInt8[np.ndarray, "count height width 3"]
    ) -> Float[np.ndarray, "count outputs"]:
        """`arrays` are all of the model's: weights and buffers."""
        return forward_all(
            lambda batch: self._apply(arrays, batch), images, self._batch_size, self._mesh
        )


def forward_all(
    apply: Callable[[UInt8[jax.Array, "batch height width 3"]], jax.Array],
    images: UInt8[np.ndarray, "count height width 3"],
    batch_size: int,
    mesh: Mesh,
) -> Float[np.ndarray, "count outputs"]:
    """Applies a jitted function to all images and returns its outputs on the host, in order.

    With several processes the outputs must be replicated; each process gets all of them.
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
