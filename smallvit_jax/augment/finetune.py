"""Augmentation for supervised training, and preprocessing for evaluation."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from smallvit_jax.augment import autoaugment, color, geometry, randaugment


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """Settings of the augmentation; defaults except `policy` are the reference's for CIFAR-10.

    `policy` is "none", AutoAugment's "cifar10", "svhn" or "imagenet", or "randaugment". `flip` and
    `erase` are probabilities. `crop_padding` is in pixels; 0 means no crop. `erase_area` is the
    range of the erased fraction of the image, `erase_aspect` the range of height over width.
    `erase_fill` is "mean" (0, the normalized mean) or "reference": the mean before normalization,
    which the reference writes into already normalized images (random_erasing.py:37-39).
    """

    image_size: int = 32
    flip: float = 0.5
    crop_padding: int = 4
    policy: str = "none"
    erase: float = 0.25
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 3.33)
    erase_fill: str = "reference"
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)


def augment_batch(
    images: UInt8[Array, "batch height width 3"], key: jax.Array, settings: AugmentSettings
) -> Float[Array, "batch size size 3"]:
    """Returns the images flipped, cropped, changed by the policy, normalized, and erased.

    Everything but normalization is random. Float32; images not of size `settings.image_size` are
    resized first. The result for image i depends only on `key` and i.
    """
    planes = resize(geometry.to_planes(images), settings.image_size)
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda image, k: _augment(image, k, settings))(planes, keys)


def evaluation_batch(
    images: UInt8[Array, "batch height width 3"],
    image_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[Array, "batch size size 3"]:
    """Returns the images resized if necessary and normalized, as float32."""
    return color.normalize(resize(geometry.to_planes(images), image_size), mean, std)


def resize(
    planes: Float[Array, "batch height 3 width"], size: int
) -> Float[Array, "batch size 3 size"]:
    """Resizes whole images to `size` by `size` (bicubic) unless they already have that size."""
    height, width = planes.shape[1], planes.shape[3]
    if (height, width) == (size, size):
        return planes
    box = jnp.array([0, 0, height, width])
    return jax.vmap(lambda image: geometry.crop_and_resize(image, box, size))(planes)


def _augment(
    planes: Float[Array, "size 3 size"], key: jax.Array, settings: AugmentSettings
) -> Float[Array, "size size 3"]:
    size, padding = settings.image_size, settings.crop_padding
    uniform = jax.random.uniform(key, (4 + geometry.ERASE_NUMBERS,))
    flip, top, left, erase = uniform[:4]
    row, column = jnp.floor(jnp.stack([top, left]) * (2 * padding + 1)).astype(jnp.int32)
    planes = geometry.pad_and_crop(planes, row, column, padding, flip < settings.flip)
    if settings.policy != "none":
        planes = _change(planes, jax.random.fold_in(key, 1), settings.policy)
    image = color.normalize(planes, settings.mean, settings.std)
    if settings.erase == 0:
        return image
    box = geometry.erase_box(uniform[4:], size, size, settings.erase_area, settings.erase_aspect)
    fill = jnp.array(settings.mean if settings.erase_fill == "reference" else (0.0, 0.0, 0.0))
    return jnp.where(erase < settings.erase, geometry.erase(image, box, fill), image)


def _change(
    planes: Float[Array, "size 3 size"], key: jax.Array, policy: str
) -> Float[Array, "size 3 size"]:
    if policy == "randaugment":
        return randaugment.randaugment(planes, jax.random.uniform(key, (randaugment.NUMBERS,)))
    drawn = jax.random.uniform(key, (autoaugment.NUMBERS,))
    return autoaugment.autoaugment(planes, drawn, policy)
