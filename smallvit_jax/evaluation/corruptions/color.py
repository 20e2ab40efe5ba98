"""Color: brightness, saturation and contrast.

Formulas are from make_cifar_c.py of hendrycks/robustness. Functions take uint8 images and return
values in 0 to 255, which `corrupt` truncates.
"""

import numpy as np
from jaxtyping import Float, UInt8

from smallvit_jax.evaluation.corruptions.draws import Draws

Images = UInt8[np.ndarray, "images size size 3"]
Values = Float[np.ndarray, "images size size 3"]


def brightness(images: Images, draws: Draws, more: float) -> Values:
    """Adds `more` to the HSV value, which is in 0 to 1."""
    hue, saturation, value = _to_hsv(images / 255)
    return _from_hsv(hue, saturation, np.clip(value + more, 0, 1)) * 255


def saturate(images: Images, draws: Draws, factor: float, more: float) -> Values:
    """Multiplies the HSV saturation by `factor` and adds `more`."""
    hue, saturation, value = _to_hsv(images / 255)
    return _from_hsv(hue, np.clip(saturation * factor + more, 0, 1), value) * 255


def contrast(images: Images, draws: Draws, factor: float) -> Values:
    """Scales each channel's deviation from its mean over the image by `factor`."""
    unit = images / 255
    mean = unit.mean(axis=(1, 2), keepdims=True)
    return np.clip((unit - mean) * factor + mean, 0, 1) * 255


def _to_hsv(unit: Values) -> tuple[Float[np.ndarray, "images size size"], ...]:
    """Returns hue, saturation and value, each in 0 to 1; gray has hue 0."""
    red, green, blue = np.moveaxis(unit, -1, 0)
    value = unit.max(axis=-1)
    spread = value - unit.min(axis=-1)
    divisor = np.where(spread == 0, 1, spread)
    hue = np.select(
        [blue == value, green == value],
        [4 + (red - green) / divisor, 2 + (blue - red) / divisor],
        (green - blue) / divisor,
    )
    gray = spread == 0
    saturation = np.where(gray, 0, spread / np.where(value == 0, 1, value))
    return np.where(gray, 0, (hue / 6) % 1), saturation, value


def _from_hsv(hue, saturation, value) -> Values:
    sector = np.floor(hue * 6)
    part = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - part * saturation)
    rising = value * (1 - (1 - part) * saturation)
    sectors = [sector % 6 == number for number in range(6)]
    channels = (
        (value, falling, low, low, rising, value),
        (rising, value, value, falling, low, low),
        (low, low, rising, value, value, falling),
    )
    return np.stack([np.select(sectors, channel) for channel in channels], axis=-1)
