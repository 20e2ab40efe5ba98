"""Models as StableHLO, which JAX alone can run: `jax.export.deserialize(bytes).call(images)`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from smallvit_jax.errors import UserError
from smallvit_jax.interop.serving import describe, serving_function
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.workdir.files import strict_json, write_atomically

SUFFIX = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write_model(path: Path, model: ImageModel, meta: Mapping[str, Any]) -> None:
    """Writes a model for `PLATFORMS` and any batch size, and its description in a `.json` beside.

    The input is uint8 [batch, size, size, 3], the output as in `serving_function`. `meta` is the
    checkpoint's. Raises `UserError` without flatbuffers, in which JAX writes such files.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise UserError(
            "writing a StableHLO file needs flatbuffers; install it (pip install flatbuffers, or "
            "smallvit_jax with its export extra) and run the same command again"
        ) from error
    size = meta["model"]["image_size"]
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), size, size, 3), jnp.uint8)
    exported = export.export(jax.jit(serving_function(model, meta)), platforms=PLATFORMS)(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(exported.serialize())
    unfinished.replace(path)
    described = describe(meta) | {"platforms": PLATFORMS, "jax": jax.__version__}
    write_atomically(path.with_suffix(".json"), strict_json(described, indent=1))
