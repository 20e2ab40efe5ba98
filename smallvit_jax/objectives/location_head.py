"""The head that tells how far apart two tokens of a grid are."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.models.initializers import uniform_fan_in
from smallvit_jax.models.layers import Linear

HIDDEN = 512  # width of every hidden layer (VTs-Drloc, models/drloc.py)


class LocationHead(nnx.Module):
    """MLP on two tokens side by side, with ReLU between its layers.

    As the released code, and the published parameter counts: without `classes` two hidden layers
    and a number per coordinate, with them a third hidden layer and a classifier per coordinate,
    both linear. (The paper speaks of one hidden layer.)
    """

    def __init__(self, features: int, classes: int | None, *, dtype, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> Linear:
            start = uniform_fan_in(inputs)
            options = {"kernel_init": start, "bias_init": start, "dtype": dtype, "rngs": rngs}
            return Linear(inputs, outputs, **options)

        last = 2 if classes is None else HIDDEN
        self.layers = nnx.List(
            [linear(2 * features, HIDDEN), linear(HIDDEN, HIDDEN), linear(HIDDEN, last)]
        )
        self.coordinates = nnx.List(linear(HIDDEN, classes) for _ in range(2 if classes else 0))

    def __call__(
        self,
        first: Float[Array, "batch pairs features"],
        second: Float[Array, "batch pairs features"],
    ) -> Float[Array, "batch pairs 2"] | Float[Array, "batch pairs classes 2"]:
        """Row and column of the offset, as numbers or as logits over offsets; float32."""
        *hidden, last = self.layers
        x = jnp.concatenate([first, second], axis=-1)
        for layer in hidden:
            x = jax.nn.relu(layer(x))
        x = last(x)
        if self.coordinates:
            x = jnp.stack([coordinate(x) for coordinate in self.coordinates], axis=-1)
        return x.astype(jnp.float32)
