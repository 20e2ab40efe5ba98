"""What a trained model says of images: logits and features in one pass."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.evaluation.forward import forward_all
from smallvit_jax.models.parameters import Functional, get_arrays
from smallvit_jax.process.sharding import make_mesh

Images = UInt8[np.ndarray, "count side side 3"]
Outputs = tuple[Float[np.ndarray, "count classes"] | None, Float[np.ndarray, "count width"]]


def predict_split(
    model: nnx.Module, meta: dict[str, Any], images: Images, batch_size: int
) -> Outputs:
    """Logits (None without a classifier) and features of all images, in order, float32.

    `meta` is the checkpoint's: images of any size are scaled to its image size and normalised with
    its mean and standard deviation. `batch_size` counts over all devices.
    """
    return make_predictor(model, meta, batch_size)(images)


def make_predictor(
    model: nnx.Module, meta: dict[str, Any], batch_size: int
) -> Callable[[Images], Outputs]:
    """`predict_split` for calls again and again: compiles once for each batch shape."""
    mesh = make_mesh()
    network, arrays = Functional(model), get_arrays(model)
    size, mean, std = meta["model"]["image_size"], tuple(meta["mean"]), tuple(meta["std"])
    classes = meta["model"]["num_classes"]

    def outputs(arrays, batch):
        images = evaluation_batch(batch, size, mean, std)
        features = network(arrays, {}, images, method="features")[0]
        if not classes:
            return features
        logits = features @ arrays["head.kernel"] + arrays["head.bias"]
        return jnp.concatenate([logits, features], axis=1)

    # Whole on every device, hence in every process.
    apply = jax.jit(outputs, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def predict(images: Images) -> Outputs:
        both = forward_all(lambda batch: apply(arrays, batch), images, batch_size, mesh)
        return (both[:, :classes], both[:, classes:]) if classes else (None, both)

    return predict
