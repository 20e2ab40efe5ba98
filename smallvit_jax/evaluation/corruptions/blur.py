"""Blur: defocus, glass, motion, zoom and Gaussian.

Formulas are from make_cifar_c.py of hendrycks/robustness. Functions take uint8 images and return
values in 0 to 255, which `corrupt` truncates.
"""

import functools
import math

import numpy as np
import scipy.ndimage
from jaxtyping import Float, UInt8

from smallvit_jax.evaluation.corruptions.draws import Draws
from smallvit_jax.evaluation.corruptions.resampling import (
    columns_of_pixels,
    enlargement,
    images_of_columns,
)

Images = UInt8[np.ndarray, "images size size 3"]
Values = Float[np.ndarray, "images size size 3"]


def gaussian_blur(images: Images, draws: Draws, sigma: float) -> Values:
    """Gaussian blur; `sigma` is in pixels."""
    return np.clip(_gaussian(images / 255, sigma), 0, 1) * 255


def defocus_blur(images: Images, draws: Draws, radius: float, edge: float) -> Values:
    """Blurs with a disk of `radius` pixels, its edge softened by a Gaussian of `edge` pixels."""
    kernel = _disk(radius, edge)[None, :, :, None]
    return np.clip(scipy.ndimage.correlate(images / 255, kernel, mode="mirror"), 0, 1) * 255


def glass_blur(images: Images, draws: Draws, sigma: float, reach: int, rounds: int) -> Values:
    """Scatters pixels by up to `reach`, between two Gaussian blurs.

    The authors meant to swap two pixels, but their assignment works on views of one array and so
    copies the second into the first. The published images were made that way.
    """
    blurred = (_gaussian(images / 255, sigma) * 255).astype(np.uint8)
    pixels = np.ascontiguousarray(np.moveaxis(blurred, 0, 2))  # [row, column, image, channel]
    count, size = images.shape[:2]
    places = range(size - reach, reach, -1)
    steps = draws.integers(-reach, reach, (rounds, len(places), len(places), 2))
    steps = np.ascontiguousarray(np.moveaxis(steps, 0, -1))
    each = np.arange(count)
    for moves in steps:
        for row, row_moves in zip(places, moves, strict=True):
            for column, (right, down) in zip(places, row_moves, strict=True):
                pixels[row, column] = pixels[row + down, column + right, each]
    return np.clip(_gaussian(np.moveaxis(pixels, 2, 0) / 255, sigma), 0, 1) * 255


def motion_blur(images: Images, draws: Draws, radius: int, sigma: float) -> Values:
    """One-sided blur at a random angle of -45 to 45 degrees."""
    angles = draws.uniform(-45, 45)
    blurred = [
        directed_blur(image, radius, sigma, angle)
        for image, angle in zip(images, angles, strict=True)
    ]
    return np.stack(blurred)


def directed_blur(
    image: Float[np.ndarray, "size size *channels"], radius: int, sigma: float, angle: float
) -> Float[np.ndarray, "size size *channels"]:
    """Averages the pixels in one direction, weighted by half a Gaussian, and rounds.

    As in ImageMagick's motion blur: 2 radius + 1 taps at distances 0, 1, ... rounded to whole
    pixels. `angle` is in degrees, clockwise from the right. Border pixels are repeated outward.
    """
    size, reach = len(image), 2 * radius
    weights = np.exp(-(np.arange(reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    direction = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    around = [(reach, reach)] * 2 + [(0, 0)] * (image.ndim - 2)
    padded = np.pad(image.astype(np.float32), around, mode="edge")
    blurred = np.zeros(image.shape)
    for distance, weight in enumerate(weights):
        top, left = (reach + math.ceil(distance * part - 0.5) for part in direction)
        blurred += weight * padded[top : top + size, left : left + size]
    return np.rint(blurred)


def zoom_blur(images: Images, draws: Draws, end: float) -> Values:
    """Averages the image and its enlargements by 1, 1.01, ... up to about `end`."""
    # arange(1, 1.06, .01) includes 1.06, arange(1, 1.16, .01) not 1.16: so in the published images.
    factors = np.arange(1, end, 0.01)
    unit = columns_of_pixels((images / 255).astype(np.float32))
    blurred = np.zeros_like(unit)
    for factor in factors:
        blurred += (enlargement(images.shape[1], factor) @ unit).astype(np.float32)
    blurred = (unit + blurred) / np.float32(len(factors) + 1)
    return np.clip(images_of_columns(blurred, images.shape), 0, 1) * 255


@functools.cache
def _disk(radius: float, edge: float) -> Float[np.ndarray, "rows columns"]:
    """A kernel that sums to 1, with weights rounded to float32."""
    reach = math.floor(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.pad((x**2 + y**2 <= radius**2).astype(np.float32), 1)
    soft = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * edge**2))
    soft = (soft / soft.sum()).astype(np.float32)
    disk /= disk.sum()
    for axis in (0, 1):
        disk = scipy.ndimage.correlate1d(disk, soft, axis, mode="constant")
    return disk.astype(np.float64)


def _gaussian(unit: Values, sigma: float) -> Values:
    return scipy.ndimage.gaussian_filter(unit, (0, sigma, sigma, 0), mode="nearest", truncate=4)
