"""LeJEPA: views of an image predict each other, and projections are kept close to a Gaussian.

Balestriero and LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the
Heuristics", 2025 (arXiv:2511.08544). There is no teacher: each view's projection is pulled
toward the mean of the image's global views, and SIGReg, a statistic on random directions, keeps
the projections of a batch from collapsing.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from smallvit_jax.augment.views import GLOBAL_VIEWS, ViewSettings
from smallvit_jax.models.heads import Projector, ViewNetwork
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives.objective import Metrics, TeacherlessObjective, Views
from smallvit_jax.training.state import TrainState, descend

SMALL_SPREAD, LARGE_SPREAD = 0.1, 2.0  # standard deviations of projections that call for a warning
LARGEST_KNOT = 3.0  # the statistic compares characteristic functions on [0, 3]


class Lejepa(TeacherlessObjective):
    """LeJEPA, with the fields of `pretrain.lejepa`."""

    reported = ("loss", "prediction", "statistic", "spread")

    def __init__(
        self, config: ConfigDict, backbone: ImageModel, views: ViewSettings, dtype, key: jax.Array
    ):
        super().__init__(config, views)
        p = config.pretrain.lejepa
        head = Projector(
            backbone.num_features,
            out_dim=p.out_dim,
            hidden_dim=p.hidden_dim,
            init=config.model.init,
            dtype=dtype,
            rngs=nnx.Rngs(key),
        )
        self.network = Functional(ViewNetwork(backbone, head))

    def update(
        self,
        state: TrainState,
        views: Views,
        key: jax.Array,
        schedule: Mapping[str, Float[Array, ""]],
    ) -> tuple[TrainState, Metrics]:
        """Takes one step; the directions depend on `key` alone, so all devices have the same."""
        p = self.config.pretrain.lejepa
        drop_key, direction_key = jax.random.split(key)
        directions = draw_directions(direction_key, p.out_dim, p.directions)

        def loss_of(params):
            projections, buffers = self.network(
                params, state.buffers, views, train=True, rngs=nnx.Rngs(drop_key)
            )
            losses = lejepa_losses(projections, directions, p.knots, p.weight)
            spread = projections.std(axis=0).mean()
            return losses.total, (losses, spread, buffers)

        found, gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        losses, spread, buffers = found[1]
        metrics = {
            "loss": losses.total,
            "prediction": losses.prediction,
            "statistic": losses.statistic,
            "spread": spread,
            "gradient_norm": optax.tree.norm(gradients),
        }
        return descend(state, gradients, buffers, schedule, self.optimizer), metrics

    def describe_collapse(self, means: Mapping[str, float]) -> str | None:
        """Says so if projections hardly differ, or are far wider than a standard normal."""
        p = self.config.pretrain
        constant = collapsed_statistic(p.batch_size, p.lejepa.knots)
        if means["statistic"] < 0.5 * constant or SMALL_SPREAD < means["spread"] < LARGE_SPREAD:
            return None
        figures = (
            f"standard deviation {means['spread']:.2g}, statistic {means['statistic']:.1f}, both "
            "about 1 for a Gaussian"
        )
        if means["spread"] <= SMALL_SPREAD:
            return (
                f"Collapse: the projections of different images hardly differ ({figures}); raise "
                "pretrain.lejepa.weight, or lower pretrain.optimizer.base_lr."
            )
        return (
            f"The projections spread too far ({figures}); lower pretrain.optimizer.base_lr, or "
            "raise pretrain.lejepa.weight."
        )


class Losses(NamedTuple):
    """The loss and its two parts."""

    total: Float[Array, ""]
    prediction: Float[Array, ""]
    statistic: Float[Array, ""]


def lejepa_losses(
    projections: Float[Array, "batch views dim"],
    directions: Float[Array, "dim directions"],
    knots: int,
    weight: float,
) -> Losses:
    """(1 - weight) · prediction + weight · statistic; the first two views are the global ones.

    The prediction loss is the mean over images, views and dimensions of the squared distance to the
    mean of the image's global views. The statistic is the mean over views and directions.
    """
    target = projections[:, :GLOBAL_VIEWS].mean(axis=1, keepdims=True)
    prediction = jnp.square(projections - target).mean()
    along = jnp.matmul(projections, directions, precision="highest")
    statistic = gaussian_statistic(along, knots).mean()
    return Losses((1 - weight) * prediction + weight * statistic, prediction, statistic)


def draw_directions(key: jax.Array, dim: int, count: int) -> Float[Array, "dim count"]:
    """Draws unit vectors, uniformly distributed on the sphere."""
    vectors = jax.random.normal(key, (dim, count))
    return vectors / jnp.linalg.norm(vectors, axis=0)


def collapsed_statistic(batch_size: int, knots: int) -> float:
    """The statistic of a batch whose values are all 0."""
    _, weights, gaussian = _quadrature(knots)
    return float(batch_size * np.sum(weights * (1 - gaussian) ** 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gaussian_statistic(
    values: Float[Array, "batch views directions"], knots: int
) -> Float[Array, "views directions"]:
    """How far each sample of `batch` values is from a standard normal distribution.

    The Epps-Pulley statistic: the squared distance between the empirical and the normal
    characteristic function, weighted by exp(-t²/2), on `knots` points of [0, 3] by the trapezoid
    rule, doubled for negative t, times the number of values. About 1 for a normal sample.

    exp(i t x) is advanced from knot to knot by a rotation, forward and backward, which needs one
    sine and one cosine for all knots.
    """
    return _forward(values, knots)[0]


def _quadrature(knots: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Distance of the knots, then the weight and exp(-t²/2) of each knot above 0.

    At t = 0, both characteristic functions are 1.
    """
    t = np.linspace(0, LARGEST_KNOT, knots)[1:]
    distance = LARGEST_KNOT / (knots - 1)
    gaussian = np.exp(-(t**2) / 2)
    trapezoid = np.full(len(t), 2 * distance)
    trapezoid[-1] = distance
    return distance, trapezoid * gaussian, gaussian


def _forward(values, knots):
    distance, weights, gaussian = _quadrature(knots)
    cos, sin = jnp.cos(distance * values), jnp.sin(distance * values)

    def knot(phase, expected):
        means = tuple(part.mean(axis=0) for part in phase)
        return _rotate(phase, (cos, sin)), (means[0] - expected, means[1])

    _, (real, imaginary) = jax.lax.scan(knot, (cos, sin), jnp.asarray(gaussian, values.dtype))
    weights = jnp.asarray(weights, values.dtype)
    statistic = len(values) * jnp.tensordot(weights, real**2 + imaginary**2, axes=1)
    return statistic, (values, real, imaginary)


def _backward(knots, kept, gradient):
    values, real, imaginary = kept
    distance, weights, _ = _quadrature(knots)
    cos, sin = jnp.cos(distance * values), jnp.sin(distance * values)
    # The derivative of len(values) · weight · (real² + imaginary²) in one value x.
    scale = 2 * weights * distance * np.arange(1, knots)

    def knot(carry, now):
        phase, total = carry
        factor, real, imaginary = now
        total = total + factor * (imaginary * phase[0] - real * phase[1])
        return (_rotate(phase, (cos, sin)), total), None

    start = ((cos, sin), jnp.zeros_like(values))
    rows = (jnp.asarray(scale, values.dtype), real, imaginary)
    (_, total), _ = jax.lax.scan(knot, start, rows)
    return (gradient * total,)


def _rotate(phase, by):
    return phase[0] * by[0] - phase[1] * by[1], phase[1] * by[0] + phase[0] * by[1]


gaussian_statistic.defvjp(_forward, _backward)
