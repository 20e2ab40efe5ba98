"""Process-wide settings of a run: precision, compiled-program cache, devices."""

import os
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp


def prepare(precision: str, compilation_cache: str):
    """Applies the settings to JAX and returns the dtype that models compute in.

    Args:
      precision: "float32" (matrix products in full float32 everywhere), "bfloat16", or "auto":
        bfloat16 on GPU and TPU, float32 on CPU. Parameters, softmax, norms' statistics and
        losses stay float32.
      compilation_cache: folder for compiled programs; empty: none.
    """
    if compilation_cache:
        folder = Path(os.path.expanduser(compilation_cache))
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    jax.config.update(
        "jax_default_matmul_precision", "highest" if precision == "float32" else "default"
    )
    return jnp.dtype(precision)


def stage_key(seed: int, stage: str) -> jax.Array:
    """The key that all randomness of a stage derives from; other stages have others."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))
