"""What every job takes from the config: its data and its model."""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict

from smallvit_jax.data import DatasetInfo, load_split
from smallvit_jax.data.datasets import FOLDER, DatasetSpec, get_dataset
from smallvit_jax.data.folder import Folder, choose_image_size, read_folder, typical_side
from smallvit_jax.data.folder_layout import Layout, scan_folder
from smallvit_jax.data.image_files import list_names
from smallvit_jax.data.subsets import TrainingSubsets, split_training_set
from smallvit_jax.errors import UserError
from smallvit_jax.models import resolve_options


class Split(NamedTuple):
    """Images with their labels (-1: none)."""

    images: UInt8[np.ndarray, "count height width 3"]
    labels: Int32[np.ndarray, " count"]

    def take(self, indices: np.ndarray) -> "Split":
        """The part at the given sorted indices; no copy where they follow one another."""
        if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
            indices = slice(indices[0], indices[-1] + 1)
        return Split(self.images[indices], self.labels[indices])


class Data(NamedTuple):
    """A dataset as one run uses it."""

    info: DatasetInfo
    train: Split
    test: Split  # without images for a folder that has none to test on
    subsets: TrainingSubsets


def load_data(config: ConfigDict, data_dir: str | None, image_size: int | None = None) -> Data:
    """Reads both splits and chooses the subsets that `config.dataset` asks for.

    `image_size` is that of a trained model which is to see the images; without it, a folder is read
    at the size that the config means to train at. Of a folder with a validation part, `train` holds
    that too, and `subsets.validation` says where.
    """
    if config.dataset.name == FOLDER:
        return _load_folder(config, image_size)
    name = config.dataset.name
    *train, info = _load_split_once(name, "train", data_dir)
    *test, _ = _load_split_once(name, "test", data_dir)
    return Data(info, Split(*train), Split(*test), _choose_subsets(config, train[1], info))


# The stages of a recipe read the same images: decode them once, and keep nothing else.
_load_split_once = functools.lru_cache(maxsize=2)(load_split)


def dataset_spec(config: ConfigDict) -> DatasetSpec:
    """The row of the dataset table, or what measuring the folder of images gives in its place."""
    if config.dataset.name == FOLDER:
        return _read_folder(config).spec
    return get_dataset(config.dataset.name)


def check_same_classes(meta: dict[str, Any], info: DatasetInfo, source: str) -> None:
    """Raises `UserError` where a checkpoint's classifier was made for other classes, or for the
    same in another order."""
    theirs, ours = list(meta["class_names"]), list(info.class_names)
    if not meta["model"]["num_classes"] or theirs == ours:
        return
    raise UserError(
        f"{source} tells {list_names(theirs)} apart and the images are of {list_names(ours)}; name "
        "their class folders as in training, all of them"
    )


def _load_folder(config: ConfigDict, image_size: int | None) -> Data:
    folder = _read_folder(config, image_size)
    training, validation, _ = folder.counts
    subsets = _choose_subsets(config, folder.labels[:training], folder.info)
    if validation:
        subsets = subsets._replace(validation=np.arange(training, training + validation))
    train, test = np.split(np.arange(sum(folder.counts)), [training + validation])
    everything = Split(folder.images, folder.labels)
    return Data(folder.info, everything.take(train), everything.take(test), subsets)


def _read_folder(config: ConfigDict, image_size: int | None = None) -> Folder:
    dataset = config.dataset
    layout, side = _scan_folder_once(dataset.root)
    _check_folder(config, layout)
    return _read_folder_once(
        dataset.root,
        image_size or config.model.image_size or choose_image_size(side),
        dataset.test_fraction,
        dataset.unreadable_fraction,
    )


@functools.lru_cache(maxsize=1)
def _scan_folder_once(root: str) -> tuple[Layout, int]:
    layout = scan_folder(root)
    return layout, typical_side(layout)


@functools.lru_cache(maxsize=1)
def _read_folder_once(
    root: str, image_size: int, test_fraction: float, unreadable_fraction: float
) -> Folder:
    folder = read_folder(
        *_scan_folder_once(root),
        image_size,
        test_fraction=test_fraction,
        unreadable_fraction=unreadable_fraction,
    )
    print(folder.description, flush=True)
    return folder


def _check_folder(config: ConfigDict, layout: Layout) -> None:
    """Raises `UserError` where the job needs what the folder has not."""
    dataset = config.dataset
    if layout.validation.paths and dataset.validation_fraction:
        raise UserError(
            f"dataset.validation_fraction is {dataset.validation_fraction:g}, but {layout.field} "
            "has images of its own to judge the best epoch by; set it to 0"
        )
    if config.job not in _NEED_LABELS:
        return
    need = f'labels, which the job "{config.job}" needs'
    if not layout.class_names:
        raise UserError(
            f"{layout.field} has no class folders and so no {need}; put the images of each class "
            'into a folder of its own, or use the job "pretrain", which needs none'
        )
    if not layout.test.labelled:
        raise UserError(
            f"the images to test on in {layout.field} have no class folders and so no {need}; put "
            "them into class folders named as in training"
        )
    if not layout.test.paths and not dataset.test_fraction:
        raise UserError(
            f"dataset.test_fraction is 0 and {layout.field} has no folder test/, but the job "
            f'"{config.job}" needs images to test on; give either'
        )


_NEED_LABELS = ("finetune", "recipe", "evaluate", "data_efficiency", "compare", "sweep")


def _choose_subsets(
    config: ConfigDict, labels: Int32[np.ndarray, " train"], info: DatasetInfo
) -> TrainingSubsets:
    return split_training_set(
        labels,
        train_fraction=config.dataset.train_fraction,
        validation_fraction=config.dataset.validation_fraction,
        labels_per_class=config.dataset.labels_per_class,
        label_fraction=config.dataset.label_fraction,
        seed=config.seed,
        class_names=info.class_names,
    )


def model_options(config: ConfigDict) -> dict[str, Any]:
    """All arguments of `create_model` that do not depend on the job, ready for JSON.

    Fields that are None are the dataset's (image size) or the family's (the rest).
    """
    options = {k: v for k, v in config.model.items() if v is not None}
    if "image_size" not in options:
        options["image_size"] = dataset_spec(config).image_size
    return resolve_options(**options)


def describe_data(info: DatasetInfo) -> dict[str, Any]:
    """What a checkpoint tells of the images that its model was made for, ready for JSON."""
    return {
        "dataset": info.name,
        "class_names": list(info.class_names),
        "mean": list(info.mean),
        "std": list(info.std),
    }
