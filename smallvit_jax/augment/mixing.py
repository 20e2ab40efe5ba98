"""Mixup and cutmix for whole batches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from smallvit_jax.augment.geometry import box_mask


def mix_batch(
    images: Float[Array, "batch height width 3"],
    labels: Int[Array, " batch"],
    key: jax.Array,
    mix_probability: float,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[
    Float[Array, "batch height width 3"],
    Int[Array, " batch"],
    Int[Array, " batch"],
    Float[Array, ""],
]:
    """Returns (images, labels_a, labels_b, lam), where lam is the weight of labels_a in the loss.

    With probability `mix_probability`, mixes the whole batch with a permutation of itself, by mixup
    (arXiv:1710.09412) or cutmix (arXiv:1905.04899) with equal probability, or by the one whose
    alpha is not 0. lam ~ Beta(alpha, alpha). Otherwise, returns the batch unchanged, with lam 1.
    """
    if mix_probability == 0 or (mixup_alpha == 0 and cutmix_alpha == 0):
        return images, labels, labels, jnp.float32(1.0)
    height, width = images.shape[1:3]
    chance_key, lam_key, center_key, permutation_key = jax.random.split(key, 4)
    uniform = jax.random.uniform(chance_key, (2,))
    mixed = uniform[0] < mix_probability
    cutmix_share = 0.5 if mixup_alpha and cutmix_alpha else float(mixup_alpha == 0)
    cut = uniform[1] < cutmix_share

    mixup_key, cutmix_key = jax.random.split(lam_key)
    mixup_lam = _draw_lam(mixup_key, mixup_alpha)
    center = jnp.floor(jax.random.uniform(center_key, (2,)) * jnp.array([height, width]))
    cutmix_lam = _draw_lam(cutmix_key, cutmix_alpha)
    row, column = center
    box, cutmix_lam = cut_box(cutmix_lam, row, column, height, width)

    # Both are a weighted sum with the permuted batch: mixup with one weight for all pixels, cutmix
    # with a weight of 1 or 0 per pixel.
    lam = jnp.where(mixed, jnp.where(cut, cutmix_lam, mixup_lam), 1.0)
    weight = jnp.where(mixed & cut, 1.0 - box_mask(box, height, width), lam)
    permutation = jax.random.permutation(permutation_key, len(images))
    labels_b = jnp.where(mixed, labels[permutation], labels)
    return _weighted_sum(images, permutation, weight), labels, labels_b, lam


def mixup(
    images: Float[Array, "batch height width 3"],
    permutation: Int[Array, " batch"],
    lam: Float[Array, ""] | float,
) -> Float[Array, "batch height width 3"]:
    """Returns lam * images + (1 - lam) * the permuted images."""
    return _weighted_sum(images, permutation, jnp.full(images.shape[1:3], lam))


def cutmix(
    images: Float[Array, "batch height width 3"],
    permutation: Int[Array, " batch"],
    box: Int[Array, "4"],
) -> Float[Array, "batch height width 3"]:
    """Returns the images with the box (top, left, height, width) taken from the permuted images."""
    return _weighted_sum(images, permutation, 1.0 - box_mask(box, *images.shape[1:3]))


def cut_box(
    lam: Float[Array, ""] | float,
    row: Int[Array, ""] | int,
    column: Int[Array, ""] | int,
    height: int,
    width: int,
) -> tuple[Int[Array, "4"], Float[Array, ""]]:
    """Returns cutmix's box (top, left, height, width) and the lam that matches its area.

    Before clipping to the image, the box covers a fraction 1 - lam of it; a lam near 1 gives an
    empty box. Sides and half sides are truncated to whole pixels as in the reference's `rand_bbox`
    (mix.py), whose "W" is the row axis.
    """
    size = jnp.array([height, width])
    center = jnp.stack([jnp.asarray(row), jnp.asarray(column)]).astype(jnp.int32)
    half = jnp.floor(size * jnp.sqrt(1.0 - lam)).astype(jnp.int32) // 2
    low, high = jnp.clip(center - half, 0, size), jnp.clip(center + half, 0, size)
    sides = high - low
    return jnp.concatenate([low, sides]), 1.0 - sides[0] * sides[1] / (height * width)


def _weighted_sum(
    images: Float[Array, "batch height width 3"],
    permutation: Int[Array, " batch"],
    weight: Float[Array, "height width"],
) -> Float[Array, "batch height width 3"]:
    weight = weight[..., None].astype(images.dtype)
    return weight * images + (1 - weight) * images[permutation]


def _draw_lam(key: jax.Array, alpha: float) -> Float[Array, ""]:
    """Draws from Beta(alpha, alpha); Beta(1, 1) is uniform."""
    if alpha in (0, 1):  # 0: lam is not used
        return jax.random.uniform(key)
    return jax.random.beta(key, alpha, alpha)
