"""Builds the dataset and the model options of a job from the config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.data.datasets import DATASETS, FOLDER, DatasetInfo, DatasetSpec, get_dataset
from smallvit_jax.data.folder import choose_image_size, read_folder, typical_side
from smallvit_jax.data.folder_layout import FolderLayout, scan_folder
from smallvit_jax.data.image_files import list_names
from smallvit_jax.data.reading import load_split
from smallvit_jax.data.subsets import TrainingSubsets, split_training_set
from smallvit_jax.errors import UserError
from smallvit_jax.models import resolve_options


class LabeledImages(NamedTuple):
    """Images with their labels; -1 means unlabeled."""

    images: UInt8[np.ndarray, "count height width 3"]
    labels: Int32[np.ndarray, " count"]

    def take(self, indices: np.ndarray) -> "LabeledImages":
        """Returns the images at sorted indices, without a copy if they are consecutive."""
        rows: np.ndarray | slice = indices
        if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
            rows = slice(indices[0], indices[-1] + 1)
        return LabeledImages(self.images[rows], self.labels[rows])


class Data(NamedTuple):
    """A dataset as used by one run.

    Attributes:
      info: name, classes, mean and std, as recorded in checkpoints and reports.
      spec: the row of the dataset table, or its equivalent as measured from a folder.
      train: all training images, including the validation part.
      test: test images; empty for a folder without any.
      subsets: which training images are used, labeled, or in the validation part.
    """

    info: DatasetInfo
    spec: DatasetSpec
    train: LabeledImages
    test: LabeledImages
    subsets: TrainingSubsets


class DatasetReader:
    """Reads the datasets of one job and keeps the last one, so that stages share the images.

    `data_dir` is the folder with prepared TFDS datasets; None means $TFDS_DATA_DIR.
    """

    def __init__(self, data_dir: str | Path | None = None):
        self.data_dir = data_dir
        self._layout: tuple[str, FolderLayout, int] | None = None  # root, layout, side
        self._read: tuple[tuple, _Images] | None = None  # key, images

    def load(self, config: ConfigDict, image_size: int | None = None) -> Data:
        """Reads both splits and selects the subsets described by `config.dataset`.

        Folders are read at `image_size` pixels, for example that of a trained model; None means the
        size that the config trains at. Raises UserError if the dataset is missing, damaged or not
        suitable for the job.
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


class DatasetShapes(DatasetReader):
    """Stands for the datasets of the table without reading them: images are 0 and take no memory.

    For programs that are compiled but not run.
    """

    def _prepared(self, name: str) -> "_Images":
        spec = get_dataset(name)

        def split(count: int) -> LabeledImages:
            images = np.broadcast_to(np.uint8(0), (count, *2 * (spec.stored_size,), 3))
            return LabeledImages(images, np.arange(count, dtype=np.int32) % spec.num_classes)

        info = DatasetInfo(
            name,
            tuple(map(str, range(spec.num_classes))),
            spec.num_classes,
            spec.image_size,
            spec.mean,
            spec.std,
        )
        return _Images(info, spec, split(spec.train_images), split(spec.num_classes), 0)

    def _folder(self, config: ConfigDict, image_size: int | None) -> "_Images":
        raise UserError(
            "no images are read, so a folder's number and size of images are not known; give a "
            f"dataset of the table that is about as large: {', '.join(DATASETS)}"
        )


class _Images(NamedTuple):
    """Both splits of a dataset; the last `validation` training images are for validation."""

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
            "already has validation images; set it to 0"
        )
    if not JOBS[config.job].needs_labels:
        return
    no_labels = f'no labels, which the job "{config.job}" needs'
    if not layout.class_names:
        raise UserError(
            f"{layout.field} has no class folders, so it has {no_labels}; put the images of each "
            'class into their own folder, or use the job "pretrain", which needs no labels'
        )
    if not layout.test.labeled:
        raise UserError(
            f"the test images in {layout.field} have no class folders, so they have {no_labels}; "
            "put them into class folders named as in training"
        )
    if not layout.test.paths and not dataset.test_fraction:
        raise UserError(
            f"dataset.test_fraction is 0 and {layout.field} has no folder test/, but the job "
            f'"{config.job}" needs test images; provide one of the two'
        )


def check_same_classes(meta: Mapping[str, Any], info: DatasetInfo, source: str) -> None:
    """Raises `UserError` if a checkpoint's classifier was trained on other classes or another class
    order."""
    trained, given = list(meta["class_names"]), list(info.class_names)
    if not meta["model"]["num_classes"] or trained == given:
        return
    raise UserError(
        f"{source} was trained on classes {list_names(trained)}, but the images contain "
        f"{list_names(given)}; use the same class folders as in training"
    )


def model_options(config: ConfigDict, spec: DatasetSpec) -> dict[str, Any]:
    """Returns all arguments of `create_model` that do not depend on the job, ready for JSON.

    Fields that are None take the dataset's value (image size) or the model family's (all others).
    """
    options = {k: v for k, v in config.model.items() if v is not None}
    return resolve_options(**{"image_size": spec.image_size, **options})


def describe_data(info: DatasetInfo) -> dict[str, Any]:
    """Returns what a checkpoint records about its training images, ready for JSON."""
    return {
        "dataset": info.name,
        "class_names": list(info.class_names),
        "mean": list(info.mean),
        "std": list(info.std),
    }
