"""Cropping, resizing, flipping and erasing, each image by its own box.

Inside the pipelines an image is a float32 array of whole numbers 0..255 laid out [height, 3, width]
("planes"): every separable operation then is one matrix product per axis without a transposition,
and the rows of a channel are contiguous. Functions here take one image and scalar parameters;
`jax.vmap` gives the batch.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

CROP_TRIES = 10  # torchvision's RandomResizedCrop gives up after as many
ERASE_TRIES = 100  # the reference's RandomErasing gives up after as many
CROP_NUMBERS = 2 * CROP_TRIES + 2  # uniform numbers that a random crop box is made of
ERASE_NUMBERS = 2 * ERASE_TRIES + 2  # uniform numbers that a random box to erase is made of


def to_planes(
    images: UInt8[Array, "*batch height width 3"],
) -> Float[Array, "*batch height 3 width"]:
    """Returns 8-bit images as float32 planes."""
    return jnp.swapaxes(images, -1, -2).astype(jnp.float32)


def from_planes(
    planes: Float[Array, "*batch height 3 width"],
) -> UInt8[Array, "*batch height width 3"]:
    """Returns planes of whole numbers 0..255 as 8-bit images."""
    return jnp.swapaxes(planes.astype(jnp.uint8), -1, -2)


def filter_planes(
    planes: Float[Array, "height 3 width"],
    vertical: Float[Array, "new_height height"],
    horizontal: Float[Array, "new_width width"],
) -> Float[Array, "new_height 3 new_width"]:
    """Applies one matrix along each axis, and rounds and clips to 0..255 after each.

    The horizontal pass comes first, as in Pillow up to 12.3. Pillow 13 begins with the vertical one
    for some sizes; because of the clipping between the passes this shows at saturated edges.
    """
    exact = jax.lax.Precision.HIGHEST  # whole numbers up to 255 must survive a product with 0 and 1
    rows = round_to_levels(jnp.einsum("hcw,ow->hco", planes, horizontal, precision=exact))
    return round_to_levels(jnp.einsum("hco,ph->pco", rows, vertical, precision=exact))


def round_to_levels(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Rounds halves up and clips to 0..255."""
    return jnp.floor(jnp.clip(values, 0.0, 255.0) + 0.5)


def bicubic_matrix(
    start: Int[Array, ""], length: Int[Array, ""], in_size: int, out_size: int
) -> Float[Array, "out_size in_size"]:
    """Returns the weights that resize a stretch of a row of `in_size` pixels to `out_size`.

    The stretch are the `length` pixels from `start` on; no other pixel is used. Pillow's
    antialiased bicubic filter: a = -1/2, support widened by the reduction.
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
    """Crops a box (top, left, height, width), resizes it to `size` by `size`, and may flip it.

    The same as Pillow's bicubic `resize` of the cropped image, to a level.
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
    """Flips if asked, adds `padding` black pixels on each side, and crops the old size.

    The crop's corner (top, left) lies in 0 .. 2 * padding.
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
    """Makes a random box (top, left, height, width) of 22 numbers uniform in [0, 1).

    As torchvision's RandomResizedCrop: `scale` is the range of the box's share of the image area
    (uniform), `aspect` that of width over height (log-uniform). Ten tries; then the largest centred
    box of an allowed aspect.
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
    """Makes a random box (top, left, height, width) of 202 numbers uniform in [0, 1).

    As the reference's random_erasing.py: `area` is the range of the box's share of the image,
    `aspect` that of height over width, both uniform. The box is smaller than the image in both
    directions; after 100 tries without such a box it is empty (all zero).
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
    """Overwrites the box (top, left, height, width) of a normalised image with one colour."""
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
    """Puts the first box that fits anywhere in the image, all places being equally likely."""
    size = jnp.stack([heights, widths])[:, jnp.argmax(fits)]
    corner = jnp.floor(uniform * (jnp.array([height, width]) - size + 1))
    return jnp.concatenate([corner, size]).astype(jnp.int32)
