"""The state of a network that is trained by gradient descent alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Arrays = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything needed to resume training.

    `average` is the moving average of params and buffers, empty if there is none.
    """

    step: Int[Array, ""]
    params: Arrays
    buffers: Arrays
    optimizer: Any
    average: Arrays

    @classmethod
    def start(
        cls,
        params: Arrays,
        buffers: Arrays,
        optimizer: optax.GradientTransformationExtraArgs,
        average: Arrays | None = None,
    ) -> "TrainState":
        """Returns the state before the first step."""
        return cls(jnp.zeros((), jnp.int32), params, buffers, optimizer.init(params), average or {})


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
    return state._replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        buffers=buffers,
        optimizer=optimizer_state,
    )


def update_average(state: TrainState, decay: float) -> TrainState:
    """Moves the average towards the arrays after this step.

    Over the first steps t = 1, 2, … the decay is at most (1 + t) / (10 + t), so that the average
    soon forgets the initial weights (as in TensorFlow's ExponentialMovingAverage with num_updates).
    """
    step = state.step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    arrays = state.params | state.buffers
    newest = {name: arrays[name] for name in state.average}
    return state._replace(average=optax.incremental_update(newest, state.average, share))
