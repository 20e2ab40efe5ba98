"""Weather: snow, frost and fog; spatter is in spatter.py.

Formulas are from make_cifar_c.py of hendrycks/robustness. Functions take uint8 images and return
values in 0 to 255, which `corrupt` truncates.
"""

import numpy as np
from jaxtyping import Float, UInt8

from smallvit_jax.evaluation.corruptions.blur import directed_blur
from smallvit_jax.evaluation.corruptions.draws import Draws
from smallvit_jax.evaluation.corruptions.frost_photographs import frost_photographs
from smallvit_jax.evaluation.corruptions.resampling import (
    columns_of_pixels,
    enlargement,
    images_of_columns,
)

Images = UInt8[np.ndarray, "images size size 3"]
Values = Float[np.ndarray, "images size size 3"]


def snow(
    images: Images,
    draws: Draws,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    keep: float,
) -> Values:
    """Adds flakes (enlarged normal noise above `threshold`, blurred down) to a whitened image."""
    size = images.shape[1]
    layers = columns_of_pixels(draws.normal((size, size), mean, std))
    flakes = images_of_columns(enlargement(size, zoom) @ layers, images.shape[:3])
    flakes[flakes < threshold] = 0
    flakes = (np.clip(flakes, 0, 1) * 255).astype(np.uint8)
    angles = draws.uniform(-135, -45)
    falling = [directed_blur(f, radius, sigma, a) for f, a in zip(flakes, angles, strict=True)]
    layer = np.stack(falling)[..., None] / 255
    unit = (images / 255).astype(np.float32)
    gray = (unit @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    pale = keep * unit + (1 - keep) * np.maximum(unit, gray * 1.5 + 0.5)
    return np.clip(pale + layer + layer[:, ::-1, ::-1], 0, 1) * 255


def frost(images: Images, draws: Draws, keep: float, amount: float, scale: float) -> Values:
    """Adds a random crop of one of five photographs of frost, shrunk to `scale`."""
    size = images.shape[1]
    photographs = frost_photographs(scale)
    chosen = draws.integers(0, len(photographs))
    corner = draws.uniform(0, 1, (2,))
    pieces = []
    for number, (down, right) in zip(chosen, corner, strict=True):
        photograph = photographs[number]
        top = int(down * (photograph.shape[0] - size))
        left = int(right * (photograph.shape[1] - size))
        pieces.append(photograph[top : top + size, left : left + size])
    return np.clip(keep * images + amount * np.stack(pieces), 0, 255)


def fog(images: Images, draws: Draws, amount: float, decay: float) -> Values:
    """Adds clouds and scales back to the image's largest value."""
    unit = images / 255
    clouds = _plasma(draws, len(images), images.shape[1], decay)[..., None]
    largest = unit.max(axis=(1, 2, 3), keepdims=True)
    return np.clip((unit + amount * clouds) * largest / (largest + amount), 0, 1) * 255


def _plasma(
    draws: Draws, count: int, size: int, decay: float
) -> Float[np.ndarray, "images size size"]:
    """Diamond-square clouds in 0 to 1 that wrap around; `size` is a power of 2."""
    noise = draws.uniform(-1, 1, (size * size - 1,))
    used = 0

    def with_noise(four_sum, wobble):
        nonlocal used
        pixels = four_sum.shape[1] * four_sum.shape[2]
        drawn = noise[:, used : used + pixels].reshape(four_sum.shape)
        used += pixels
        return four_sum / 4 + wobble**2 * drawn

    clouds = np.zeros((count, size, size))
    step, wobble = size, 100.0
    while step > 1:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        middles = with_noise(pairs + np.roll(pairs, -1, 2), wobble)
        clouds[:, half::step, half::step] = middles
        across = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 2)
        clouds[:, ::step, half::step] = with_noise(across, wobble)
        along = middles + np.roll(middles, 1, 2) + corners + np.roll(corners, -1, 1)
        clouds[:, half::step, ::step] = with_noise(along, wobble)
        step, wobble = half, wobble / decay
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    return clouds / clouds.max(axis=(1, 2), keepdims=True)
