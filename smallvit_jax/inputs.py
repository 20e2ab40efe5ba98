"""What every job takes from the config: its data and its model."""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict

from smallvit_jax.data import DatasetInfo, load_split
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.data.subsets import TrainingSubsets, split_training_set
from smallvit_jax.models import resolve_options


class Split(NamedTuple):
    """Images with their labels (-1: none)."""

    images: UInt8[np.ndarray, "count height width 3"]
    labels: Int32[np.ndarray, " count"]

    def take(self, indices: np.ndarray) -> "Split":
        """The part at the given indices."""
        if len(indices) == len(self.labels):  # all of them, which are sorted: no copy
            return self
        return Split(self.images[indices], self.labels[indices])


class Data(NamedTuple):
    """A dataset as one run uses it."""

    info: DatasetInfo
    train: Split
    test: Split
    subsets: TrainingSubsets


def load_data(config: ConfigDict, data_dir: str | None) -> Data:
    """Reads both splits and chooses the subsets that `config.dataset` asks for."""
    name = config.dataset.name
    *train, info = _load_split_once(name, "train", data_dir)
    *test, _ = _load_split_once(name, "test", data_dir)
    subsets = split_training_set(
        train[1],
        train_fraction=config.dataset.train_fraction,
        validation_fraction=config.dataset.validation_fraction,
        labels_per_class=config.dataset.labels_per_class,
        seed=config.seed,
        class_names=info.class_names,
    )
    return Data(info, Split(*train), Split(*test), subsets)


# The stages of a recipe read the same images: decode them once, and keep nothing else.
_load_split_once = functools.lru_cache(maxsize=2)(load_split)


def model_options(config: ConfigDict) -> dict[str, Any]:
    """All arguments of `create_model` that do not depend on the job, ready for JSON.

    Fields that are None are the dataset's (image size) or the family's (the rest).
    """
    options = {k: v for k, v in config.model.items() if v is not None}
    options.setdefault("image_size", get_dataset(config.dataset.name).image_size)
    return resolve_options(**options)


def describe_data(info: DatasetInfo) -> dict[str, Any]:
    """What a checkpoint tells of the images that its model was made for, ready for JSON."""
    return {
        "dataset": info.name,
        "class_names": list(info.class_names),
        "mean": list(info.mean),
        "std": list(info.std),
    }
