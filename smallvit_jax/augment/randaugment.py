"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719), like timm's "rand-m9-mstd0.5-inc1".

Draws two of fifteen operations for each image, with replacement; each is applied with probability
0.5, at a level from a normal distribution with mean 9 and standard deviation 0.5, clipped to 0..10.
A higher level changes an image more ("increasing"). Two things differ from timm because the
operations are those of `autoaugment` (and one more): rotations use the nearest pixel and shears and
translations are always bicubic, while timm draws bilinear or bicubic; and pixels from outside the
image are gray 128, while timm uses the dataset's mean.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from smallvit_jax.augment import autoaugment, color
from smallvit_jax.augment.autoaugment import Parameters
from smallvit_jax.augment.lookup import choose_row

OPERATIONS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness"),
    *("shearX", "shearY", "translateX", "translateY"),
)
STEPS = 2  # operations per image
NUMBERS = 4 * STEPS  # uniform numbers per image: operation, whether, level and sign, twice
PROBABILITY = 0.5
LEVEL, LEVEL_SPREAD, HIGHEST = 9.0, 0.5, 10.0

_KINDS = {
    "autocontrast": autoaugment.AUTOCONTRAST,
    "equalize": autoaugment.EQUALIZE,
    "rotate": autoaugment.TURN,
    "sharpness": autoaugment.SHARPEN,
    **dict.fromkeys(autoaugment.ADJUSTMENTS, autoaugment.ADJUST),
    **dict.fromkeys(("shearX", "shearY", "translateX", "translateY"), autoaugment.SHIFT),
    **dict.fromkeys(("invert", "posterize", "solarize", "solarize_add"), autoaugment.MAP),
}


def randaugment(
    planes: Float[Array, "size 3 size"], uniform: Float[Array, "8"]
) -> Float[Array, "size 3 size"]:
    """Applies random operations, selected by numbers uniform in [0, 1)."""

    def change(planes, numbers):
        return autoaugment.apply(planes, draw(numbers, planes.shape[0])), None

    # A loop, for the same reason as in `autoaugment`.
    return jax.lax.scan(change, planes, uniform.reshape(STEPS, 4))[0]


def draw(uniform: Float[Array, "4"], size: int) -> Parameters[Array]:
    """Draws the parameters of one operation on an image with `size` pixels per side; neutral ones
    if it is not applied."""
    which, happens, level, sign = uniform
    operation = jnp.floor(which * len(OPERATIONS)).astype(jnp.int32)
    level = LEVEL + LEVEL_SPREAD * jax.scipy.special.ndtri(level)
    chosen = parameters(operation, level, jnp.where(sign < 0.5, -1.0, 1.0), size)
    # Otherwise XLA may compute the parameters again for each pixel, which takes longer on a CPU.
    chosen = jax.lax.optimization_barrier(chosen)
    return jax.tree.map(
        lambda *values: jnp.where(happens < PROBABILITY, *values),
        chosen,
        autoaugment.neutral(size),
    )


def parameters(
    operation: Int[Array, ""] | int, level: Float[Array, ""] | float, sign: Array | float, size: int
) -> Parameters[Array]:
    """Returns an operation's parameters for square images with `size` pixels per side.

    `operation` is an index into `OPERATIONS`. At level 10, where levels are clipped: rotations of
    30 degrees, shears of 0.3, translations of 0.45 of the side, factors 1 ± 0.9, 0 bits kept,
    solarizing from 0 on, and 110 added to values below 128. `sign` (-1 or 1) affects the first
    four.
    """
    strength = jnp.clip(level, 0.0, HIGHEST) / HIGHEST
    signed = sign * strength

    def applies(*names: str) -> Array:
        return jnp.isin(operation, jnp.array([OPERATIONS.index(name) for name in names]))

    distance = jnp.where(
        applies("shearX", "shearY"), 0.3 * signed * (jnp.arange(size) + 0.5), 0.45 * signed * size
    )
    distance = jnp.where(applies("shearX", "shearY", "translateX", "translateY"), distance, 0.0)
    whole = jnp.floor(distance)
    bits = jnp.where(applies("posterize"), 4 - jnp.floor(4 * strength), 8)
    threshold = jnp.where(applies("solarize"), 256 - jnp.floor(256 * strength), 256.0)
    kinds = jnp.array([_KINDS[name] for name in OPERATIONS], jnp.int32)
    adjustments = [autoaugment.ADJUSTMENTS.get(name, color.BRIGHTNESS) for name in OPERATIONS]
    return Parameters(
        kind=choose_row(kinds, operation),
        turn=_rotation(jnp.where(applies("rotate"), jnp.radians(30.0 * signed), 0.0), size),
        vertical=applies("shearY", "translateY"),
        shift=whole.astype(jnp.int32),
        part=distance - whole,
        added=jnp.where(applies("solarize_add"), jnp.floor(110 * strength), 0.0),
        step=jnp.exp2(8.0 - bits),
        threshold=jnp.where(applies("invert"), 0.0, threshold),
        adjustment=choose_row(jnp.array(adjustments, jnp.int32), operation),
        factor=1 + 0.9 * signed,
    )


def _rotation(angle: Float[Array, ""], size: int) -> Int[Array, "6"]:
    """`autoaugment._rotation`, on the device and for radians."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    center = size / 2
    x = center + (cos - sin) * (0.5 - center)
    y = center + (sin + cos) * (0.5 - center)
    rows = jnp.stack([cos, -sin, x, sin, cos, y])
    return jnp.floor(rows * autoaugment.FIXED + 0.5).astype(jnp.int32)
