"""DINO: a student predicts its teacher's output from other views of the same image.

The loss of Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021
(eq. 1-4), as the reference computes it (train_ssl.py:360-523).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from smallvit_jax.augment.views import ViewSettings
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.parameters import Arrays, Functional
from smallvit_jax.objectives.objective import Metrics, Objective, Views, backbone_arrays
from smallvit_jax.training import schedules
from smallvit_jax.training.accumulation import mean_over_parts
from smallvit_jax.training.loop import Schedule


class DinoState(NamedTuple):
    """Everything needed to resume pre-training with DINO."""

    step: Int[Array, ""]
    student: Arrays
    student_buffers: Arrays
    teacher: Arrays
    teacher_buffers: Arrays
    center: Float[Array, " out_dim"]
    optimizer: Any


class Dino(Objective):
    """Self-distillation as in the reference, with the fields of `pretrain` that are DINO's."""

    reported = ("loss", "teacher_entropy", "mutual_information")

    def __init__(
        self, config: ConfigDict, backbone: ImageModel, views: ViewSettings, dtype, key: jax.Array
    ):
        super().__init__(config, views, freezable=is_last_layer)
        head = ProjectionHead(
            backbone.num_features,
            **config.pretrain.head,
            init=config.model.init,
            dtype=dtype,
            rngs=nnx.Rngs(key),
        )
        self.network = Functional(ViewNetwork(backbone, head))

    @staticmethod
    def schedule(config: ConfigDict, steps_per_epoch: int) -> Schedule:
        """The teacher's momentum and temperature, and whether the last layer is frozen."""
        p, t = config.pretrain, config.pretrain.teacher
        steps = p.epochs * steps_per_epoch
        warmup = schedules.fit_warmup(
            t.warmup_temperature_epochs,
            p.epochs,
            "pretrain.teacher.warmup_temperature_epochs",
            whole=True,
        )
        return {
            "teacher_momentum": schedules.cosine(t.momentum, 1.0, steps),
            "teacher_temperature": schedules.teacher_temperature(
                t.warmup_temperature, t.temperature, int(warmup), p.epochs, steps_per_epoch
            ),
            "frozen": np.arange(steps) < p.freeze_last_layer_epochs * steps_per_epoch,
        }

    def initial_state(self) -> DinoState:
        """The student, its copy as the teacher, and a center of 0."""
        return initial_state(self.network, self.optimizer, self.config.pretrain.head.out_dim)

    def update(
        self,
        state: DinoState,
        views: Views,
        key: jax.Array,
        schedule: Mapping[str, Float[Array, ""]],
    ) -> tuple[DinoState, Metrics]:
        """Takes one step; see the function `update`."""
        p = self.config.pretrain
        return update(
            state,
            views,
            key,
            schedule,
            network=self.network,
            optimizer=self.optimizer,
            student_temperature=p.student_temperature,
            center_momentum=p.teacher.center_momentum,
            teacher_drop_path=p.teacher.drop_path,
            accumulate=self.config.runtime.accumulate,
        )

    def backbone(self, state: DinoState) -> Arrays:
        """Weights and batch statistics of the teacher's backbone."""
        return backbone_arrays(state.teacher | state.teacher_buffers)

    def describe_collapse(self, means: Mapping[str, float]) -> str | None:
        """Says so if the teacher gives every image the same output."""
        out_dim = self.config.pretrain.head.out_dim
        return describe_collapse(means["mutual_information"], means["teacher_entropy"], out_dim)


def is_last_layer(name: str) -> bool:
    """Selects the parameters that are frozen in the first epochs."""
    return ".last_layer." in name


def initial_state(
    network: Functional, optimizer: optax.GradientTransformation, out_dim: int
) -> DinoState:
    """The state before the first step: the teacher is a copy of the student, the center is 0."""
    return DinoState(
        step=jnp.zeros((), jnp.int32),
        student=network.trainable,
        student_buffers=network.buffers,
        teacher=network.trainable,
        teacher_buffers=network.buffers,
        center=jnp.zeros(out_dim),
        optimizer=optimizer.init(network.trainable),
    )


class Means(NamedTuple):
    """Means over a batch, or over a part of it."""

    loss: Float[Array, ""]
    gradients: Arrays
    teacher_output: Float[Array, " out_dim"]
    probabilities: Float[Array, " out_dim"]
    entropy: Float[Array, ""]


def batch_means(
    state: DinoState,
    views: Views,
    key: jax.Array | None,
    teacher_temperature: Float[Array, ""],
    *,
    network: Functional,
    student_temperature: float,
    teacher_drop_path: bool,
) -> tuple[Means, tuple[Arrays, Arrays]]:
    """Means over a batch or a part of it, and the new buffers of student and teacher."""
    student_key, teacher_key = (None, None) if key is None else jax.random.split(key)
    teacher_out, teacher_buffers = network(
        state.teacher,
        state.teacher_buffers,
        views[:1],
        train=True,
        rngs=_rngs(teacher_key) if teacher_drop_path else None,
    )
    targets = teacher_probabilities(teacher_out, state.center, teacher_temperature)

    def loss_of(student):
        student_out, buffers = network(
            student, state.student_buffers, views, train=True, rngs=_rngs(student_key)
        )
        loss = view_prediction_loss(student_out, targets, student_temperature)
        return loss, buffers

    (loss, student_buffers), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.student)
    means = Means(
        loss=loss,
        gradients=gradients,
        teacher_output=teacher_out.mean(axis=(0, 1)),
        probabilities=targets.mean(axis=(0, 1)),
        entropy=mean_entropy(targets),
    )
    return means, (student_buffers, teacher_buffers)


def update(
    state: DinoState,
    views: Views,
    key: jax.Array | None,
    schedule: Mapping[str, Float[Array, ""]],
    *,
    network: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    student_temperature: float,
    center_momentum: float,
    teacher_drop_path: bool,
    accumulate: int = 1,
) -> tuple[DinoState, Metrics]:
    """Takes one step on augmented views: loss, gradients, optimizer, teacher and center.

    Args:
      state: the current training state.
      views: the two global views of each image, then its local views, if any.
      key: PRNG key for drop path; None disables it.
      schedule: this step's `learning_rate`, `weight_decay`, `teacher_momentum`,
        `teacher_temperature` and `frozen` (whether the last layer is frozen).
      accumulate: number of parts in which the batch is processed, one after another.

    Returns the new state and the step's metrics. The order is that of train_ssl.py:360-430: the
    loss uses the old center, and the teacher moves toward the updated student.
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
        "mutual_information": mutual_information(means.probabilities, means.entropy),
        "gradient_norm": optax.tree.norm(means.gradients),
    }
    new_state = DinoState(
        step=state.step + 1,
        student=student,
        student_buffers=student_buffers,
        teacher=teacher,
        teacher_buffers=teacher_buffers,
        center=update_center(state.center, means.teacher_output, center_momentum),
        optimizer=optimizer_state,
    )
    return new_state, metrics


def _rngs(key: jax.Array | None) -> nnx.Rngs | None:
    return None if key is None else nnx.Rngs(key)


def teacher_probabilities(
    teacher: Float[Array, "batch global_views out_dim"],
    center: Float[Array, " out_dim"],
    temperature: Float[Array, ""] | float,
) -> Float[Array, "batch global_views out_dim"]:
    """Centered and sharpened teacher distributions."""
    return jax.nn.softmax((teacher - center) / temperature, axis=-1)


def view_prediction_loss(
    student: Float[Array, "batch views out_dim"],
    targets: Float[Array, "batch global_views out_dim"],
    temperature: float,
) -> Float[Array, ""]:
    """Mean cross-entropy between each teacher view and every other student view.

    The student's first views are the teacher's. With V student views and 2 teacher views, the mean
    is over 2 V - 2 pairs of views and the batch; `temperature` is the student's.
    """
    log_q = jax.nn.log_softmax(student / temperature, axis=-1)
    batch, global_views = targets.shape[:2]
    others = log_q.sum(axis=1, keepdims=True) - log_q[:, :global_views]
    pairs = global_views * (student.shape[1] - 1)
    return -jnp.sum(targets * others) / (pairs * batch)


def update_center(
    center: Float[Array, " out_dim"],
    teacher_mean: Float[Array, " out_dim"],
    momentum: float,
) -> Float[Array, " out_dim"]:
    """Moving average of the batch mean of raw teacher outputs; takes effect in the next step."""
    return center * momentum + teacher_mean * (1 - momentum)


def mean_entropy(
    probabilities: Float[Array, "batch global_views out_dim"],
) -> Float[Array, ""]:
    """Mean entropy of a batch of teacher distributions, in nats."""
    return jax.scipy.special.entr(probabilities).sum(axis=-1).mean()


def mutual_information(
    mean_probabilities: Float[Array, " out_dim"], entropy: Float[Array, ""]
) -> Float[Array, ""]:
    """Information about the image in the teacher's output, in nats.

    Entropy of the batch's mean distribution minus `entropy`, the mean over its distributions; 0 if
    every image gets the same distribution.
    """
    return jax.scipy.special.entr(mean_probabilities).sum() - entropy


def describe_collapse(
    mutual_information: float, entropy: float, out_dim: int, threshold: float = 0.01
) -> str | None:
    """Describes the collapse that an epoch's averages show and what to try; None if there is none.

    A collapse is mutual information of at most `threshold`, at any entropy: the teacher gives every
    image the same output. Values are in nats.
    """
    if mutual_information > threshold:
        return None
    largest = float(jnp.log(out_dim))
    if entropy > 0.95 * largest:
        kind, remedy = (
            "uniform outputs",
            "sharpen the targets: lower pretrain.teacher.temperature, raise "
            "pretrain.teacher.momentum",
        )
    elif entropy < 0.05 * largest:
        kind, remedy = (
            "one-hot outputs",
            "flatten the targets: raise pretrain.teacher.warmup_temperature and "
            "pretrain.teacher.temperature, lower pretrain.teacher.center_momentum",
        )
    else:
        kind, remedy = (
            "one constant distribution",
            "for a narrow model set model.init=fan_in, otherwise lower pretrain.optimizer.base_lr "
            "and lengthen its warmup",
        )
    return (
        f"Collapse: the teacher gives every image the same output ({kind}: entropy {entropy:.2f} "
        f"of at most {largest:.2f}, information about the image {mutual_information:.4f}); "
        f"{remedy}."
    )
