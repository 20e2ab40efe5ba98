"""Digital corruptions: JPEG compression, pixelation and elastic deformation.

Formulas are from make_cifar_c.py of hendrycks/robustness. Functions take uint8 images and return
values in 0 to 255, which `corrupt` truncates.
"""

import io

import numpy as np
import scipy.ndimage
from jaxtyping import Float, UInt8
from PIL import Image

from smallvit_jax.evaluation.corruptions.draws import Draws
from smallvit_jax.evaluation.corruptions.resampling import (
    bilinear_at,
    fold_at_edges,
    fold_at_pixels,
)

Images = UInt8[np.ndarray, "images size size 3"]
Values = Float[np.ndarray, "images size size 3"]


def jpeg_compression(images: Images, draws: Draws, quality: int) -> Images:
    """Encodes as JPEG with Pillow and decodes again."""
    return np.stack([_through_jpeg(image, quality) for image in images])


def _through_jpeg(image: UInt8[np.ndarray, "size size 3"], quality: int):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def pixelate(images: Images, draws: Draws, scale: float) -> Images:
    """Shrinks to `scale` and enlarges again, both with a box filter."""
    size = images.shape[1]
    small = (int(size * scale),) * 2
    coarse = [
        Image.fromarray(image)
        .resize(small, Image.Resampling.BOX)
        .resize((size, size), Image.Resampling.BOX)
        for image in images
    ]
    return np.stack([np.asarray(image) for image in coarse])


def elastic_transform(
    images: Images, draws: Draws, strength: float, sigma: float, affine: float
) -> Values:
    """Applies a random affine map, then a smooth random displacement of every pixel.

    `strength` (of the displacement), `sigma` (of its smoothing) and `affine` (how far three points
    move) are fractions of the side.
    """
    size = images.shape[1]
    unit = (images / 255).astype(np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    warped = bilinear_at(unit, *_affine_source(draws, affine * size, size), fold_at_pixels)
    moves = draws.uniform(-1, 1, (2, size, size))
    smoothing = (0, 0, sigma * size, sigma * size)
    moves = scipy.ndimage.gaussian_filter(moves, smoothing, mode="reflect", truncate=3)
    down, right = np.moveaxis(moves, 1, 0) * strength * size
    return np.clip(bilinear_at(warped, y + down, x + right, fold_at_edges), 0, 1) * 255


def _affine_source(draws: Draws, reach: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Source (y, x) of each pixel, as three points near the center move by up to `reach` pixels."""
    center, arm = size // 2, size // 3
    points = center + arm * np.array([[1, 1], [1, -1], [-1, -1]])  # x, y
    moved = points + draws.uniform(-reach, reach, (3, 2))
    ones = np.ones((len(moved), 3, 1))
    back = np.linalg.solve(np.concatenate([moved, ones], axis=2), points.astype(np.float64))
    y, x = np.mgrid[:size, :size]
    by_x, by_y, constant = (back[:, row, :, None, None] for row in range(3))
    source_x, source_y = np.moveaxis(by_x * x + by_y * y + constant, 1, 0)
    return source_y, source_x
