"""The one config tree: its fields, their rules, and how a value given as text is read."""

from smallvit_jax.config.tree import (
    CONVNETS,
    COUNTS,
    MODELS,
    TRANSFORMERS,
    default_config,
    leaves,
)

__all__ = ["CONVNETS", "COUNTS", "MODELS", "TRANSFORMERS", "default_config", "leaves"]
