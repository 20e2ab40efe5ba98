"""Named initialisation schemes: which distribution each kind of parameter starts from."""

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
    """Initialisers by kind of parameter."""

    kernel: Initializer
    """Kernels of linear layers."""
    token: Initializer
    """The class token and the position embedding."""
    bias: Callable[[int], Initializer] = _zeros
    """Biases of linear layers, by the number of inputs."""
    classifier: Initializer = initializers.normal(0.02)
    """The classifier's kernel; small logits to begin with, as the reference."""

    def linear(self, inputs: int) -> dict[str, Any]:
        """Arguments of a linear layer with so many inputs."""
        return {"kernel_init": self.kernel, "bias_init": self.bias(inputs)}


# PyTorch's defaults; `uniform_fan_in` for kernels, as their shape has it.
_UNIFORM = initializers.variance_scaling(1 / 3, "fan_in", "uniform")

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
    # Structured initialisation leaves all that it does not set at PyTorch's defaults. Its models
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
    """Looks a scheme up by name; raises `UserError` for an unknown one."""
    check_choice("model.init", name, INITS)
    return SCHEMES[name]
