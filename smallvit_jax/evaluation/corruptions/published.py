"""Readers of published corrupted test sets: `.npy` files, image folders or TFDS directories."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.data.tfds_directory import check_prepared, data_root, read_tfds
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.corruptions.table import SEVERITIES

# The authors' names for the corrupted datasets.
NAMES = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C", "tiny_imagenet": "Tiny-ImageNet-C"}
_TFDS_BUILDER = "cifar10_corrupted"
_TFDS_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}

LabeledSplit = tuple[UInt8[np.ndarray, "images size size 3"], Int32[np.ndarray, " images"]]


class ArrayFiles:
    """`<kind>.npy`: all images at severity 1, then 2, ...; `labels.npy`: their labels."""

    def __init__(self, folder: Path, kinds: Sequence[str], size: int, test_labels: np.ndarray):
        """Checks every file's header; `test_labels` are the test split's, in any order."""
        self._folder = folder
        self._shape = (len(SEVERITIES) * len(test_labels), size, size, 3)
        _check_present(folder, [f"{kind}.npy" for kind in (*kinds, "labels")])
        for kind in kinds:
            self._open(kind)
        labels = _load(folder / "labels.npy")
        if labels.shape != self._shape[:1] or labels.dtype.kind not in "iu":
            raise UserError(
                f"{folder / 'labels.npy'} has {_shown(labels)} instead of {self._shape[0]} "
                "integers, one per image and severity; download it again"
            )
        repeats = labels.reshape(len(SEVERITIES), -1).astype(np.int32)
        if (repeats != repeats[0]).any():
            raise UserError(
                f"{folder / 'labels.npy'} does not repeat the same labels for each of the five "
                "severities; download it again"
            )
        self._labels = repeats[0]
        _check_labels(self._labels, test_labels, folder / "labels.npy")

    def read(self, kind: str, severity: int) -> LabeledSplit:
        """Returns images and labels in file order."""
        count = len(self._labels)
        start = SEVERITIES.index(severity) * count
        return np.array(self._open(kind)[start : start + count]), self._labels

    def _open(self, kind: str) -> np.ndarray:
        path = self._folder / f"{kind}.npy"
        images = _load(path)
        if images.shape != self._shape or images.dtype != np.uint8:
            wanted = "x".join(map(str, self._shape))
            raise UserError(
                f"{path} has {_shown(images)} instead of {wanted} uint8; download it again"
            )
        return images


class ImageFolders:
    """`<kind>/<severity>/<class>/*.JPEG`, the layout of Tiny-ImageNet-C."""

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        size: int,
        test_labels: np.ndarray,
        class_names: Sequence[str],
    ):
        """Checks that every kind and severity has a folder."""
        self._folder, self._size, self._test_labels = folder, size, test_labels
        self._numbers = {name: number for number, name in enumerate(class_names)}
        _check_present(folder, [f"{kind}/{s}" for kind in kinds for s in SEVERITIES])

    def read(self, kind: str, severity: int) -> LabeledSplit:
        """Returns images and labels in the order of their paths."""
        folder = self._folder / kind / str(severity)
        paths = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in (".jpeg", ".jpg"))
        known = [path for path in paths if path.parent.name in self._numbers]
        labels = np.array([self._numbers[path.parent.name] for path in known], np.int32)
        _check_labels(labels, self._test_labels, folder)
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(self._decode, known))), labels

    def _decode(self, path: Path) -> UInt8[np.ndarray, "size size 3"]:
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error}); unpack it again") from error
        if pixels.shape != (self._size, self._size, 3):
            raise UserError(
                f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels instead of "
                f"{self._size}x{self._size}; unpack it again"
            )
        return pixels


class TfdsDirectories:
    """TFDS's `cifar10_corrupted/<type>_<severity>`, prepared as array_record files."""

    def __init__(self, data_dir: str | Path | None, kinds: Sequence[str], test_labels: np.ndarray):
        """Checks the files of every kind and severity."""
        self._data_dir, self._test_labels = data_dir, test_labels
        names = [f"{_tfds_name(kind)}_{s}" for kind in kinds for s in SEVERITIES]
        folder = data_root(data_dir) / _TFDS_BUILDER
        _check_present(folder, names)
        for name in names:
            found = check_prepared(_tfds_spec(name), data_dir)
            count = found[1].get("test", 0) if found else 0
            if count != len(test_labels):
                raise UserError(
                    f"{folder / name} has {count} test images instead of {len(test_labels)}; copy "
                    "or prepare it again"
                )

    def read(self, kind: str, severity: int) -> LabeledSplit:
        """Returns images and labels in file order."""
        name = f"{_tfds_name(kind)}_{severity}"
        images, labels, _ = read_tfds(_tfds_spec(name), "test", self._data_dir)
        _check_labels(labels, self._test_labels, data_root(self._data_dir) / _TFDS_BUILDER / name)
        return images, labels


Published = ArrayFiles | ImageFolders | TfdsDirectories


def find_published(
    dataset: str,
    kinds: Sequence[str],
    *,
    root: str,
    data_dir: str | Path | None,
    size: int,
    test_labels: np.ndarray,
    class_names: Sequence[str],
) -> Published | None:
    """Returns a reader of a dataset's published images; None if there are none.

    `root` is the folder of the published files or its parent; if empty, only TFDS's directory is
    searched. Raises UserError if `root` contains no published files, or if they are incomplete or
    belong to another dataset.
    """
    if root:
        for folder in (Path(root).expanduser(), Path(root).expanduser() / NAMES.get(dataset, "")):
            if (folder / "labels.npy").is_file():
                return ArrayFiles(folder, kinds, size, test_labels)
            if (folder / kinds[0] / "1").is_dir():
                return ImageFolders(folder, kinds, size, test_labels, class_names)
        raise UserError(
            f"evaluate.corruptions.root={root} contains neither labels.npy nor folders such as "
            f"{kinds[0]}/1; set it to the folder of {NAMES.get(dataset, 'the published files')}"
        )
    if dataset == "cifar10" and (data_root(data_dir, _TFDS_BUILDER) / _TFDS_BUILDER).is_dir():
        return TfdsDirectories(data_dir, kinds, test_labels)
    return None


def _tfds_name(kind: str) -> str:
    return _TFDS_NAMES.get(kind, kind)


def _tfds_spec(name: str):
    return dataclasses.replace(get_dataset("cifar10"), builder=f"{_TFDS_BUILDER}/{name}")


def _check_present(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {len(names)} required entries, including "
            f"{missing[0]}; complete it, or set --config.evaluate.corruptions.source=regenerated"
        )


def _check_labels(labels: np.ndarray, test_labels: np.ndarray, where: Path) -> None:
    """The order may differ, as TFDS shuffles, but not the number of images per class."""
    if not np.array_equal(np.sort(labels), np.sort(test_labels)):
        raise UserError(
            f"the labels in {where} do not match those of the {len(test_labels)} test images in "
            "any order, so these are corruptions of another dataset; choose the matching folder"
        )


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error


def _shown(array: np.ndarray) -> str:
    return f"{'x'.join(map(str, array.shape))} {array.dtype}"
