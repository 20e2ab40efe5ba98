"""The config: every field declared once, with its default, its help and what it may hold."""

from smallvit_jax.config.tree import default_config

__all__ = ["default_config"]
