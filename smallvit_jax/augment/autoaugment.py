"""AutoAugment: a random sub-policy of two operations for each image (see `policies`).

The 14 operations are seven kinds of change with parameters. The parameters depend only on the
policy and the image size, so they are precomputed as tables, in double precision like Pillow. Every
image goes through all seven kinds and keeps one result; a batch has images of each kind anyway.

Images are square planes (see `geometry`). The operations are Pillow's as the reference uses them
(utils/autoaug.py, utils/transforms.py); pixels from outside the image are gray 128.
"""

import math
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from smallvit_jax.augment import color
from smallvit_jax.augment.lookup import choose_row, count_levels, map_levels, pick_neighbors
from smallvit_jax.augment.policies import POLICIES, Step

NUMBERS = 5  # uniform numbers per image: sub-policy, whether to apply each step, sign of each step
FILL = 128.0
FIXED = 65536  # Pillow's rotation uses 65536ths of a pixel
TURN, SHIFT, MAP, ADJUST, SHARPEN, AUTOCONTRAST, EQUALIZE = range(7)

_STRENGTHS = np.linspace(0.0, 0.9, 10)
_NONE = np.zeros(10)
# The meaning of levels 0 to 9 for each operation: slope, fraction of the image's side, degrees
# counterclockwise, change of the factor, bits kept, or lowest value that is inverted.
MAGNITUDES = {
    "shearX": np.linspace(0.0, 0.3, 10),
    "shearY": np.linspace(0.0, 0.3, 10),
    "translateX": np.linspace(0.0, 150 / 331, 10),
    "translateY": np.linspace(0.0, 150 / 331, 10),
    "rotate": np.linspace(0.0, 30.0, 10),
    "color": _STRENGTHS,
    "posterize": np.array([8, 8, 7, 7, 6, 6, 5, 5, 4, 4]),
    "solarize": np.linspace(256.0, 0.0, 10),
    "contrast": _STRENGTHS,
    "sharpness": _STRENGTHS,
    "brightness": _STRENGTHS,
    "autocontrast": _NONE,
    "equalize": _NONE,
    "invert": _NONE,
}
ADJUSTMENTS = {
    "brightness": color.BRIGHTNESS,
    "contrast": color.CONTRAST,
    "color": color.SATURATION,
}

_Values = TypeVar("_Values")  # arrays of NumPy or JAX


class Parameters(NamedTuple, Generic[_Values]):
    """One operation: its kind and the parameters of that kind; all others are neutral.

    TURN: pixel (x, y) takes the value at (a x + b y + c, d x + e y + f), where `turn` is
    (a, b, c, d, e, f) in 65536ths of a pixel. SHIFT: row y, or column if `vertical`, moves by
    `shift` + `part` pixels, with `part` below 1. MAP: `added` is added to values below 128, all are
    rounded down to a multiple of `step`, and those from `threshold` on are inverted. ADJUST:
    `adjustment` is one of `color`'s operations, with `factor`. SHARPEN: with `factor`.
    """

    kind: Int[_Values, ""]
    turn: Int[_Values, "6"]
    vertical: Bool[_Values, ""]
    shift: Int[_Values, " size"]
    part: Float[_Values, " size"]
    added: Float[_Values, ""]
    step: Float[_Values, ""]
    threshold: Float[_Values, ""]
    adjustment: Int[_Values, ""]
    factor: Float[_Values, ""]


def autoaugment(
    planes: Float[Array, "size 3 size"], uniform: Float[Array, "5"], policy: str
) -> Float[Array, "size 3 size"]:
    """Applies a random sub-policy of `POLICIES[policy]`, selected by numbers uniform in [0, 1)."""
    steps = [step for sub_policy in POLICIES[policy] for step in sub_policy]
    table = parameter_table(steps, planes.shape[0])
    probabilities = jnp.array([probability for _, probability, _ in steps], jnp.float32)
    sub_policy = jnp.floor(uniform[0] * len(POLICIES[policy])).astype(jnp.int32)

    def change(planes, drawn):
        place, happens, sign = drawn
        step = 2 * sub_policy + place
        applied = happens < choose_row(probabilities, step)
        row = jnp.where(applied, 2 * step + (sign < 0.5), 2 * len(steps))
        return apply(planes, choose_row(table, row)), None

    # With a loop, XLA computes its input and output only once: unrolled, between cropping and
    # normalizing, the two changes took four times as long on a CPU.
    return jax.lax.scan(change, planes, (jnp.arange(2), uniform[1:3], uniform[3:5]))[0]


def parameter_table(steps: list[Step], size: int) -> Parameters[np.ndarray]:
    """Stacks the parameters of each step with signs -1 and 1, and the neutral ones at the end."""
    rows = [
        parameters(name, MAGNITUDES[name][level], sign, size)
        for name, _, level in steps
        for sign in (-1, 1)
    ]
    return jax.tree.map(lambda *values: np.stack(values), *rows, neutral(size))


def neutral(size: int) -> Parameters[np.ndarray | np.generic]:
    """Returns parameters that leave an image with `size` pixels per side unchanged."""
    return Parameters(
        kind=np.int32(MAP),
        turn=np.array([FIXED, 0, 0, 0, FIXED, 0], np.int32),
        vertical=np.bool_(False),
        shift=np.zeros(size, np.int32),
        part=np.zeros(size, np.float32),
        added=np.float32(0.0),
        step=np.float32(1.0),
        threshold=np.float32(256.0),
        adjustment=np.int32(color.BRIGHTNESS),
        factor=np.float32(1.0),
    )


def parameters(
    name: str, magnitude: float, sign: int, size: int
) -> Parameters[np.ndarray | np.generic]:
    """Returns an operation's parameters for square images with `size` pixels per side.

    `sign` (-1 or 1) affects only shears, translations and enhancements: the reference always
    rotates counterclockwise. `magnitude` affects all but the last three entries of `MAGNITUDES`.
    """
    signed = sign * float(magnitude)
    vertical = np.bool_(name.endswith("Y"))
    change: dict[str, Any]
    if name in ("shearX", "shearY"):
        distance = signed * (np.arange(size) + 0.5)
        change = dict(kind=SHIFT, vertical=vertical, **_whole_and_part(distance))
    elif name in ("translateX", "translateY"):
        distance = np.full(size, np.floor(signed * size + 0.5))  # the nearest pixel
        change = dict(kind=SHIFT, vertical=vertical, **_whole_and_part(distance))
    elif name == "rotate":
        change = dict(kind=TURN, turn=_rotation(magnitude, size))
    elif name == "posterize":
        change = dict(step=np.float32(2 ** (8 - magnitude)))
    elif name in ("solarize", "invert"):
        change = dict(threshold=np.float32(magnitude if name == "solarize" else 0))
    elif name in ADJUSTMENTS:
        adjustment, factor = np.int32(ADJUSTMENTS[name]), np.float32(1 + signed)
        change = dict(kind=ADJUST, adjustment=adjustment, factor=factor)
    elif name == "sharpness":
        change = dict(kind=SHARPEN, factor=np.float32(1 + signed))
    else:
        change = dict(kind={"autocontrast": AUTOCONTRAST, "equalize": EQUALIZE}[name])
    change["kind"] = np.int32(change.get("kind", MAP))
    return neutral(size)._replace(**change)


def apply(
    planes: Float[Array, "size 3 size"], parameters: Parameters[Array]
) -> Float[Array, "size 3 size"]:
    """Applies one operation to an image."""
    p = parameters
    # Exact, since values are whole numbers and the step is a power of two.
    added = jnp.where(planes < 128.0, jnp.minimum(planes + p.added, 255.0), planes)
    moved = move(planes, p)
    changed = {
        TURN: moved,
        SHIFT: moved,
        MAP: color.solarize(jnp.floor(added / p.step) * p.step, p.threshold),
        ADJUST: color.adjust(planes, p.adjustment, p.factor),
        SHARPEN: sharpen(planes, p.factor),
        AUTOCONTRAST: stretch(planes),
        EQUALIZE: equalize(planes),
    }
    return jax.lax.select_n(p.kind, *(changed[kind] for kind in range(len(changed))))


def move(
    planes: Float[Array, "size 3 size"], parameters: Parameters[Array]
) -> Float[Array, "size 3 size"]:
    """Applies TURN or SHIFT (see `Parameters`), whichever `parameters.kind` is.

    One function for both, so that they share look-ups. TURN takes the nearest pixel. SHIFT
    interpolates with a cubic through four neighbors, a = -1, and truncates the result to a whole
    number; beyond the edge, neighbors are copies of the last pixel (Pillow's transform).
    """
    p, size = parameters, planes.shape[0]
    turns = p.kind == TURN
    index = jnp.arange(size)
    turned_x = (p.turn[0] * index + p.turn[1] * index[:, None] + p.turn[2]) >> 16
    turned_y = (p.turn[3] * index + p.turn[4] * index[:, None] + p.turn[5]) >> 16
    x = jnp.where(turns, turned_x, index + jnp.where(p.vertical, 0, p.shift[:, None]))
    y = jnp.where(turns, turned_y, index[:, None] + jnp.where(p.vertical, p.shift, 0))
    before, here, after, next_after = pick_neighbors(planes, y, x, p.vertical)

    t = jnp.where(p.vertical, p.part, p.part[:, None])[:, None]
    square = 2.0 * (before - here) + after - next_after
    cube = here - before + next_after - after
    moved = here + t * (after - before + t * (square + t * cube))  # exact if all are equal
    moved = jnp.where(turns, here, jnp.floor(jnp.clip(moved, 0.0, 255.0)))

    up = (t[:, 0] >= 0.5) & ~turns  # to the nearest pixel
    x, y = x + (up & ~p.vertical), y + (up & p.vertical)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    return jnp.where(inside[:, None], moved, FILL)


def sharpen(
    planes: Float[Array, "size 3 size"], factor: Float[Array, ""]
) -> Float[Array, "size 3 size"]:
    """Moves the image away from a smoothed one by a factor (Pillow's `Sharpness`).

    Smoothing weights the pixel by 5/13 and each of its eight neighbors by 1/13; pixels on the edge
    are not smoothed.
    """
    index = jnp.arange(planes.shape[0])
    near = (jnp.abs(index[:, None] - index) <= 1).astype(jnp.float32)
    # Matrix products, because with sums of slices, which XLA computed several times over, all of
    # `apply` took 2.5 times as long on a CPU.
    exact = jax.lax.Precision.HIGHEST
    rows = jnp.einsum("hcw,ph->pcw", planes, near, precision=exact)
    box = jnp.einsum("pcw,ow->pco", rows, near, precision=exact)
    inside = (index > 0) & (index < index[-1])
    smooth = jnp.floor((box + 4.0 * planes) / 13.0 + 0.5)
    smooth = jnp.where(inside[:, None, None] & inside, smooth, planes)
    # The inner clip changes no value, but keeps XLA from fusing product and sum into one operation
    # that rounds once. Pillow rounds twice; fused, 2 % of the values would be off by one level.
    change = jnp.clip(factor * (planes - smooth), -512.0, 512.0)
    return jnp.floor(jnp.clip(smooth + change, 0.0, 255.0))


def stretch(planes: Float[Array, "height 3 width"]) -> Float[Array, "height 3 width"]:
    """Stretches each channel to the full range (Pillow's `autocontrast`).

    If the exact result is a whole number, Pillow's rounding sometimes gives the next lower one: in
    0.4 % of all cases, including the highest value in 15 % of all channels.
    """
    low = planes.min((0, 2), keepdims=True)
    span = planes.max((0, 2), keepdims=True) - low
    stretched = jnp.floor((planes - low) * 255.0 / jnp.maximum(span, 1.0) + 1e-3)
    return jnp.where(span > 0, stretched, planes)


def equalize(planes: Float[Array, "height 3 width"]) -> Float[Array, "height 3 width"]:
    """Equalizes the histogram of each channel (Pillow's `equalize`)."""
    values = planes.astype(jnp.int32)
    counts = count_levels(values)
    below = jnp.cumsum(counts, axis=1) - counts
    # Adding 0.5 keeps rounding errors from pushing whole quotients below the whole number.
    step = jnp.floor((jnp.where(counts > 0, below, 0).max(1, keepdims=True) + 0.5) / 255.0)
    level = jnp.floor((jnp.floor(step / 2.0) + below + 0.5) / jnp.maximum(step, 1.0))
    level = jnp.where(step > 0.0, jnp.minimum(level, 255.0), jnp.arange(256.0))
    return map_levels(values, level)


def _whole_and_part(distance: np.ndarray) -> dict[str, np.ndarray]:
    whole = np.floor(distance)
    return {"shift": whole.astype(np.int32), "part": (distance - whole).astype(np.float32)}


def _rotation(degrees: float, size: int) -> np.ndarray:
    """The affine map of a rotation about the image center, at pixel centers."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    center = size / 2
    x = center + cos * (0.5 - center) - sin * (0.5 - center)
    y = center + sin * (0.5 - center) + cos * (0.5 - center)
    return np.floor(np.array([cos, -sin, x, sin, cos, y]) * FIXED + 0.5).astype(np.int32)
