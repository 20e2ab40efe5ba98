"""What every job takes from the config: its dataset and its model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.data.datasets import FOLDER, DatasetInfo, DatasetSpec, get_dataset
from smallvit_jax.data.folder import choose_image_size, read_folder, typical_side
from smallvit_jax.data.folder_layout import FolderLayout, scan_folder
from smallvit_jax.data.image_files import list_names
from smallvit_jax.data.reading import load_split
from smallvit_jax.data.subsets import TrainingSubsets, split_training_set
from smallvit_jax.errors import UserError
from smallvit_jax.models import resolve_options


class LabeledImages(NamedTuple):
    """Images with their labels (-1: none)."""

    images: UInt8[np.ndarray, "count height width 3"]
    labels: Int32[np.ndarray, " count"]

    def take(self, indices: np.ndarray) -> "LabeledImages":
        """The images at the given sorted indices; no copy if the indices are consecutive."""
        if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
            indices = slice(indices[0], indices[-1] + 1)
        return LabeledImages(self.images[indices], self.labels[indices])


class Data(NamedTuple):
    """A dataset as one run uses it.

    Attributes:
      info: name, classes, mean and std: what checkpoints and reports record.
      spec: the row of the dataset table, or what measuring a folder gives in its place.
      train: all training images, among them those of the validation part.
      test: test images; none for a folder that has none.
      subsets: which training images are used, have a label, or belong to the validation part.
    """

    info: DatasetInfo
    spec: DatasetSpec
    train: LabeledImages
    test: LabeledImages
    subsets: TrainingSubsets


class DatasetReader:
    """Reads the datasets of one job and keeps the last one, so that its stages share the images.

    `data_dir` is the folder of prepared TFDS datasets; None: the environment's TFDS_DATA_DIR.
    """

    def __init__(self, data_dir: str | Path | None = None):
        self.data_dir = data_dir
        self._layout: tuple[str, FolderLayout, int] | None = None  # root, what it holds, side
        self._read: tuple[tuple, _Images] | None = None  # what was asked for, what was read

    def load(self, config: ConfigDict, image_size: int | None = None) -> Data:
        """Reads both splits and chooses the subsets that `config.dataset` asks for.

        A folder is read at `image_size` pixels (that of a trained model, say); None: the size that
        the config trains at. Raises UserError for a dataset that is missing, damaged or not what
        the job needs.
        """
        name = config.dataset.name
        read = self._folder(config, image_size) if name == FOLDER else self._prepared(name)
        used = len(read.train.labels) - read.validation
        subsets = split_training_set(
            read.train.labels[:used],
            train_fraction=config.dataset.train_fraction,
            validation_fraction=config.dataset.validation_fraction,
            labels_per_class=config.dataset.labels_per_class,
            label_fraction=config.dataset.label_fraction,
            seed=config.seed,
            class_names=read.info.class_names,
        )
        if read.validation:
            subsets = subsets._replace(validation=np.arange(used, used + read.validation))
        return Data(read.info, read.spec, read.train, read.test, subsets)

    def _prepared(self, name: str) -> "_Images":
        if self._read is None or self._read[0] != (name,):
            self._read = None  # frees the images before the next ones are read
            *train, info = load_split(name, "train", self.data_dir)
            *test, _ = load_split(name, "test", self.data_dir)
            images = (LabeledImages(*train), LabeledImages(*test))
            self._read = (name,), _Images(info, get_dataset(name), *images, validation=0)
        return self._read[1]

    def _folder(self, config: ConfigDict, image_size: int | None) -> "_Images":
        dataset = config.dataset
        if self._layout is None or self._layout[0] != dataset.root:
            layout = scan_folder(dataset.root)
            self._layout = dataset.root, layout, typical_side(layout)
        _, layout, side = self._layout
        _check_folder(config, layout)
        size = image_size or config.model.image_size or choose_image_size(side)
        key = (dataset.root, size, dataset.test_fraction, dataset.unreadable_fraction)
        if self._read is None or self._read[0] != key:
            self._read = None
            folder = read_folder(
                layout,
                side,
                size,
                test_fraction=dataset.test_fraction,
                unreadable_fraction=dataset.unreadable_fraction,
            )
            print(folder.description, flush=True)
            train, validation, _ = folder.counts
            split = train + validation
            self._read = (
                key,
                _Images(
                    folder.info,
                    folder.spec,
                    LabeledImages(folder.images[:split], folder.labels[:split]),
                    LabeledImages(folder.images[split:], folder.labels[split:]),
                    validation,
                ),
            )
        return self._read[1]


class _Images(NamedTuple):
    """Both splits of a dataset; the last `validation` training images choose the best epoch."""

    info: DatasetInfo
    spec: DatasetSpec
    train: LabeledImages
    test: LabeledImages
    validation: int


def _check_folder(config: ConfigDict, layout: FolderLayout) -> None:
    """Raises `UserError` if the folder lacks what the job needs."""
    dataset = config.dataset
    if layout.validation.paths and dataset.validation_fraction:
        raise UserError(
            f"dataset.validation_fraction is {dataset.validation_fraction:g}, but {layout.field} "
            "has validation images of its own; set it to 0"
        )
    if not JOBS[config.job].needs_labels:
        return
    need = f'labels, which the job "{config.job}" needs'
    if not layout.class_names:
        raise UserError(
            f"{layout.field} has no class folders and so no {need}; put the images of each class "
            'into a folder of its own, or use the job "pretrain", which needs none'
        )
    if not layout.test.labeled:
        raise UserError(
            f"the images to test on in {layout.field} have no class folders and so no {need}; put "
            "them into class folders named as in training"
        )
    if not layout.test.paths and not dataset.test_fraction:
        raise UserError(
            f"dataset.test_fraction is 0 and {layout.field} has no folder test/, but the job "
            f'"{config.job}" needs images to test on; provide one of the two'
        )


def check_same_classes(meta: Mapping[str, Any], info: DatasetInfo, source: str) -> None:
    """Raises `UserError` if a checkpoint's classifier was trained on other classes, or on the same
    ones in another order."""
    theirs, ours = list(meta["class_names"]), list(info.class_names)
    if not meta["model"]["num_classes"] or theirs == ours:
        return
    raise UserError(
        f"{source} was trained on classes {list_names(theirs)}, but the images contain "
        f"{list_names(ours)}; name their class folders as in training, all of them"
    )


def model_options(config: ConfigDict, spec: DatasetSpec) -> dict[str, Any]:
    """All arguments of `create_model` that do not depend on the job, ready for JSON.

    Fields that are None become the dataset's value (image size) or the model family's (the rest).
    """
    options = {k: v for k, v in config.model.items() if v is not None}
    return resolve_options(**{"image_size": spec.image_size, **options})


def describe_data(info: DatasetInfo) -> dict[str, Any]:
    """What a checkpoint records of the images that its model was trained on, ready for JSON."""
    return {
        "dataset": info.name,
        "class_names": list(info.class_names),
        "mean": list(info.mean),
        "std": list(info.std),
    }
