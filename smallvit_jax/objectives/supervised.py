"""The loss and the update step of fine-tuning."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives.relative_location import Drloc
from smallvit_jax.training.accumulation import mean_over_parts
from smallvit_jax.training.state import TrainState, descend, update_average


def smoothed_cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], smoothing: float
) -> Float[Array, " batch"]:
    """Cross-entropy with `smoothing` of each target spread evenly over all classes."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def mixed_loss(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    other_labels: Int[Array, " batch"],
    share: Float[Array, ""],
    smoothing: float,
) -> Float[Array, ""]:
    """Mean loss on mixed images, where `share` of each shows `labels`, the rest `other_labels`."""
    first = smoothed_cross_entropy(logits, labels, smoothing).mean()
    second = smoothed_cross_entropy(logits, other_labels, smoothing).mean()
    return share * first + (1 - share) * second


def update(
    state: TrainState,
    images: Float[Array, "batch height width 3"],
    labels: Int[Array, " batch"],
    other_labels: Int[Array, " batch"],
    share: Float[Array, ""],
    key: jax.Array | None,
    schedule: dict[str, Float[Array, ""]],
    *,
    model: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    label_smoothing: float,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    drloc: Drloc | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Takes one step on augmented, possibly mixed images.

    `key` is the PRNG key for drop path; None disables it. `schedule` holds this step's
    `learning_rate` and `weight_decay`. The accuracy metric compares to `labels`, even for mixed
    images, as in finetune.py:352-376. The batch is processed in `accumulate` parts, one after
    another. With `ema_decay`, the state's moving average is updated too. With `drloc`, that loss
    times the schedule's `drloc_weight` is added; it needs `key`.
    """
    schedule = dict(schedule)
    drloc_weight = schedule.pop("drloc_weight", None)
    wanted = ("logits",) if drloc is None else ("logits", "grid")

    def means_of(part, key):
        images, labels, other_labels = part

        def loss_of(params):
            rngs = None if key is None else nnx.Rngs(key)  # NNX needs it made inside the gradient
            outputs, buffers = model(
                params, state.buffers, images, *wanted, method="outputs", train=True, rngs=rngs
            )
            logits = outputs["logits"]
            losses = {"loss": mixed_loss(logits, labels, other_labels, share, label_smoothing)}
            if drloc is not None:
                losses["drloc"] = drloc(params, outputs["grid"], key)
                losses["loss"] += drloc_weight * losses["drloc"]
            return losses["loss"], (losses, logits, buffers)

        (_, (losses, logits, buffers)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        accuracy = jnp.mean(logits.argmax(axis=-1) == labels, dtype=jnp.float32) * 100
        return (losses, gradients, accuracy), buffers

    (losses, gradients, accuracy), buffers = mean_over_parts(
        means_of, accumulate, (images, labels, other_labels), key
    )
    metrics = losses | {
        "accuracy": accuracy,
        "gradient_norm": optax.tree.norm(gradients),
    }
    state = descend(state, gradients, buffers, schedule, optimizer)
    return update_average(state, ema_decay) if ema_decay else state, metrics


def initial_state(
    model: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    drloc: Drloc | None = None,
    *,
    averaged: bool = False,
) -> TrainState:
    """The state before the first step, with a moving average of the model's arrays if wanted."""
    params = model.trainable | (drloc.params if drloc else {})
    average = jax.tree.map(jnp.copy, model.trainable | model.buffers) if averaged else None
    return TrainState.start(params, model.buffers, optimizer, average)
