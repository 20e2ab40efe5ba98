"""The interface of all objectives of pre-training."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from smallvit_jax.augment.views import ViewSettings, multi_crop
from smallvit_jax.models.parameters import Arrays, Functional
from smallvit_jax.training.loop import Schedule
from smallvit_jax.training.optimizers import make_optimizer
from smallvit_jax.training.state import TrainState

Views = Sequence[Float[Array, "batch _ _ _ 3"]]
Metrics = dict[str, Float[Array, ""]]


class Objective(abc.ABC):
    """A way to learn from images without labels.

    Attributes:
      network: everything that is trained; the backbone's arrays are named "backbone.…".
      optimizer: the one that `config.pretrain.optimizer` describes.
      reported: names of the metrics whose last values are part of the result.
    """

    reported: tuple[str, ...] = ("loss",)
    network: Functional
    optimizer: optax.GradientTransformationExtraArgs

    def __init__(
        self,
        config: ConfigDict,
        views: ViewSettings,
        freezable: Callable[[str], bool] | None = None,
    ):
        o = config.pretrain.optimizer
        self.optimizer = make_optimizer(
            o.name, clip=o.clip, clip_global=o.clip_global, freezable=freezable
        )
        self.config, self.view_settings = config, views

    @staticmethod
    def check(config: ConfigDict, options: Mapping[str, Any]) -> None:
        """Raises `UserError` if a model with these options cannot learn from this objective."""
        del config, options

    @staticmethod
    def adapt(views: ViewSettings) -> ViewSettings:
        """Returns the settings of the views that this objective uses."""
        return views

    @staticmethod
    def schedule(config: ConfigDict, steps_per_epoch: int) -> Schedule:
        """Values per step that this objective needs beside the optimizer's."""
        del config, steps_per_epoch
        return {}

    def views(self, images: UInt8[Array, "batch height width 3"], key: jax.Array) -> Views:
        """Returns the augmented views of a batch that `update` learns from."""
        return multi_crop(images, key, self.view_settings)

    @abc.abstractmethod
    def initial_state(self) -> Any:
        """Returns the state before the first step: a NamedTuple with `step` and `optimizer`."""

    @abc.abstractmethod
    def update(
        self,
        state: Any,
        views: Views,
        key: jax.Array,
        schedule: Mapping[str, Float[Array, ""]],
    ) -> tuple[Any, Metrics]:
        """Takes one training step; returns the new state and the step's metrics."""

    @abc.abstractmethod
    def backbone(self, state: Any) -> Arrays:
        """Returns the backbone that is evaluated and passed on, by its names in the backbone."""

    @abc.abstractmethod
    def describe_collapse(self, means: Mapping[str, float]) -> str | None:
        """Describes the collapse that an epoch's mean metrics show and what to try, or None."""


class TeacherlessObjective(Objective):
    """An objective whose only state is its network."""

    def initial_state(self) -> TrainState:
        """Returns the newly initialized network."""
        return TrainState.start(self.network.trainable, self.network.buffers, self.optimizer)

    def backbone(self, state: TrainState) -> Arrays:
        """Returns the weights and batch statistics of the backbone."""
        return backbone_arrays(state.params | state.buffers)


def backbone_arrays(arrays: Mapping[str, jax.Array]) -> Arrays:
    """The arrays of a network's backbone, by their names in the backbone."""
    prefix = "backbone."
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
