"""The view-prediction objective: a student predicts its teacher's output from other views.

DINO's loss (Caron et al., 2021, eq. 1-4) as the reference computes it (train_ssl.py:463-523).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def teacher_probabilities(
    teacher: Float[Array, "batch global_views out_dim"],
    center: Float[Array, " out_dim"],
    temperature: Float[Array, ""] | float,
) -> Float[Array, "batch global_views out_dim"]:
    """Centred and sharpened teacher distributions."""
    return jax.nn.softmax((teacher - center) / temperature, axis=-1)


def view_prediction_loss(
    student: Float[Array, "batch views out_dim"],
    targets: Float[Array, "batch global_views out_dim"],
    temperature: float,
) -> Float[Array, ""]:
    """Mean cross-entropy between each teacher view and every student view but the same one.

    The student's first views are the teacher's. With V of them and the teacher's 2, the mean is
    over 2 V - 2 pairs of views and the batch; `temperature` is the student's.
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
    """Moving average of the batch's mean of raw teacher outputs; takes effect in the next step."""
    return center * momentum + teacher_mean * (1 - momentum)


def mean_entropy(
    probabilities: Float[Array, "batch global_views out_dim"],
) -> Float[Array, ""]:
    """Mean entropy of a batch of teacher distributions, in nats."""
    return jax.scipy.special.entr(probabilities).sum(axis=-1).mean()


def mutual_information(
    mean_probabilities: Float[Array, " out_dim"], entropy: Float[Array, ""]
) -> Float[Array, ""]:
    """What the teacher's output says about the image, in nats.

    Entropy of the batch's mean distribution minus `entropy`, the mean over its distributions: 0
    when every image gets the same.
    """
    return jax.scipy.special.entr(mean_probabilities).sum() - entropy


def describe_collapse(
    mutual_information: float, entropy: float, out_dim: int, threshold: float = 0.01
) -> str | None:
    """Says which kind of collapse the averages of an epoch show and what to try, or None.

    The sign is mutual information near 0, at any entropy: the teacher says the same about every
    image. Values in nats; `threshold` is where "near 0" ends.
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
            "for a narrow model set model.init=fan_in, else lower pretrain.optimizer.base_lr "
            "and lengthen its warm-up",
        )
    return (
        f"Collapse: the teacher gives every image the same output ({kind}: entropy {entropy:.2f} "
        f"of at most {largest:.2f}, information about the image {mutual_information:.4f}); "
        f"{remedy}."
    )
