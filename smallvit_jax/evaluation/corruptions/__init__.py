"""The image corruptions of CIFAR-10-C (Hendrycks and Dietterich, arXiv:1903.12261), without JAX.

Worker processes import this package, so nothing in it may import JAX.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from smallvit_jax.evaluation.corruptions.draws import Draws
from smallvit_jax.evaluation.corruptions.frost_photographs import PACKAGE, frost_folder
from smallvit_jax.evaluation.corruptions.table import (
    BENCHMARK_KINDS,
    CORRUPTIONS,
    KINDS,
    SEVERITIES,
    SIZES,
)

__all__ = ["BENCHMARK_KINDS", "KINDS", "SEVERITIES", "SIZES", "corrupt", "missing_kinds"]


def corrupt(
    images: UInt8[np.ndarray, "images size size 3"],
    kind: str,
    severity: int,
    indices: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "images size size 3"]:
    """Returns corrupted copies of images of 32 or 64 pixels; severity goes from 1 (mildest) to 5.

    Random draws depend only on `kind`, `severity` and the image's index: its entry in `indices`, or
    its position in the batch. Frost needs photographs, see `missing_kinds`. Values are truncated to
    integers, as in the authors' code.
    """
    if indices is None:
        indices = range(len(images))
    function, constants = CORRUPTIONS[kind]
    draws = Draws(kind, severity, indices)
    return function(images, draws, *constants[images.shape[1]][severity - 1]).astype(np.uint8)


def missing_kinds() -> dict[str, str]:
    """Returns the kinds that cannot be generated here, with the reason."""
    if frost_folder() is None:
        return {"frost": f"its photographs are not installed; pip install --no-deps {PACKAGE}"}
    return {}
