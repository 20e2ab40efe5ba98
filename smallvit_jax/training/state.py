"""The state of a network that is trained by gradient descent alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Arrays = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything needed to resume training."""

    step: Int[Array, ""]
    params: Arrays
    buffers: Arrays
    optimizer: Any

    @classmethod
    def start(
        cls, params: Arrays, buffers: Arrays, optimizer: optax.GradientTransformationExtraArgs
    ) -> "TrainState":
        """Returns the state before the first step."""
        return cls(jnp.zeros((), jnp.int32), params, buffers, optimizer.init(params))


def descend(
    state: TrainState,
    gradients: Arrays,
    buffers: Arrays,
    schedule: Mapping[str, Float[Array, ""]],
    optimizer: optax.GradientTransformationExtraArgs,
) -> TrainState:
    """Takes the optimizer's step; `schedule` holds this step's `learning_rate` and so on."""
    updates, optimizer_state = optimizer.update(
        gradients, state.optimizer, state.params, **schedule
    )
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        buffers=buffers,
        optimizer=optimizer_state,
    )
