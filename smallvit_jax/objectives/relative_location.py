"""Dense relative localisation: an additional loss of fine-tuning that needs no labels.

Pairs of tokens are drawn from the last grid, and a head tells from the two how far apart they are
(Liu et al., "Efficient Training of Visual Transformers with Small Datasets", 2021; VTs-Drloc).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from smallvit_jax.errors import UserError
from smallvit_jax.models import FAMILIES
from smallvit_jax.models.parameters import Arrays, Functional
from smallvit_jax.objectives.location_head import LocationHead

RAMP_EPOCHS = 20  # in which the loss's weight rises from 0 (VTs-Drloc, main.py)
_PREFIX = "drloc."  # of the head's arrays among those that are trained
_PAIRS_STREAM = 0x70616972  # keeps the draws of pairs apart from those of drop path

Points = Int[Array, "batch pairs 2"]


class Drloc:
    """The loss with its head, as `config.finetune.drloc` has it.

    `params` are the head's arrays, to be trained beside the model's.
    """

    def __init__(
        self, config: ConfigDict, options: Mapping[str, Any], features: int, *, dtype, key
    ):
        self._loss, self._pairs = config.loss, config.pairs
        self._absolute, self._normalize = config.absolute, config.normalize
        side = grid_side(options)
        offsets = side if config.absolute else 2 * side - 1
        classes = None if config.loss == "l1" else offsets
        self._head = Functional(LocationHead(features, classes, dtype=dtype, rngs=nnx.Rngs(key)))
        self.params = {_PREFIX + name: array for name, array in self._head.trainable.items()}

    def __call__(
        self, params: Arrays, grid: Float[Array, "batch side side features"], key: jax.Array
    ) -> Float[Array, ""]:
        """The loss of freshly drawn pairs; `key` is of the part of the batch."""
        head = {n.removeprefix(_PREFIX): a for n, a in params.items() if n.startswith(_PREFIX)}
        batch, side = grid.shape[:2]
        first, second = draw_pairs(jax.random.fold_in(key, _PAIRS_STREAM), batch, self._pairs, side)
        predicted, _ = self._head(head, {}, tokens_at(grid, first), tokens_at(grid, second))
        wanted = relative_locations(first, second, side, self._absolute, self._normalize)
        return LOSSES[self._loss](predicted, wanted)


def without_head(params: Arrays) -> Arrays:
    """What belongs to the model alone."""
    return {name: array for name, array in params.items() if not name.startswith(_PREFIX)}


def check_drloc(config: ConfigDict, options: Mapping[str, Any]) -> None:
    """Raises `UserError` where a model with these options has no grid to draw pairs from."""
    if not config.weight:
        return
    name = options["name"]
    if not hasattr(FAMILIES[name], "logits_and_grid"):
        raise UserError(
            f"finetune.drloc.weight is {config.weight:g}, but drloc needs a grid of tokens, which "
            f"a {name} does not have; set it to 0 or choose vit, swin or cait"
        )
    if grid_side(options) < 2:
        raise UserError(
            f"finetune.drloc.weight is {config.weight:g}, but the {name}'s last grid is one token, "
            "and drloc needs pairs; set it to 0 or choose a smaller model.patch_size"
        )


def grid_side(options: Mapping[str, Any]) -> int:
    """Tokens per side of a transformer's last grid; each stage of a Swin halves it, rounding up."""
    side = options["image_size"] // options["patch_size"]
    for _ in options.get("depths", ())[1:]:
        side = -(-side // 2)
    return side


def weight_schedule(weight: float, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """The loss's weight at each step: by the epoch from 0, rising to `weight` at epoch 20, then
    falling to 0 at the end, both linearly, as the released code; the paper has a constant one."""
    epoch = np.arange(epochs)
    fall = 1 - (epoch - RAMP_EPOCHS) / max(epochs - RAMP_EPOCHS, 1)
    by_epoch = weight * np.where(epoch <= RAMP_EPOCHS, epoch / RAMP_EPOCHS, fall)
    return np.repeat(by_epoch, steps_per_epoch)


def draw_pairs(key: jax.Array, batch: int, pairs: int, side: int) -> tuple[Points, Points]:
    """Two points (row, column) per pair, all drawn uniformly; they may be the same."""
    points = jax.random.randint(key, (2, batch, pairs, 2), 0, side)
    return points[0], points[1]


def tokens_at(
    grid: Float[Array, "batch rows columns features"], points: Points
) -> Float[Array, "batch pairs features"]:
    """The tokens of a grid at the given rows and columns."""
    batch, _, columns, features = grid.shape
    index = points[..., 0] * columns + points[..., 1]
    return jnp.take_along_axis(grid.reshape(batch, -1, features), index[..., None], axis=1)


def relative_locations(
    first: Points, second: Points, side: int, absolute: bool, normalize: bool
) -> Float[Array, "batch pairs 2"]:
    """What the head is to tell: rows and columns between two points of a grid of `side` squared.

    `absolute` ones are 0 to side - 1; signed ones begin at 0, too, with side - 1 added. With
    `normalize` both are divided by the largest. (The paper divides by the side, the released code
    by default not at all: its loss is that much larger at the same weight.)
    """
    offset = first - second
    offset = jnp.abs(offset) if absolute else offset + side - 1
    largest = side - 1 if absolute else 2 * (side - 1)
    return offset / largest if normalize else offset.astype(jnp.float32)


def _absolute_error(
    predicted: Float[Array, "batch pairs 2"], wanted: Float[Array, "batch pairs 2"]
) -> Float[Array, ""]:
    """The mean over both coordinates; the paper's eq. 2 has their sum."""
    return jnp.abs(predicted - wanted).mean()


def _cross_entropy(
    predicted: Float[Array, "batch pairs classes 2"], wanted: Float[Array, "batch pairs 2"]
) -> Float[Array, ""]:
    """Of offsets as classes, summed over both coordinates."""
    logits = jnp.moveaxis(predicted, -1, 0)
    labels = jnp.moveaxis(wanted, -1, 0).astype(jnp.int32)
    return 2 * optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _by_classification(
    predicted: Float[Array, "batch pairs classes 2"], wanted: Float[Array, "batch pairs 2"]
) -> Float[Array, ""]:
    """Regression by classification, summed over both coordinates.

    (mean - wanted)² / variance + log(variance) / 1000 of the distribution over offsets.
    """
    weights = jax.nn.softmax(predicted, axis=-2)
    offsets = jnp.arange(predicted.shape[-2], dtype=jnp.float32)[:, None]
    mean = (weights * offsets).sum(axis=-2)
    variance = (weights * (offsets - mean[..., None, :]) ** 2).sum(axis=-2) + 1e-8
    return 2 * ((mean - wanted) ** 2 / variance + 0.001 * jnp.log(variance)).mean()


LOSSES = {"l1": _absolute_error, "ce": _cross_entropy, "cbr": _by_classification}
