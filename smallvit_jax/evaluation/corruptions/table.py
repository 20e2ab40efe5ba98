"""The table of corruptions: each kind's function, and its constants at each severity.

Constants are from make_cifar_c.py (32 pixels) and make_tinyimagenet_c.py (64 pixels) of
hendrycks/robustness. It has none for other sizes, whose errors could not be compared to others.
"""

from collections.abc import Callable
from typing import NamedTuple

from smallvit_jax.evaluation.corruptions import blur, color, digital, noise, weather
from smallvit_jax.evaluation.corruptions.spatter import spatter

SEVERITIES = (1, 2, 3, 4, 5)
SIZES = (32, 64)  # pixels per side


class Corruption(NamedTuple):
    """A function of (images, draws, *constants), and its constants by size and severity."""

    function: Callable
    constants: dict[int, tuple[tuple, ...]]


def _same(*constants: tuple) -> dict[int, tuple[tuple, ...]]:
    return {size: constants for size in SIZES}


def _each(*values: float) -> tuple[tuple, ...]:
    return tuple((value,) for value in values)


_SNOW = (  # mean, std, zoom, threshold, radius, sigma; `_snow` appends how much to keep
    (0.1, 0.2, 1, 0.6, 8, 3),
    (0.1, 0.2, 1, 0.5, 10, 4),
    (0.15, 0.3, 1.75, 0.55, 10, 4),
    (0.25, 0.3, 2.25, 0.6, 12, 6),
    (0.3, 0.3, 1.25, 0.65, 14, 12),
)


def _snow(*keep: float) -> tuple[tuple, ...]:
    return tuple((*flakes, part) for flakes, part in zip(_SNOW, keep, strict=True))


# The benchmark's kinds, in the paper's order.
_BENCHMARK = {
    "gaussian_noise": Corruption(
        noise.gaussian_noise,
        {32: _each(0.04, 0.06, 0.08, 0.09, 0.10), 64: _each(0.04, 0.08, 0.12, 0.15, 0.18)},
    ),
    "shot_noise": Corruption(
        noise.shot_noise, {32: _each(500, 250, 100, 75, 50), 64: _each(250, 100, 50, 30, 15)}
    ),
    "impulse_noise": Corruption(
        noise.impulse_noise,
        {32: _each(0.01, 0.02, 0.03, 0.05, 0.07), 64: _each(0.01, 0.02, 0.05, 0.08, 0.14)},
    ),
    "defocus_blur": Corruption(
        blur.defocus_blur,
        {
            32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        },
    ),
    "glass_blur": Corruption(
        blur.glass_blur,
        {
            32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
            64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        },
    ),
    "motion_blur": Corruption(
        blur.motion_blur,
        {
            32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        },
    ),
    "zoom_blur": Corruption(blur.zoom_blur, _same(*_each(1.06, 1.11, 1.16, 1.21, 1.26))),
    "snow": Corruption(
        weather.snow, {32: _snow(0.95, 0.9, 0.9, 0.85, 0.8), 64: _snow(0.8, 0.8, 0.7, 0.65, 0.6)}
    ),
    "frost": Corruption(
        weather.frost,
        {
            32: (
                (1, 0.2, 0.2),
                (1, 0.3, 0.2),
                (0.9, 0.4, 0.2),
                (0.85, 0.4, 0.2),
                (0.75, 0.45, 0.2),
            ),
            64: (
                *((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3)),
                *((0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
            ),
        },
    ),
    "fog": Corruption(
        weather.fog,
        {
            32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
            64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        },
    ),
    "brightness": Corruption(
        color.brightness,
        {32: _each(0.05, 0.1, 0.15, 0.2, 0.3), 64: _each(0.1, 0.2, 0.3, 0.4, 0.5)},
    ),
    "contrast": Corruption(
        color.contrast,
        {32: _each(0.75, 0.5, 0.4, 0.3, 0.15), 64: _each(0.4, 0.3, 0.2, 0.1, 0.05)},
    ),
    "elastic_transform": Corruption(
        digital.elastic_transform,
        {
            32: (
                *((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06)),
                *((0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
            ),
            64: (
                *((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06)),
                *((0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
            ),
        },
    ),
    "pixelate": Corruption(
        digital.pixelate,
        {32: _each(0.95, 0.9, 0.85, 0.75, 0.65), 64: _each(0.9, 0.8, 0.7, 0.6, 0.5)},
    ),
    "jpeg_compression": Corruption(
        digital.jpeg_compression, {32: _each(80, 65, 58, 50, 40), 64: _each(65, 58, 50, 40, 25)}
    ),
}

# The benchmark's extra kinds, meant for validation.
_VALIDATION = {
    "speckle_noise": Corruption(
        noise.speckle_noise,
        {32: _each(0.06, 0.1, 0.12, 0.16, 0.2), 64: _each(0.15, 0.2, 0.25, 0.3, 0.35)},
    ),
    "gaussian_blur": Corruption(
        blur.gaussian_blur,
        {32: _each(0.4, 0.6, 0.7, 0.8, 1), 64: _each(0.5, 0.75, 1, 1.25, 1.5)},
    ),
    "spatter": Corruption(
        spatter,
        {
            32: (
                (0.62, 0.1, 0.7, 0.7, 0.5, False),
                (0.65, 0.1, 0.8, 0.7, 0.5, False),
                (0.65, 0.3, 1, 0.69, 0.5, False),
                (0.65, 0.1, 0.7, 0.69, 0.6, True),
                (0.65, 0.1, 0.5, 0.68, 0.6, True),
            ),
            64: (
                (0.62, 0.1, 0.7, 0.7, 0.6, False),
                (0.65, 0.1, 0.8, 0.7, 0.6, False),
                (0.65, 0.3, 1, 0.69, 0.6, False),
                (0.65, 0.1, 0.7, 0.68, 0.6, True),
                (0.65, 0.1, 0.5, 0.67, 0.6, True),
            ),
        },
    ),
    "saturate": Corruption(
        color.saturate,
        {
            32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
            64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        },
    ),
}

BENCHMARK_KINDS = tuple(_BENCHMARK)  # 15
KINDS = (*BENCHMARK_KINDS, *_VALIDATION)  # 19
CORRUPTIONS = _BENCHMARK | _VALIDATION
