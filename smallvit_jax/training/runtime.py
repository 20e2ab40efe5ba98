"""Process-wide settings of a run: precision, compiled-program cache, devices."""

import os
import zlib

import jax
import jax.numpy as jnp


def prepare(precision: str, compilation_cache: str):
    """Applies the settings to JAX and returns the dtype that models compute in.

    Args:
      precision: "float32" (matrix products in full float32 everywhere), "bfloat16", or "auto":
        bfloat16 on GPU and TPU, float32 on CPU. Parameters, softmax, norms' statistics and
        losses stay float32.
      compilation_cache: folder for compiled programs; empty: none. The environment's
        JAX_COMPILATION_CACHE_DIR comes first.

    Both settings are JAX's own, for the whole process.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = os.path.expanduser(compilation_cache) or None
        jax.config.update("jax_compilation_cache_dir", folder)
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
