"""Resampling: enlargement about the center, and bilinear sampling at any position."""

import functools
import math
from collections.abc import Callable

import numpy as np
import scipy.ndimage
import scipy.sparse
from jaxtyping import Float, Int


@functools.cache
def enlargement(size: int, factor: float) -> scipy.sparse.csr_array:
    """Returns the matrix that enlarges flat images of `size`² pixels by `factor` about the center.

    Like `clipped_zoom` of make_cifar_c.py: crops the central ceil(size / factor) pixels, enlarges
    them with a spline of order 1, and crops the central `size` pixels of the result. This treats
    rows and columns the same way, so it is the Kronecker product of a line's matrix with itself.
    """
    kept = math.ceil(size / factor)
    first = (size - kept) // 2
    line = np.eye(size)[first : first + kept]
    line = scipy.ndimage.zoom(line, (factor, 1), order=1)
    first = (len(line) - size) // 2
    line = scipy.sparse.csr_array(line[first : first + size])
    return scipy.sparse.csr_array(scipy.sparse.kron(line, line))


def columns_of_pixels(
    images: Float[np.ndarray, "images size size *channels"],
) -> Float[np.ndarray, "pixels columns"]:
    """Turns images into columns for `enlargement`, one per image and channel."""
    count, size = images.shape[:2]
    flat = images.reshape(count, size * size, -1)
    return np.ascontiguousarray(np.moveaxis(flat, 0, 1)).reshape(size * size, -1)


def images_of_columns(
    columns: Float[np.ndarray, "pixels columns"], shape: tuple[int, ...]
) -> Float[np.ndarray, "images size size *channels"]:
    """Turns `columns_of_pixels` back into images of `shape`."""
    count, size = shape[:2]
    return np.moveaxis(columns.reshape(size * size, count, -1), 1, 0).reshape(shape)


def bilinear_at(
    images: Float[np.ndarray, "images size size 3"],
    y: Float[np.ndarray, "images rows columns"],
    x: Float[np.ndarray, "images rows columns"],
    fold: Callable[[Int[np.ndarray, "..."], int], Int[np.ndarray, "..."]],
) -> Float[np.ndarray, "images rows columns 3"]:
    """Samples at (y, x), where pixel (i, j) is centered at (i, j); `fold` extends the image."""
    count, size = images.shape[:2]
    pixels = images.reshape(-1, images.shape[-1])
    start = (np.arange(count) * size * size)[:, None, None]
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = (y - top)[..., None], (x - left)[..., None]
    rows = [start + fold(top + step, size) * size for step in (0, 1)]
    columns = [fold(left + step, size) for step in (0, 1)]
    upper, lower = (
        pixels[row + columns[0]] * (1 - right) + pixels[row + columns[1]] * right for row in rows
    )
    return (upper * (1 - down) + lower * down).astype(images.dtype)


def fold_at_pixels(index: Int[np.ndarray, "..."], size: int) -> Int[np.ndarray, "..."]:
    """Mirrors indices at the centers of the outermost pixels: c b a b c (OpenCV's reflect101)."""
    index = np.abs(index) % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def fold_at_edges(index: Int[np.ndarray, "..."], size: int) -> Int[np.ndarray, "..."]:
    """Mirrors indices at the edges of the outermost pixels: b a a b (SciPy's "reflect")."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)
