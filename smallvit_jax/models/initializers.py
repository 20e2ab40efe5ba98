"""Named initialization schemes: the initial distribution of each kind of parameter."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.nn import initializers

from smallvit_jax.config.choices import INITS, STRUCTURED_INITS
from smallvit_jax.errors import check_choice

Initializer = Callable[..., jax.Array]


def uniform_fan_in(fan_in: int) -> Initializer:
    """PyTorch's default for convolutions and linear layers: U(-1, 1) / sqrt(fan_in), biases too."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jax.numpy.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _zeros(inputs: int) -> Initializer:
    del inputs
    return initializers.zeros


class Scheme(NamedTuple):
    """Initializers by kind of parameter."""

    kernel: Initializer
    """Kernels of linear layers."""
    token: Initializer
    """The class token and the position embedding."""
    bias: Callable[[int], Initializer] = _zeros
    """Biases of linear layers, given the number of inputs."""
    classifier: Initializer = initializers.normal(0.02)
    """The classifier's kernel; logits start small, as in the reference."""

    def linear(self, inputs: int) -> dict[str, Any]:
        """Initializer arguments of a linear layer with this many inputs."""
        return {"kernel_init": self.kernel, "bias_init": self.bias(inputs)}


# PyTorch's default: `uniform_fan_in` for kernels, with the fan taken from their shape.
_UNIFORM = initializers.variance_scaling(1 / 3, "fan_in", "uniform")

SCHEMES = {
    # std 0.02 without truncation: the reference truncates at absolute bounds of ±2, which are 100
    # standard deviations (utils/utils_ssl.py:570). Convolutional patch embeddings keep
    # `uniform_fan_in`.
    "reference": Scheme(kernel=initializers.normal(0.02), token=initializers.normal(0.02)),
    # At width 64, std 0.02 shrinks every signal to nothing and self-distillation collapses;
    # std 1/sqrt(fan in) keeps the scale at any width (LeCun et al., "Efficient BackProp", 1998).
    # Class token and positions are signals, not weights, so they start at scale 1.
    "fan_in": Scheme(
        kernel=initializers.variance_scaling(1.0, "fan_in", "normal"),
        token=initializers.normal(1.0),
    ),
    # Structured initialization leaves everything it does not set at PyTorch's defaults. Its models
    # have neither a class token nor learned positions.
    **dict.fromkeys(
        STRUCTURED_INITS,
        Scheme(
            kernel=_UNIFORM,
            token=initializers.normal(0.02),
            bias=uniform_fan_in,
            classifier=_UNIFORM,
        ),
    ),
}


def get_scheme(name: str) -> Scheme:
    """Looks up a scheme by name; raises `UserError` if it is unknown."""
    check_choice("model.init", name, INITS)
    return SCHEMES[name]
