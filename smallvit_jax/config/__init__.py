"""The config: every field is declared once, with its default, help and constraints."""

from smallvit_jax.config.tree import default_config

__all__ = ["default_config"]
