"""Color operations with Pillow's 8-bit semantics, on planes (see `geometry`).

Every operation takes and returns one image of float32 whole numbers 0..255, laid out [height, 3,
width], and takes scalar parameters; use `jax.vmap` for batches. All intermediate whole numbers stay
below 2^24, so float32 represents them exactly.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smallvit_jax.augment.geometry import filter_planes

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def luma(planes: Float[Array, "height 3 width"]) -> Float[Array, "height 1 width"]:
    """The gray image: ITU-R 601 weights in 16-bit fixed point, rounded (Pillow's mode "L")."""
    red, green, blue = _channels(planes)
    return jnp.floor((19595.0 * red + 38470.0 * green + 7471.0 * blue + 32768.0) * 2.0**-16)


def adjust(
    planes: Float[Array, "height 3 width"], operation: Int[Array, ""], factor: Float[Array, ""]
) -> Float[Array, "height 3 width"]:
    """Changes brightness, contrast or saturation (`operation` 0, 1, 2) by a factor.

    All three move the image away from a degenerate one: black, its mean gray, or its gray image
    (Pillow's `ImageEnhance`); a factor of 1 changes nothing. The result is truncated to a whole
    number, not rounded.
    """
    gray = luma(planes)
    count = gray.shape[0] * gray.shape[2]
    mean = jnp.floor(gray.astype(jnp.int32).sum() / count + 0.5)
    flat = jnp.where(operation == CONTRAST, mean, 0.0)
    target = jnp.where(operation == SATURATION, gray, flat)
    return jnp.floor(jnp.clip(target + factor * (planes - target), 0.0, 255.0))


def adjust_hue(
    planes: Float[Array, "height 3 width"], hue: Float[Array, ""]
) -> Float[Array, "height 3 width"]:
    """Rotates the hue by `hue` of a full circle (-0.5..0.5), via Pillow's 8-bit HSV.

    Hue, saturation and rotation are truncated to 8 bits as in Pillow and torchvision. If the hue is
    exactly a whole number of levels, Pillow's rounding may give the next lower one: 0.3 % of all
    colors differ by one level of hue.
    """
    red, green, blue = _channels(planes)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    sixth = jnp.where(
        red == value,
        green - blue,
        jnp.where(green == value, blue - red + 2.0 * chroma, red - green + 4.0 * chroma),
    )
    sixth = jnp.where(sixth < 0.0, sixth + 6.0 * chroma, sixth)
    # The quotients' fractions are multiples of 1/510 or more, so the 1e-3 changes no exact quotient
    # but protects whole ones from a division that is not correctly rounded.
    angle = jnp.floor(sixth * 42.5 / jnp.maximum(chroma, 1.0) + 1e-3) + jnp.trunc(hue * 255.0)
    angle = angle - 256.0 * jnp.floor(angle * (1.0 / 256.0))
    saturation = jnp.floor(chroma * 255.0 / jnp.maximum(value, 1.0) + 1e-3)

    # Each channel is value * (1 - saturation * weight), where the weight rises from 0 to 1 with the
    # distance from the hues at which the channel is at its maximum.
    offset = jnp.array([5.0, 3.0, 1.0])[:, None]
    distance = angle * (6.0 / 255.0) + offset
    distance = jnp.where(distance >= 6.0, distance - 6.0, distance)
    weight = jnp.clip(jnp.minimum(distance, 4.0 - distance), 0.0, 1.0)
    return jnp.floor(value - value * (saturation * (1.0 / 255.0)) * weight + 0.5)


def color_jitter(
    planes: Float[Array, "height 3 width"],
    order: Int[Array, "4"],
    factors: Float[Array, "3"],
    hue: Float[Array, ""],
    apply: Bool[Array, ""] | bool = True,
) -> Float[Array, "height 3 width"]:
    """Changes brightness, contrast and saturation by `factors` and rotates the hue.

    `order` is the order of the four: a permutation of 0..3 (brightness, contrast, saturation, hue).
    """
    # The loop computes everything in each step and selects: on a CPU, it took a third of the time
    # of six unrolled adjustments around a single change of hue.
    strengths = jnp.where(apply, jnp.append(factors, 1.0)[order], 1.0)

    def change(planes, step):
        operation, factor = step
        turned = jnp.where(apply, adjust_hue(planes, hue), planes)
        return jnp.where(operation == HUE, turned, adjust(planes, operation, factor)), None

    return jax.lax.scan(change, planes, (order, strengths))[0]


def solarize(
    planes: Float[Array, "height 3 width"], threshold: Float[Array, ""] | float = 128.0
) -> Float[Array, "height 3 width"]:
    """Inverts values of at least `threshold`."""
    return jnp.where(planes >= threshold, 255.0 - planes, planes)


def gaussian_blur(
    planes: Float[Array, "height 3 width"], radius: Float[Array, ""]
) -> Float[Array, "height 3 width"]:
    """Blurs like Pillow's `GaussianBlur(radius)`; radius 0 leaves the image unchanged."""
    height, _, width = planes.shape
    vertical = blur_matrix(radius, height)
    horizontal = vertical if width == height else blur_matrix(radius, width)
    return filter_planes(planes, vertical, horizontal)


def blur_matrix(radius: Float[Array, ""], size: int) -> Float[Array, "size size"]:
    """Three passes of an extended box blur with replicated edges, as one matrix.

    Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering"
    (2011), equations 7, 11 and 14. Pillow rounds after each pass, this code only once per
    direction, so single values differ by a level or two (half a level on average at radius 1).
    """
    variance = radius * radius / 3.0
    whole = jnp.floor((jnp.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
    part = part / (6.0 * (variance - (whole + 1.0) ** 2))
    half = whole + part + 0.5  # half the box's length

    # A pixel's weight is its overlap with the box; the first and last pixels extend to infinity.
    index = jnp.arange(size)
    left = jnp.where(index == 0, -jnp.inf, index - 0.5) - index[:, None]
    right = jnp.where(index == size - 1, jnp.inf, index + 0.5) - index[:, None]
    box = (jnp.clip(right, -half, half) - jnp.clip(left, -half, half)) / (2.0 * half)
    exact = jax.lax.Precision.HIGHEST
    return jnp.matmul(jnp.matmul(box, box, precision=exact), box, precision=exact)


def normalize(
    planes: Float[Array, "height 3 width"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[Array, "height width 3"]:
    """Maps 0..255 to (x / 255 - mean) / std per channel, and moves the channels last."""
    shift, scale = jnp.asarray(mean), jnp.asarray(std)
    return (jnp.swapaxes(planes, -1, -2) * (1.0 / 255.0) - shift) / scale


def _channels(planes: Float[Array, "height 3 width"]) -> tuple[Float[Array, "height 1 width"], ...]:
    return planes[:, 0:1], planes[:, 1:2], planes[:, 2:3]
