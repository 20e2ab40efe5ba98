"""Dense relative localization (drloc): an auxiliary loss for fine-tuning that needs no labels.

Pairs of tokens are drawn from the last grid, and a small head predicts how far apart they are (Liu
et al., "Efficient Training of Visual Transformers with Small Datasets", 2021, and its code,
VTs-Drloc).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from smallvit_jax.config.choices import TRANSFORMERS
from smallvit_jax.errors import UserError
from smallvit_jax.models.initializers import uniform_fan_in
from smallvit_jax.models.layers import Linear
from smallvit_jax.models.parameters import Arrays, Functional

RAMP_EPOCHS = 20  # over which the loss weight rises from 0 (VTs-Drloc, main.py)
HIDDEN = 512  # width of the head's hidden layers (VTs-Drloc, models/drloc.py)
_PREFIX = "drloc."  # of the head's arrays among the trained arrays
_PAIRS_STREAM = 0x70616972  # separates the random pairs from drop path

Points = Int[Array, "batch pairs 2"]


class DrlocSettings(NamedTuple):
    """The fields of `config.finetune.drloc`."""

    weight: float
    loss: str  # a key of LOSSES
    pairs: int
    absolute: bool
    normalize: bool


class Drloc:
    """The loss with its head, whose arrays `params` are trained together with the model's.

    Args:
      settings: the kind of loss and its options.
      side: tokens per side of the grid, see `grid_side`.
      features: width of a token.
      key: PRNG key for the head's initialization.
    """

    def __init__(self, settings: DrlocSettings, side: int, features: int, *, dtype, key: jax.Array):
        self._settings = settings
        offsets = side if settings.absolute else 2 * side - 1
        classes = None if settings.loss == "l1" else offsets
        self._head = Functional(LocationHead(features, classes, dtype=dtype, rngs=nnx.Rngs(key)))
        self.params = {_PREFIX + name: array for name, array in self._head.trainable.items()}

    def __call__(
        self, params: Arrays, grid: Float[Array, "batch side side features"], key: jax.Array
    ) -> Float[Array, ""]:
        """The loss on newly drawn pairs; `key` is the PRNG key for this part of the batch."""
        s = self._settings
        head = {n.removeprefix(_PREFIX): a for n, a in params.items() if n.startswith(_PREFIX)}
        batch, side = grid.shape[:2]
        first, second = draw_pairs(jax.random.fold_in(key, _PAIRS_STREAM), batch, s.pairs, side)
        predicted, _ = self._head(head, {}, tokens_at(grid, first), tokens_at(grid, second))
        wanted = relative_locations(first, second, side, s.absolute, s.normalize)
        return LOSSES[s.loss](predicted, wanted)


def without_head(params: Arrays) -> Arrays:
    """The model's arrays, without the head's."""
    return {name: array for name, array in params.items() if not name.startswith(_PREFIX)}


def check_grid(weight: float, options: Mapping[str, Any]) -> None:
    """Raises `UserError` if a model with these options has no grid to draw pairs from."""
    name = options["name"]
    if name not in TRANSFORMERS:
        raise UserError(
            f"finetune.drloc.weight is {weight:g}, but drloc needs a grid of tokens, which a "
            f"{name} does not have; set it to 0 or choose one of {', '.join(TRANSFORMERS)}"
        )
    if grid_side(options) < 2:
        raise UserError(
            f"finetune.drloc.weight is {weight:g}, but the {name}'s last grid is a single token, "
            "and drloc needs pairs; set it to 0 or choose a smaller model.patch_size"
        )


def grid_side(options: Mapping[str, Any]) -> int:
    """Tokens per side of a transformer's last grid; each stage of a Swin halves it, rounding up."""
    side = options["image_size"] // options["patch_size"]
    for _ in options.get("depths", ())[1:]:
        side = -(-side // 2)
    return side


def weight_schedule(weight: float, epochs: int, steps_per_epoch: int) -> np.ndarray:
    """The loss weight at each step, constant within an epoch.

    It rises linearly from 0 to `weight` at epoch 20, then falls linearly to 0, as in the released
    code (paper: constant).
    """
    epoch = np.arange(epochs)
    fall = 1 - (epoch - RAMP_EPOCHS) / max(epochs - RAMP_EPOCHS, 1)
    by_epoch = weight * np.where(epoch <= RAMP_EPOCHS, epoch / RAMP_EPOCHS, fall)
    return np.repeat(by_epoch, steps_per_epoch)


def draw_pairs(key: jax.Array, batch: int, pairs: int, side: int) -> tuple[Points, Points]:
    """Two points (row, column) per pair, drawn uniformly and independently."""
    points = jax.random.randint(key, (2, batch, pairs, 2), 0, side)
    return points[0], points[1]


def tokens_at(
    grid: Float[Array, "batch rows columns features"], points: Points
) -> Float[Array, "batch pairs features"]:
    """Selects the tokens of a grid at the given rows and columns."""
    batch, _, columns, features = grid.shape
    index = points[..., 0] * columns + points[..., 1]
    return jnp.take_along_axis(grid.reshape(batch, -1, features), index[..., None], axis=1)


def relative_locations(
    first: Points, second: Points, side: int, absolute: bool, normalize: bool
) -> Float[Array, "batch pairs 2"]:
    """The head's targets: offsets in rows and columns between two points of a `side` x `side` grid.

    Absolute offsets are 0 to side - 1; signed ones have side - 1 added, so they start at 0 too.
    With `normalize`, they are divided by their largest value. (The paper divides by the side; the
    released code does not by default, so its loss is larger by that factor at the same weight.)
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
    """Cross-entropy with offsets as classes, summed over both coordinates."""
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


class LocationHead(nnx.Module):
    """MLP with ReLU that predicts how far apart two tokens of a grid are.

    As in the released code and the published parameter counts: without `classes`, two hidden layers
    and one number per coordinate; with them, a third hidden layer and a classifier per coordinate,
    both linear. (The paper has one hidden layer.)
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
        self.coordinates = nnx.List(
            [] if classes is None else [linear(HIDDEN, classes), linear(HIDDEN, classes)]
        )

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
