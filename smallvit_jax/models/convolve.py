"""Convolutions in the form that is fastest on the device."""

import functools
import operator
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smallvit_jax.models.layers import product
from smallvit_jax.process.platform import platform

Maps = Float[Array, "batch height width channels"]


def convolve(
    x: Maps,
    kernel: Float[Array, "side side inputs outputs"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **options,
) -> Maps:
    """Replaces `jax.lax.conv_general_dilated` in nnx.Conv; dense or depthwise, equal strides.

    On CPU it is written out as products: inside a compiled loop, where every training step runs,
    XLA's CPU convolutions fall back to a plain loop that is 15 to 40 times as slow.
    """
    if platform() != "cpu":
        return jax.lax.conv_general_dilated(
            x, kernel, window_strides, padding, feature_group_count=feature_group_count, **options
        )
    shifted = shifted_images(x, kernel.shape[0], window_strides[0], padding[0][0])
    if feature_group_count == 1:
        return product(jnp.concatenate(list(shifted), axis=-1), kernel.reshape(-1, kernel.shape[3]))
    weights = kernel.reshape(-1, kernel.shape[3])
    weighted = (image * weight for image, weight in zip(shifted, weights, strict=True))
    return functools.reduce(operator.add, weighted)


def shifted_images(x: Maps, side: int, stride: int, padding: int) -> Iterator[Maps]:
    """Yields what each entry of a `side` x `side` kernel sees of the zero-padded image, by row."""
    batch, *sizes, channels = x.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((size + 2 * padding - side) // stride * stride + 1 for size in sizes)
    for i in range(side):
        for j in range(side):
            limits = (batch, i + rows, j + columns, channels)
            yield jax.lax.slice(x, (0, i, j, 0), limits, (1, stride, stride, 1))
