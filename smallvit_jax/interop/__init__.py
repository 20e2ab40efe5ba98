"""Imports and exports weights for use with other programs."""

from smallvit_jax.interop import torch_weights

__all__ = ["torch_weights"]
