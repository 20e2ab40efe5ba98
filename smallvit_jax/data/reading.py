"""One function that reads any dataset of the table into memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.data.digits import read_digits
from smallvit_jax.data.tfds_directory import read_tfds
from smallvit_jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class DatasetInfo:
    """What training, checkpoints and reports need to know of a dataset; mean and std on a scale of
    0 to 1."""

    name: str
    class_names: tuple[str, ...]
    num_classes: int
    image_size: int  # that models are trained at; the images may be larger
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_split(
    name: str, split: str, data_dir: str | Path | None = None
) -> tuple[UInt8[np.ndarray, "images size size 3"], Int32[np.ndarray, " images"], DatasetInfo]:
    """Reads and decodes "train" or "test" of a dataset of the table.

    Images are uint8 and of the table's stored size, which for photographs exceeds the `image_size`
    that models are trained at; labels are 0 to num_classes - 1, or -1 where there is none.
    `data_dir` holds TFDS datasets as `<builder>/<version>/`; None means the environment's
    TFDS_DATA_DIR, else ~/tensorflow_datasets. Raises UserError, within a second where something is
    missing, for an unknown name or split and for files that are absent, incomplete, damaged or of
    another format.
    """
    spec = get_dataset(name)
    splits = {"train": spec.train_split, "test": spec.test_split}
    if split not in splits:
        raise UserError(
            f'{name} has no split "{split}"{did_you_mean(split, splits)}; choose train or test'
        )
    if spec.builder:
        images, labels, class_names = read_tfds(spec, splits[split], data_dir)
    else:
        images, labels, class_names = read_digits(split, spec.stored_size)
    info = DatasetInfo(
        name=spec.name,
        class_names=class_names,
        num_classes=spec.num_classes,
        image_size=spec.image_size,
        mean=spec.mean,
        std=spec.std,
    )
    return images, labels, info
