"""Structured initialization of a ViT's attention: impulse and mimetic.

Both need a ViT without a class token, with mean pooling and fixed positions. Everything they do not
set starts at PyTorch's defaults, including random biases, as in the authors' code.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from smallvit_jax.config.choices import STRUCTURED_INITS
from smallvit_jax.errors import UserError
from smallvit_jax.models import impulse
from smallvit_jax.models.vit import ViT

_FILTER_SIZES = {"impulse3": 3, "impulse5": 5}  # patches per side
_NEEDED = {"name": "vit", "pool": "mean", "pos_embed": "sincos"}
# Weights of noise and identity in the mimetic products.
_QUERY_KEY = (0.7, 0.7)
_VALUE_PROJECTION = (0.4, -0.4)

Square = Float[np.ndarray, "width width"]


def check_structured(options: Mapping[str, Any]) -> None:
    """Raises `UserError` if a model with these options does not support its structured `init`."""
    init = options.get("init")
    if init not in STRUCTURED_INITS:
        return
    wrong = [name for name, value in _NEEDED.items() if options.get(name) != value]
    if wrong:
        settings = " and ".join(f"model.{name}={_NEEDED[name]}" for name in wrong)
        raise UserError(
            f"model.init={init} is for a ViT with fixed positions and without a class token; "
            f"set {settings}, or choose another model.init"
        )
    if options["lsa"]:
        raise UserError(
            f"model.init={init} makes patches attend to themselves too, which model.lsa masks; "
            "set only one of them"
        )
    reach = _FILTER_SIZES.get(init, 1) // 2
    grid = options["image_size"] // options["patch_size"]
    if grid <= reach:
        raise UserError(
            f"model.init={init} makes patches attend up to {reach} away, but the image has only "
            f"{grid} x {grid} patches; choose a smaller model.patch_size"
        )


def set_structured(model: ViT, init: str, seed: int) -> None:
    """Sets the attention weights of every block, in place.

    "impulse3" and "impulse5": queries and keys from `impulse.solve`, the same in all blocks.
    "mimetic": noise plus identity in each block's products (Trockman & Kolter, arXiv:2305.09828,
    eq. 5-8). "mimetic_released" multiplies value and projection in the order of the released code.
    """
    if init in _FILTER_SIZES:
        heads = model.blocks[0].attn.heads
        width = model.num_features
        solution = impulse.solve(width, heads, model.grid, _FILTER_SIZES[init], seed=seed)
        queries = solution.queries.transpose(1, 0, 2).reshape(width, width)
        keys = solution.keys.transpose(2, 0, 1).reshape(width, width)
        for block in model.blocks:
            _set_query_key(block.attn, queries, keys)
        return
    for block, key in zip(
        model.blocks, jax.random.split(jax.random.key(seed), len(model.blocks)), strict=True
    ):
        _set_mimetic(block.attn, key, released=init == "mimetic_released")


def near_identity(key: jax.Array, width: int, noise: float, identity: float) -> tuple[Square, ...]:
    """Factors L, R of noise · Z + identity · I = L R, with Z uniform of variance 1 / width.

    The singular values are split evenly: the first k columns of L and rows of R multiply to the
    best rank-k approximation.
    """
    bound = (3 / width) ** 0.5
    z = np.asarray(jax.random.uniform(key, (width, width), minval=-bound, maxval=bound))
    u, s, vt = np.linalg.svd(noise * z + identity * np.eye(width, dtype=np.float32))
    return u * np.sqrt(s), np.sqrt(s)[:, None] * vt


def _set_mimetic(attention, key: jax.Array, *, released: bool) -> None:
    heads, width = attention.heads, attention.proj.kernel.shape[0]
    size = width // heads
    *head_keys, value_key = jax.random.split(key, heads + 1)
    factors = [near_identity(head_key, width, *_QUERY_KEY) for head_key in head_keys]
    _set_query_key(
        attention,
        np.concatenate([left[:, :size] for left, _ in factors], axis=1),
        np.concatenate([right[:size].T for _, right in factors], axis=1),
    )
    left, right = near_identity(value_key, width, *_VALUE_PROJECTION)
    # A token x becomes x · value · projection. In the paper that product is L R; the released code
    # sets PyTorch's transposed kernels to L and R, so it is Lᵀ Rᵀ.
    value, projection = (left.T, right.T) if released else (left, right)
    kernel = attention.qkv.kernel[...]
    attention.qkv.kernel[...] = kernel.at[:, 2 * width :].set(value)
    attention.proj.kernel[...] = jnp.asarray(projection)


def _set_query_key(attention, queries: Square, keys: Square) -> None:
    """Sets the kernels from matrices [width, (head, head width)]."""
    kernel, width = attention.qkv.kernel[...], len(queries)
    kernel = kernel.at[:, :width].set(queries).at[:, width : 2 * width].set(keys)
    attention.qkv.kernel[...] = kernel
