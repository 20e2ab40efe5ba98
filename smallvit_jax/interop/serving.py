"""A trained model as one function of 8-bit images, and what a program needs to know to call it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float, UInt8

from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.process.platform import compiling_for


def serving_function(
    model: ImageModel, meta: Mapping[str, Any]
) -> Callable[[UInt8[Array, "batch size size 3"]], Float[Array, "batch outputs"]]:
    """Returns images of the trained size → logits (features without a classifier), float32.

    `meta` is the checkpoint's; its mean and standard deviation are applied inside. It is traced as
    for a CPU, with full float32 products: no kernel of one platform, the same numbers on each.
    """
    size, mean, std = meta["model"]["image_size"], tuple(meta["mean"]), tuple(meta["std"])

    def apply(images):
        with compiling_for("cpu"), jax.default_matmul_precision("highest"):
            return model(evaluation_batch(images, size, mean, std))

    return apply


def describe(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a consumer of `serving_function` needs, ready for JSON.

    `mean` and `std` are on a scale of 0 to 1, and already applied inside; `class_names` are in the
    order of the outputs, and empty without a classifier.
    """
    spec = DATASETS.get(meta["dataset"])
    squeezed = spec is not None and spec.squeezed
    classes = list(meta["class_names"]) if meta["model"]["num_classes"] else []
    return {
        "input": "uint8 RGB [batch, size, size, 3]",
        "output": output_name(meta),
        "size": meta["model"]["image_size"],
        "resize": "both sides to size" if squeezed else "shorter side to size, then center crop",
        "resampling": "bicubic, antialiased",
        "mean": list(meta["mean"]),
        "std": list(meta["std"]),
        "normalized_inside": True,
        "class_names": classes,
        "dataset": meta["dataset"],
        "step": meta["step"],
    }


def output_name(meta: Mapping[str, Any]) -> str:
    """Name of the output: "logits", or "features" without a classifier."""
    return "logits" if meta["model"]["num_classes"] else "features"
