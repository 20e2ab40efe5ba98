"""Our counterpart of each recorded reference image, by the recording's name."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from smallvit_jax.augment import autoaugment, color, geometry
from tests.augment.reference_ops import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    recorded,
    recorded_autoaugment,
    recorded_notes,
)

ADJUSTMENTS = {"brightness": 0, "contrast": 1, "saturation": 2}

_adjust = jax.jit(color.adjust)
_adjust_hue = jax.jit(color.adjust_hue)
_apply_autoaugment = jax.jit(autoaugment.apply)
_blur = jax.jit(color.gaussian_blur)
_crop_and_resize = jax.jit(geometry.crop_and_resize, static_argnums=2)
_erase = jax.jit(geometry.erase)
_jitter = jax.jit(color.color_jitter)
_normalize = jax.jit(color.normalize, static_argnums=(1, 2))
_pad_and_crop = jax.jit(geometry.pad_and_crop, static_argnames="padding")


def our_image(name: str) -> np.ndarray:
    """Our output for the recorded input: [height, width, 3], uint8 if Pillow's is."""
    for pattern, ours in _OURS.items():
        if match := re.fullmatch(pattern, name):
            return np.asarray(ours(*match.groups()))
    raise KeyError(name)


def recorded_image(name: str) -> np.ndarray:
    """The reference's image in our layout."""
    image = (recorded_autoaugment() if name.startswith("aa") else recorded())[name]
    return image if image.dtype == np.uint8 else image.transpose(1, 2, 0)


def names(pattern: str) -> list[str]:
    """The recorded names that fully match a regular expression, in order."""
    both = [*recorded(), *recorded_autoaugment()]
    return [name for name in both if re.fullmatch(pattern, name)]


def autoaugmented(image: np.ndarray, name: str, magnitude: float, sign: int = 1) -> jax.Array:
    change = autoaugment.parameters(name, magnitude, sign, len(image))
    return geometry.from_planes(_apply_autoaugment(geometry.to_planes(image), change))


def crop(size: str, box: str, to: str, flip: bool = False) -> jax.Array:
    """`size` and `to` are pixels per side, `box` is "top_left_height_width"."""
    planes = geometry.to_planes(recorded()[f"image{size}"])
    box = jnp.array([int(number) for number in box.split("_")])
    return geometry.from_planes(_crop_and_resize(planes, box, int(to), flip))


def image32() -> jax.Array:
    return geometry.to_planes(recorded()["image32"])


def _color(operation: Callable, *args) -> jax.Array:
    return geometry.from_planes(operation(image32(), *args))


def _blurred16(radius: str) -> jax.Array:
    planes = geometry.to_planes(recorded()["rrc32_3_5_20_24_to16"])
    return geometry.from_planes(_blur(planes, float(radius)))


def _padded_crop(top: str, left: str) -> jax.Array:
    return geometry.from_planes(_pad_and_crop(image32(), int(top), int(left), padding=4))


def _erased(name: str) -> jax.Array:
    note = recorded_notes()[name]
    box = jnp.array([note["x1_row"], note["y1_col"], note["h"], note["w"]])
    return _erase(_normalize(image32(), CIFAR10_MEAN, CIFAR10_STD), box, jnp.array(note["fill"]))


def _autoaugment_at_level(name: str, level: str, sign: str | None) -> jax.Array:
    magnitude = autoaugment.MAGNITUDES[name][int(level)]
    return autoaugmented(recorded()["image32"], name, magnitude, -1 if sign == "_neg" else 1)


def _autoaugment_64(name: str) -> jax.Array:
    magnitude = float(recorded_notes()[f"aa64_{name}"].rsplit(" ", 1)[1])
    return autoaugmented(recorded()["image64"], name, magnitude)


_OURS = {
    r"(brightness|contrast|saturation)_(.+)": lambda name, factor: _color(
        _adjust, ADJUSTMENTS[name], float(factor)
    ),
    r"hue_(.+)": lambda turn: _color(_adjust_hue, float(turn)),
    r"jitter_chain_b(.+)_c(.+)_s(.+)_h(.+)": lambda *numbers: _color(
        _jitter, jnp.arange(4), jnp.array([float(n) for n in numbers[:3]]), float(numbers[3])
    ),
    r"grayscale3": lambda: _color(lambda x: jnp.broadcast_to(color.luma(x), x.shape)),
    r"solarize128": lambda: _color(color.solarize),
    r"gaussblur_(.+)": lambda radius: _color(_blur, float(radius)),
    r"gaussblur16_(.+)": _blurred16,
    r"hflip": lambda: _color(lambda x: geometry.pad_and_crop(x, 0, 0, padding=0, flip=True)),
    r"rrc(\d+)_(\d+_\d+_\d+_\d+)_to(\d+)": crop,
    r"randomcrop_pad4_(\d)_(\d)": _padded_crop,
    r"totensor_normalize_cifar10": lambda: _normalize(image32(), CIFAR10_MEAN, CIFAR10_STD),
    r"(erase_\d)": _erased,
    r"aa_(\w+)_m(\d)(_pos|_neg)?": _autoaugment_at_level,
    r"aa_(\w+)_lowcontrast": lambda name: autoaugmented(recorded()["image32_lowcontrast"], name, 0),
    r"aa64_(\w+)": _autoaugment_64,
}
