"""Reads any dataset into memory."""

from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from smallvit_jax.data.datasets import FOLDER, DatasetInfo, get_dataset
from smallvit_jax.data.digits import read_digits
from smallvit_jax.data.tfds_directory import read_tfds
from smallvit_jax.errors import UserError, did_you_mean


def load_split(
    name: str, split: str, data_dir: str | Path | None = None
) -> tuple[UInt8[np.ndarray, "images size size 3"], Int32[np.ndarray, " images"], DatasetInfo]:
    """Reads and decodes "train" or "test" of a dataset in the table, or of a folder of images.

    Images are uint8 in the table's stored size, which for photographs exceeds the training size
    `image_size`; labels are 0 to num_classes - 1, or -1 for unlabeled images. `data_dir` holds TFDS
    datasets as `<builder>/<version>/`; None means $TFDS_DATA_DIR, else ~/tensorflow_datasets. For
    the name "folder" it is the folder of images (see `data.folder`). Raises UserError for an
    unknown name or split and for files that are missing (within a second), incomplete, damaged or
    in another format.
    """
    spec = None if name == FOLDER else get_dataset(name)
    if split not in ("train", "test"):
        raise UserError(
            f'{name} has no split "{split}"{did_you_mean(split, ("train", "test"))}; choose train '
            "or test"
        )
    if spec is None:
        return _load_folder(split, data_dir)
    splits = {"train": spec.train_split, "test": spec.test_split}
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


def _load_folder(split: str, root: str | Path | None):
    from smallvit_jax.data.folder import choose_image_size, read_folder, typical_side
    from smallvit_jax.data.folder_layout import scan_folder

    if root is None:
        raise UserError('the dataset "folder" needs data_dir; give the folder of your images')
    layout = scan_folder(root)
    side = typical_side(layout)
    folder = read_folder(layout, side, choose_image_size(side))
    return *folder.part(split), folder.info
