"""Small vision transformers trained from scratch on small image datasets."""

import importlib

from smallvit_jax.version import __version__

__all__ = [
    "UserError",
    "__version__",
    "create_model",
    "data",
    "interop",
    "load_checkpoint",
    "load_predictor",
]

# Imported on first use, so that `python -m smallvit_jax.main --help` does not wait for JAX.
_LAZY = {
    "UserError": "smallvit_jax.errors",
    "create_model": "smallvit_jax.models",
    "load_checkpoint": "smallvit_jax.checkpoints.loading",
    "load_predictor": "smallvit_jax.evaluation.predictor",
}


def __getattr__(name: str):
    if name in ("data", "interop"):
        return importlib.import_module(f"smallvit_jax.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
