"""Spatter: drops of water or specks of mud on the lens.

The authors shade the drops with OpenCV: Canny edges, distances to them, histogram equalization, an
embossing filter. This file has the same steps in NumPy and SciPy, for a whole batch of masks.
Formulas are from make_cifar_c.py of hendrycks/robustness and from OpenCV's documentation.
"""

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8

from smallvit_jax.evaluation.corruptions.draws import Draws

Images = UInt8[np.ndarray, "images size size 3"]
Values = Float[np.ndarray, "images size size 3"]
Layer = UInt8[np.ndarray, "images size size"]

_WATER = np.array([175, 238, 238], np.float32) / 255
_MUD = np.array([63, 42, 20], np.float32) / 255
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
_FARTHEST = 20.0  # limit of the distances
# Step lengths in OpenCV's 5x5 distance transform: straight, diagonal, a knight's move.
_STEPS = {1: 1.0, 2: 1.4, 5: 2.1969}  # by their squared lengths


def spatter(
    images: Images,
    draws: Draws,
    mean: float,
    std: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Values:
    """Covers the image with liquid where smoothed normal noise exceeds `threshold`.

    Water is shaded, scaled to a maximum of `strength` and added. Mud covers the image where its
    mask, smoothed by `strength` pixels, is at least 0.8.
    """
    liquid = draws.normal(images.shape[1:3], mean, std)
    liquid = scipy.ndimage.gaussian_filter(liquid, (0, sigma, sigma), mode="nearest", truncate=4)
    liquid[liquid < threshold] = 0
    unit = (images / 255).astype(np.float32)
    if mud:
        mask = (liquid > threshold).astype(np.float32)
        mask = scipy.ndimage.gaussian_filter(mask, (0, strength, strength), mode="nearest")
        mask = np.where(mask < 0.8, 0, mask)[..., None]
        return np.clip(unit * (1 - mask) + _MUD * mask, 0, 1) * 255
    layer = (np.minimum(liquid, 1) * 255).astype(np.uint8)
    shade = layer * _shading(layer)
    brightest = shade.max(axis=(1, 2), keepdims=True)
    shade = shade * strength / np.where(brightest == 0, 1, brightest)
    return np.clip(unit + shade[..., None] * _WATER, 0, 1) * 255


def _shading(layer: Layer) -> Float[np.ndarray, "images size size"]:
    """Brightness of the drops from their shape: integers in 0 to 255."""
    near = _mean_of_9(_distances(_canny(layer, 50, 150))).astype(np.uint8)
    near = _equalize(near).astype(np.float64)
    embossed = scipy.ndimage.correlate(near, _EMBOSS[None], mode="mirror").clip(0, 255)
    return np.rint(_mean_of_9(embossed))


def _mean_of_9(values: Float[np.ndarray, "images size size"]):
    sums = scipy.ndimage.correlate(values, np.ones((1, 3, 3)), mode="mirror")
    return sums / 9


def _canny(layer: Layer, low: int, high: int) -> Bool[np.ndarray, "images size size"]:
    """Canny edges: local maxima of the gradient above `low` that connect to one above `high`.

    The gradient's size is |d/dx| + |d/dy| of Sobel filters.
    """
    values = layer.astype(np.int64)
    dy, dx = _slope(values, 1), _slope(values, 2)
    size = np.abs(dx) + np.abs(dy)
    around = np.pad(size, ((0, 0), (1, 1), (1, 1)))

    def neighbor(down: int, right: int):
        rows, columns = size.shape[1:]
        return around[:, 1 + down : 1 + down + rows, 1 + right : 1 + right + columns]

    slope = np.tan(np.pi / 8)
    flat = np.abs(dy) < slope * np.abs(dx)
    steep = np.abs(dy) > (slope + 2) * np.abs(dx)
    falling = (dx < 0) == (dy < 0)  # the gradient points down and right, or up and left
    largest = np.select(
        [flat, steep, falling],
        [
            (size > neighbor(0, -1)) & (size >= neighbor(0, 1)),
            (size > neighbor(-1, 0)) & (size >= neighbor(1, 0)),
            (size > neighbor(-1, -1)) & (size > neighbor(1, 1)),
        ],
        (size > neighbor(-1, 1)) & (size > neighbor(1, -1)),
    )
    edges = largest & (size > low)
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = True
    parts, count = scipy.ndimage.label(edges, in_plane)
    strong = np.zeros(count + 1, bool)
    strong[parts[edges & (size > high)]] = True
    return strong[parts]


def _slope(values, axis: int):
    """Sobel filter: differences along `axis`, weighted 1 2 1 across it."""
    across = scipy.ndimage.correlate1d(values, [1, 2, 1], 3 - axis, mode="nearest")
    return scipy.ndimage.correlate1d(across, [-1, 0, 1], axis, mode="nearest")


def _distances(
    edges: Bool[np.ndarray, "images size size"],
) -> Float[np.ndarray, "images size size"]:
    """Length of the shortest path to an edge in the steps above; at most 20."""
    distance = np.where(edges, 0, _FARTHEST)
    rows, columns = edges.shape[1:]
    moves = [
        (down, right, _STEPS[down**2 + right**2])
        for down in range(-2, 3)
        for right in range(-2, 3)
        if down**2 + right**2 in _STEPS
    ]
    while True:
        before = distance
        around = np.pad(before, ((0, 0), (2, 2), (2, 2)), constant_values=_FARTHEST)
        distance = before.copy()
        for down, right, length in moves:
            there = around[:, 2 + down : 2 + down + rows, 2 + right : 2 + right + columns]
            np.minimum(distance, there + length, out=distance)
        if np.array_equal(distance, before):
            return distance


def _equalize(layer: Layer) -> Layer:
    """Equalizes each image's histogram over 0 to 255; constant images do not change."""
    count = len(layer)
    levels = layer.reshape(count, -1).astype(np.int64)
    shifted = (levels + 256 * np.arange(count)[:, None]).ravel()
    histogram = np.bincount(shifted, minlength=256 * count).reshape(count, 256)
    summed = histogram.cumsum(axis=1)
    total = levels.shape[1]
    lowest = histogram[np.arange(count), levels.min(axis=1)][:, None]
    spread = np.rint((summed - lowest) * (255 / np.maximum(total - lowest, 1)))
    table = np.where(lowest == total, np.arange(256), spread.clip(0, 255)).astype(np.uint8)
    return np.take_along_axis(table, levels, axis=1).reshape(layer.shape)
