"""Noise: Gaussian, shot (Poisson), impulse (salt and pepper) and speckle.

Formulas are from make_cifar_c.py of hendrycks/robustness. Functions take uint8 images and return
values in 0 to 255, which `corrupt` truncates.
"""

import numpy as np
from jaxtyping import Float, UInt8

from smallvit_jax.evaluation.corruptions.draws import Draws

Images = UInt8[np.ndarray, "images size size 3"]
Values = Float[np.ndarray, "images size size 3"]


def gaussian_noise(images: Images, draws: Draws, std: float) -> Values:
    """Adds Gaussian noise; `std` is on a scale of 0 to 1."""
    return _levels(images / 255 + draws.normal(images.shape[1:], std=std))


def shot_noise(images: Images, draws: Draws, photons: float) -> Values:
    """Poisson noise, with a mean count of `photons` at full brightness."""
    return _levels(draws.poisson(images / 255 * photons) / photons)


def impulse_noise(images: Images, draws: Draws, amount: float) -> Values:
    """Sets a fraction `amount` of all values to 0 or 255, independently for each channel."""
    hit = draws.uniform(0, 1, images.shape[1:]) < amount
    salt = draws.uniform(0, 1, images.shape[1:]) < 0.5
    return np.where(hit, np.where(salt, 255, 0), images)


def speckle_noise(images: Images, draws: Draws, std: float) -> Values:
    """Adds Gaussian noise proportional to the brightness."""
    unit = images / 255
    return _levels(unit + unit * draws.normal(images.shape[1:], std=std))


def _levels(unit: Values) -> Values:
    return np.clip(unit, 0, 1) * 255
