"""Named initialisation schemes: which distribution each kind of parameter starts from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.nn import initializers

from smallvit_jax.errors import UserError, did_you_mean

Initializer = Callable[..., jax.Array]


def uniform_fan_in(fan_in: int) -> Initializer:
    """PyTorch's default for convolutions and linear layers: U(-1, 1) / sqrt(fan_in), biases too."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jax.numpy.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Scheme(NamedTuple):
    """Initialisers by kind of parameter; biases of linear layers are zero in every scheme."""

    kernel: Initializer
    """Kernels of linear layers."""
    token: Initializer
    """The class token and the position embedding."""


SCHEMES = {
    # std .02 without truncation: the reference's bounds are absolute, at ±2 = 100 standard
    # deviations (utils/utils_ssl.py:570). Convolutional patch embeddings keep `uniform_fan_in`.
    "reference": Scheme(kernel=initializers.normal(0.02), token=initializers.normal(0.02)),
    # A width of 64 at std .02 shrinks every signal to nothing and self-distillation collapses;
    # std 1/sqrt(fan in) keeps its size at any width (LeCun et al., "Efficient BackProp", 1998).
    # Class token and positions are signals themselves, not weights, so they start at size 1.
    "fan_in": Scheme(
        kernel=initializers.variance_scaling(1.0, "fan_in", "normal"),
        token=initializers.normal(1.0),
    ),
}


def get_scheme(name: str) -> Scheme:
    """Looks a scheme up by name; raises `UserError` for an unknown one."""
    if name not in SCHEMES:
        raise UserError(
            f'model.init is "{name}"{did_you_mean(name, SCHEMES)}; choose one of '
            f"{', '.join(SCHEMES)}."
        )
    return SCHEMES[name]
