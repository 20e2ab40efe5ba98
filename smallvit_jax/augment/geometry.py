"""Cropping, resizing, flipping and erasing, with a separate box for each image.

Inside the pipelines, an image is a float32 array of whole numbers 0..255 laid out [height, 3,
width] ("planes"): every separable operation is then one matrix product per axis without transposes,
and each channel's rows are contiguous. Functions here take one image and scalar parameters; use
`jax.vmap` for batches.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from smallvit_jax.augment.lookup import choose_row

CROP_TRIES = 10  # as in torchvision's RandomResizedCrop
ERASE_TRIES = 100  # as in the reference's RandomErasing
CROP_NUMBERS = 2 * CROP_TRIES + 2  # uniform numbers per random crop box
ERASE_NUMBERS = 2 * ERASE_TRIES + 2  # uniform numbers per random box to erase


def to_planes(
    images: UInt8[Array, "*batch height width 3"],
) -> Float[Array, "*batch height 3 width"]:
    """Converts 8-bit images to float32 planes."""
    return jnp.swapaxes(images, -1, -2).astype(jnp.float32)


def from_planes(
    planes: Float[Array, "*batch height 3 width"],
) -> UInt8[Array, "*batch height width 3"]:
    """Converts planes of whole numbers 0..255 to 8-bit images."""
    return jnp.swapaxes(planes.astype(jnp.uint8), -1, -2)


def filter_planes(
    planes: Float[Array, "height 3 width"],
    vertical: Float[Array, "new_height height"],
    horizontal: Float[Array, "new_width width"],
) -> Float[Array, "new_height 3 new_width"]:
    """Applies one matrix along each axis, rounding and clipping to 0..255 after each.

    The horizontal pass comes first, as in Pillow up to 12.3. Pillow 13 starts with the vertical one
    for some sizes; due to the clipping between the passes, results differ at saturated edges.
    """
    exact = jax.lax.Precision.HIGHEST  # products of 0 or 1 and numbers up to 255 must be exact
    rows = round_to_levels(jnp.einsum("hcw,ow->hco", planes, horizontal, precision=exact))
    return round_to_levels(jnp.einsum("hco,ph->pco", rows, vertical, precision=exact))


def round_to_levels(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Rounds half up and clips to 0..255."""
    return jnp.floor(jnp.clip(values, 0.0, 255.0) + 0.5)


def bicubic_matrix(
    start: Int[Array, ""], length: Int[Array, ""], in_size: int, out_size: int
) -> Float[Array, "out_size in_size"]:
    """Returns the weights that resize part of a row of `in_size` pixels to `out_size` pixels.

    The part is the `length` pixels from `start` on; no other pixels are used. Pillow's antialiased
    bicubic filter: a = -1/2, support widened by the downscaling factor.
    """
    scale = length / out_size
    position = jnp.arange(in_size) - start
    center = (jnp.arange(out_size) + 0.5) * scale
    x = jnp.abs(position + 0.5 - center[:, None]) / jnp.maximum(scale, 1.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0
    inside = (position >= 0) & (position < length)
    weights = jnp.where(inside, jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0)), 0.0)
    return weights / weights.sum(-1, keepdims=True)


def crop_and_resize(
    planes: Float[Array, "height 3 width"],
    box: Int[Array, "4"],
    size: int,
    flip: Bool[Array, ""] | bool = False,
) -> Float[Array, "size 3 size"]:
    """Crops a box (top, left, height, width), resizes it to `size` by `size`, and can flip it.

    Matches Pillow's bicubic `resize` of the cropped image to within one level.
    """
    height, _, width = planes.shape
    top, left, box_height, box_width = box
    horizontal = bicubic_matrix(left, box_width, width, size)
    horizontal = jnp.where(flip, horizontal[::-1], horizontal)
    return filter_planes(planes, bicubic_matrix(top, box_height, height, size), horizontal)


def pad_and_crop(
    planes: Float[Array, "height 3 width"],
    top: Int[Array, ""],
    left: Int[Array, ""],
    padding: int,
    flip: Bool[Array, ""] | bool = False,
) -> Float[Array, "height 3 width"]:
    """Flips if asked, adds `padding` black pixels on each side, and crops to the original size.

    The crop's corner (top, left) is in 0 .. 2 * padding.
    """
    height, _, width = planes.shape

    def shift(size: int, offset: Int[Array, ""]) -> Float[Array, "size size"]:
        source = jnp.arange(size)[:, None] + offset - padding
        return (source == jnp.arange(size)).astype(jnp.float32)

    columns = shift(width, left)
    columns = jnp.where(flip, columns[:, ::-1], columns)
    return filter_planes(planes, shift(height, top), columns)


def crop_box(
    uniform: Float[Array, "22"],
    height: int,
    width: int,
    scale: Float[Array, "2"] | tuple[float, float],
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Int[Array, "4"]:
    """Makes a random box (top, left, height, width) from 22 numbers uniform in [0, 1).

    Like torchvision's RandomResizedCrop: `scale` is the range of the box's fraction of the image
    area (uniform), `aspect` the range of width over height (log-uniform). After ten tries, falls
    back to the largest centered box with an allowed aspect ratio.
    """
    shares, ratios, place = jnp.split(uniform, (CROP_TRIES, 2 * CROP_TRIES))
    low, high = math.log(aspect[0]), math.log(aspect[1])
    root = jnp.exp((low + (high - low) * ratios) / 2)
    side = jnp.sqrt((scale[0] + (scale[1] - scale[0]) * shares) * (height * width))
    box_height, box_width = jnp.round(side / root), jnp.round(side * root)
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
    drawn = _place_first_fitting(fits, box_height, box_width, height, width, place)

    whole_height = min(height, round(width / aspect[0]))
    whole_width = min(width, round(height * aspect[1]))
    margins = (height - whole_height) // 2, (width - whole_width) // 2
    return jnp.where(fits.any(), drawn, jnp.array([*margins, whole_height, whole_width]))


def erase_box(
    uniform: Float[Array, "202"],
    height: int,
    width: int,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 3.33),
) -> Int[Array, "4"]:
    """Makes a random box (top, left, height, width) from 202 numbers uniform in [0, 1).

    Like the reference's random_erasing.py: `area` is the range of the box's fraction of the image
    area, `aspect` the range of height over width, both uniform. The box is smaller than the image
    in both directions; after 100 failed tries it is empty (all zeros).
    """
    shares, ratios, place = jnp.split(uniform, (ERASE_TRIES, 2 * ERASE_TRIES))
    target = (area[0] + (area[1] - area[0]) * shares) * (height * width)
    ratio = aspect[0] + (aspect[1] - aspect[0]) * ratios
    box_height, box_width = jnp.round(jnp.sqrt(target * ratio)), jnp.round(jnp.sqrt(target / ratio))
    fits = (box_height < height) & (box_width < width)
    drawn = _place_first_fitting(fits, box_height, box_width, height, width, place)
    return jnp.where(fits.any(), drawn, 0)


def erase(
    image: Float[Array, "height width 3"], box: Int[Array, "4"], fill: Float[Array, "3"]
) -> Float[Array, "height width 3"]:
    """Fills the box (top, left, height, width) in a normalized image with one color."""
    return jnp.where(box_mask(box, *image.shape[:2])[..., None], fill, image)


def box_mask(box: Int[Array, "4"], height: int, width: int) -> Bool[Array, "height width"]:
    """True inside the box (top, left, height, width)."""
    row = jnp.arange(height)[:, None] - box[0]
    column = jnp.arange(width) - box[1]
    return (row >= 0) & (row < box[2]) & (column >= 0) & (column < box[3])


def _place_first_fitting(
    fits: Bool[Array, " tries"],
    heights: Float[Array, " tries"],
    widths: Float[Array, " tries"],
    height: int,
    width: int,
    uniform: Float[Array, "2"],
) -> Int[Array, "4"]:
    """Puts the first box that fits at a uniformly random place in the image."""
    size = choose_row(jnp.stack([heights, widths], axis=1), jnp.argmax(fits))
    corner = jnp.floor(uniform * (jnp.array([height, width]) - size + 1))
    return jnp.concatenate([corner, size]).astype(jnp.int32)
