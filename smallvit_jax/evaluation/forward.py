"""Runs a model over a whole split, in batches of one fixed size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import UInt8

from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.models.parameters import Arrays, Functional, get_arrays
from smallvit_jax.process.sharding import make_mesh, split_batch, split_over

Outputs = dict[str, np.ndarray]
"""A model's outputs for all images, in order, by name (see `ImageModel.outputs`)."""


class Forward:
    """A model's forward pass as a function of its arrays and a whole split of uint8 images.

    Args:
      network: the model.
      wanted: names of the outputs to return, as for `ImageModel.outputs`.
      image_size: images are scaled to this many pixels per side.
      mean, std: for normalization, per channel, on a scale of 0 to 1.
      batch_size: images per forward pass, over all devices.
      **options: further arguments of `ImageModel.outputs`.
    """

    def __init__(
        self,
        network: Functional,
        wanted: Sequence[str],
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        mesh: Mesh,
        **options: Any,
    ):
        def apply(arrays, batch):
            images = evaluation_batch(batch, image_size, tuple(mean), tuple(std))
            with split_over(mesh):
                return network(arrays, {}, images, *wanted, method="outputs", **options)[0]

        # Replicated on every device, so that every process gets all outputs.
        self._apply = jax.jit(apply, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._batch_size, self._mesh = batch_size, mesh

    def __call__(
        self, arrays: Arrays, images: UInt8[np.ndarray, "count height width 3"]
    ) -> Outputs:
        """Returns the wanted outputs; `arrays` are all of the model's weights and buffers.

        The last batch is padded with black images, whose outputs are dropped. Batches are split
        over the mesh, so their size is rounded up to a multiple of the number of devices. With
        several processes, each gets all outputs.
        """
        devices = self._mesh.devices.size
        batch_size = -(-min(self._batch_size, len(images)) // devices) * devices
        outputs = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            missing = batch_size - len(batch)
            if missing:
                batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
            outputs.append(self._apply(arrays, split_batch(batch, self._mesh)))
        return jax.tree.map(
            lambda *parts: np.concatenate(parts)[: len(images)], *jax.device_get(outputs)
        )


def bind_model(
    model: nnx.Module,
    meta: Mapping[str, Any],
    *wanted: str,
    batch_size: int,
    image_size: int | None = None,
    **options: Any,
) -> Callable[[UInt8[np.ndarray, "count height width 3"]], Outputs]:
    """Returns a trained model as a function of images, which compiles once per batch shape.

    `meta` is the checkpoint's: images are normalized with its mean and standard deviation, and
    scaled to its image size unless `image_size` is given. Other arguments are as for `Forward`.
    """
    forward = Forward(
        Functional(model),
        wanted,
        image_size=image_size or meta["model"]["image_size"],
        mean=meta["mean"],
        std=meta["std"],
        batch_size=batch_size,
        mesh=make_mesh(),
        **options,
    )
    arrays = get_arrays(model)
    return lambda images: forward(arrays, images)


def available_outputs(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Output names for a checkpoint's model: features, and logits if it has a classifier."""
    return ("features", "logits") if meta["model"]["num_classes"] else ("features",)
