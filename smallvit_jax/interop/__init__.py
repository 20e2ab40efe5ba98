"""Weights of other programs, in and out."""

from smallvit_jax.interop import torch_weights

__all__ = ["torch_weights"]
