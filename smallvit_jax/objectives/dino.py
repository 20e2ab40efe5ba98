"""The state and the step of pre-training: student, teacher, centre and optimiser."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from smallvit_jax.models.parameters import Arrays, Functional
from smallvit_jax.objectives import dino_loss as objective
from smallvit_jax.training.accumulation import mean_over_parts


class PretrainState(NamedTuple):
    """Everything that pre-training needs to continue."""

    step: Int[Array, ""]
    student: Arrays
    student_buffers: Arrays
    teacher: Arrays
    teacher_buffers: Arrays
    center: Float[Array, " out_dim"]
    optimizer: Any


def teacher_backbone(state: PretrainState) -> Arrays:
    """The teacher's backbone, weights and batch statistics, under the backbone's own names."""
    prefix, arrays = "backbone.", state.teacher | state.teacher_buffers
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def is_last_layer(name: str) -> bool:
    """Chooses the parameters that stand still in the first epochs."""
    return ".last_layer." in name


def initial_state(
    network: Functional, optimizer: optax.GradientTransformation, out_dim: int
) -> PretrainState:
    """The state before the first step: the teacher is a copy of the student, the centre 0."""
    return PretrainState(
        step=jnp.zeros((), jnp.int32),
        student=network.trainable,
        student_buffers=network.buffers,
        teacher=network.trainable,
        teacher_buffers=network.buffers,
        center=jnp.zeros(out_dim),
        optimizer=optimizer.init(network.trainable),
    )


class Means(NamedTuple):
    """What a step needs to know of its batch: means over it, or over a part of it."""

    loss: Float[Array, ""]
    gradients: Arrays
    teacher_output: Float[Array, " out_dim"]
    probabilities: Float[Array, " out_dim"]
    entropy: Float[Array, ""]


def batch_means(
    state: PretrainState,
    views: Sequence[Float[Array, "batch _ _ _ 3"]],
    key: jax.Array | None,
    teacher_temperature: Float[Array, ""],
    *,
    network: Functional,
    student_temperature: float,
    teacher_drop_path: bool,
) -> tuple[Means, tuple[Arrays, Arrays]]:
    """Loss and gradients of a batch or a part of it, and the new buffers of student and teacher."""
    student_key, teacher_key = (None, None) if key is None else jax.random.split(key)
    teacher_out, teacher_buffers = network(
        state.teacher,
        state.teacher_buffers,
        views[:1],
        train=True,
        rngs=_rngs(teacher_key) if teacher_drop_path else None,
    )
    targets = objective.teacher_probabilities(teacher_out, state.center, teacher_temperature)

    def loss_of(student):
        student_out, buffers = network(
            student, state.student_buffers, views, train=True, rngs=_rngs(student_key)
        )
        loss = objective.view_prediction_loss(student_out, targets, student_temperature)
        return loss, buffers

    (loss, student_buffers), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.student)
    means = Means(
        loss=loss,
        gradients=gradients,
        teacher_output=teacher_out.mean(axis=(0, 1)),
        probabilities=targets.mean(axis=(0, 1)),
        entropy=objective.mean_entropy(targets),
    )
    return means, (student_buffers, teacher_buffers)


def update(
    state: PretrainState,
    views: Sequence[Float[Array, "batch _ _ _ 3"]],
    key: jax.Array | None,
    schedule: dict[str, Float[Array, ""]],
    *,
    network: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    student_temperature: float,
    center_momentum: float,
    teacher_drop_path: bool,
    accumulate: int = 1,
) -> tuple[PretrainState, dict[str, Float[Array, ""]]]:
    """One step from ready views: loss, gradients, optimiser, teacher and centre.

    Args:
      state: where training stands.
      views: the two global views of each image, then the local ones if there are any.
      key: of the drop path; None switches it off.
      schedule: this step's `learning_rate`, `weight_decay`, `teacher_momentum`,
        `teacher_temperature` and `frozen` (the last layer stands still).
      accumulate: parts that the batch is taken in, one after another.

    Returns the new state and the step's metrics. Order as in train_ssl.py:360-430: the loss sees
    the old centre; the teacher moves towards the student as it is after its update.
    """
    means, (student_buffers, teacher_buffers) = mean_over_parts(
        lambda views, key: batch_means(
            state,
            views,
            key,
            schedule["teacher_temperature"],
            network=network,
            student_temperature=student_temperature,
            teacher_drop_path=teacher_drop_path,
        ),
        accumulate,
        tuple(views),
        key,
    )
    updates, optimizer_state = optimizer.update(
        means.gradients,
        state.optimizer,
        state.student,
        learning_rate=schedule["learning_rate"],
        weight_decay=schedule["weight_decay"],
        frozen=schedule["frozen"],
    )
    student = optax.apply_updates(state.student, updates)
    momentum = schedule["teacher_momentum"]
    teacher = jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, state.teacher, student)
    metrics = {
        "loss": means.loss,
        "teacher_entropy": means.entropy,
        "mutual_information": objective.mutual_information(means.probabilities, means.entropy),
        "gradient_norm": optax.tree.norm(means.gradients),
    }
    new_state = PretrainState(
        step=state.step + 1,
        student=student,
        student_buffers=student_buffers,
        teacher=teacher,
        teacher_buffers=teacher_buffers,
        center=objective.update_center(state.center, means.teacher_output, center_momentum),
        optimizer=optimizer_state,
    )
    return new_state, metrics


def _rngs(key: jax.Array | None) -> nnx.Rngs | None:
    return None if key is None else nnx.Rngs(key)
