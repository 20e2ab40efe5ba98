"""Reads a prepared TFDS dataset (array_record files) without TensorFlow and without a network.

TFDS itself responds to a missing dataset with minutes of download attempts and to damage with
tracebacks, so all likely problems are checked first and any other failure becomes one sentence.
"""

import contextlib
import os
import re
import shlex
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Int32, UInt8

from smallvit_jax.data.datasets import DatasetSpec
from smallvit_jax.errors import UserError, did_you_mean
from smallvit_jax.process.remote import copy_path, is_remote, local_copy
from smallvit_jax.process.terminal import progress

_RECORDS_AT_ONCE = 1000
_COPY_AGAIN = "delete the dataset and copy or prepare it again"


def read_tfds(
    spec: DatasetSpec, split: str, data_dir: str | Path | None
) -> tuple[UInt8[np.ndarray, "images size size 3"], Int32[np.ndarray, " images"], tuple[str, ...]]:
    """Decodes one split of `<data_dir>/<builder>/<newest version>`: images, labels, class names.

    `split` is the name used in the directory. Raises UserError if the directory or its files do not
    match `spec` and the dataset's own dataset_info.json.
    """
    directory = _find_version(spec, data_dir)
    with quiet_tfds() as tfds:
        dataset, shards = _open(tfds, directory, spec, data_dir)
        if split not in shards:
            raise UserError(
                f'split "{split}"{did_you_mean(split, shards)} is not in {directory}, which has '
                f"{', '.join(shards) or 'none'}; {_COPY_AGAIN}"
            )
        _check_features(dataset.info.features, directory, spec.num_classes)
        _check_files(shards[split])
        images, labels = _decode(
            dataset.as_data_source(split=split),
            f'split "{split}" in {directory}',
            spec.stored_size,
            spec.num_classes,
        )
        return images, labels, tuple(dataset.info.features["label"].names)


def check_prepared(
    spec: DatasetSpec, data_dir: str | Path | None
) -> tuple[Path, dict[str, int]] | None:
    """Returns the dataset's folder and the number of images in each split; None if it is missing.

    Checks every file but decodes no images. Raises UserError as `read_tfds` does.
    """
    versions = _versions(data_root(data_dir, spec.builder) / spec.builder)
    if not versions:
        return None
    with quiet_tfds() as tfds:
        dataset, shards = _open(tfds, versions[-1], spec, data_dir)
        _check_features(dataset.info.features, versions[-1], spec.num_classes)
        for files in shards.values():
            _check_files(files)
    return versions[-1], {
        split: sum(count for _, count in files) for split, files in shards.items()
    }


def data_root(data_dir: str | Path | None, builder: str = "") -> Path:
    """The folder that holds TFDS datasets.

    If it is elsewhere, such as gs://bucket/data, that is the folder of its copies on this machine,
    to which `builder` is copied. Raises UserError if that fails.
    """
    chosen = str(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    if not is_remote(chosen):
        return Path(chosen).expanduser().absolute()
    if builder:
        local_copy(f"{chosen.rstrip('/')}/{builder.partition('/')[0]}", missing_ok=True)
    return copy_path(chosen)


def _find_version(spec: DatasetSpec, data_dir: str | Path | None) -> Path:
    """Returns the directory of the newest version; looks at directory names only."""
    root = data_root(data_dir, spec.builder)
    folder = root / spec.builder
    prepare = f"or prepare the dataset there once: {_prepare_command(spec, root)}"
    if not folder.is_dir() and is_remote(data_dir):
        raise UserError(f"dataset {spec.builder} is not in {data_dir}; copy it there")
    if not folder.is_dir():
        hint = ""
        if (root / "dataset_info.json").exists():  # <data_dir>/<builder>/<version>
            hint = f"; that folder is itself a dataset, so you may mean {root.parent.parent}"
        elif _versions(root):
            hint = f"; that folder is itself a dataset, so you may mean {root.parent}"
        raise UserError(
            f"dataset {spec.builder} is not in {root}{hint}; pass --data_dir or set TFDS_DATA_DIR "
            f"to the folder that contains {spec.builder}/, {prepare}"
        )
    versions = _versions(folder)
    if not versions:
        raise UserError(
            f"{folder} has no version of the dataset (a folder such as {spec.builder}/1.0.0); "
            f"pass --data_dir or set TFDS_DATA_DIR to a complete copy, {prepare}"
        )
    return versions[-1]


def _versions(folder: Path) -> list[Path]:
    """The version directories in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name) and p.is_dir()]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


def _prepare_command(spec: DatasetSpec, root: Path) -> str:
    original = " --manual_dir=ORIGINAL" if spec.original else ""
    return (
        f"python -m smallvit_jax.data.prepare {spec.name}{original} "
        f"--data_dir={shlex.quote(str(root))}"
    )


def _open(tfds, directory: Path, spec: DatasetSpec, data_dir: str | Path | None):
    """Returns the dataset, and the path and number of records of each file of each split."""
    try:
        dataset = tfds.builder_from_directory(directory)
        file_format = dataset.info.file_format.value
        shards = {
            name: list(zip(part.filepaths, part.shard_lengths, strict=True))
            for name, part in dataset.info.splits.items()
        }
    except Exception as error:
        raise UserError(
            f"dataset_info.json or features.json in {directory} is missing or damaged "
            f"({_reason(error)}); {_COPY_AGAIN}"
        ) from error
    expected = spec.builder.partition("/")[0]
    if dataset.info.name != expected:
        raise UserError(
            f"{directory} holds the dataset {dataset.info.name}, not {expected}; give a --data_dir "
            f"whose {expected}/ is that dataset"
        )
    if file_format != "array_record":
        other = data_root(data_dir) / "array_record"
        raise UserError(
            f"the dataset in {directory} is stored as {file_format}, which needs TensorFlow to "
            f"read; prepare it again in another folder: {_prepare_command(spec, other)}"
        )
    return dataset, shards


@contextlib.contextmanager
def quiet_tfds():
    """Imports TFDS and hides its advice (install OpenCV, …) while the context is open."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        try:
            import array_record  # noqa: F401  TFDS requires it on Linux only
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise UserError(
                f"TFDS datasets cannot be read here ({_reason(error)}); "
                "pip install tensorflow-datasets array_record"
            ) from error
        yield tfds
    finally:
        logging.set_verbosity(verbosity)


def _check_features(features, directory: Path, num_classes: int) -> None:
    if "image" not in features or "label" not in features:
        raise UserError(
            f'the examples in {directory} have {", ".join(features)} but need an "image" and a '
            '"label"; give another --data_dir'
        )
    classes = getattr(features["label"], "num_classes", None)
    if classes != num_classes:
        raise UserError(
            f"{directory} has {classes} classes instead of {num_classes}; give a --data_dir that "
            "holds the original dataset"
        )


def _check_files(shards: list[tuple[os.PathLike, int]]) -> None:
    """Checks that every file of a split exists and has the right number of records."""
    from array_record.python import array_record_module

    for file, expected in shards:
        if not os.path.exists(file):
            raise UserError(
                f"{file} is missing, one of the {len(shards)} files of its split; {_COPY_AGAIN}"
            )
        try:
            reader = array_record_module.ArrayRecordReader(os.fspath(file))
            count = reader.num_records()
            reader.close()
        except Exception as error:
            raise UserError(
                f"{file} is incomplete or damaged ({_reason(error)}); {_COPY_AGAIN}"
            ) from error
        if count != expected:
            raise UserError(
                f"{file} has {count} records but dataset_info.json says {expected}; {_COPY_AGAIN}"
            )


def _decode(source, where: str, image_size: int, num_classes: int):
    """Decodes every record once, in order."""
    images = np.empty((len(source), image_size, image_size, 3), np.uint8)
    labels = np.empty(len(source), np.int32)
    with progress("decoding images", len(source)) as advance:
        for start in range(0, len(source), _RECORDS_AT_ONCE):
            batch = range(start, min(start + _RECORDS_AT_ONCE, len(source)))
            try:
                examples = source.__getitems__(batch)
            except Exception:
                _raise_for_bad_record(source, batch, where)
            for number, example in zip(batch, examples, strict=True):
                image, label = example["image"], example["label"]
                if image.shape != images.shape[1:] or image.dtype != np.uint8:
                    found = f"{'x'.join(map(str, image.shape))} {image.dtype}"
                    raise UserError(
                        f"image {number} of {where} is {found} instead of {image_size}x{image_size}"
                        "x3 uint8; prepare the dataset again with images of that size"
                    )
                if label is None or not -1 <= label < num_classes:
                    raise UserError(
                        f"record {number} of {where} has label {label}, not one of the "
                        f"{num_classes} classes; {_COPY_AGAIN}"
                    )
                images[number], labels[number] = image, label
            advance(len(batch))
    return images, labels


def _raise_for_bad_record(source, batch: range, where: str) -> NoReturn:
    """A batch fails as a whole, so this looks for the record that caused it."""
    for number in batch:
        try:
            source[number]
        except Exception as error:
            raise UserError(
                f"record {number} of {where} cannot be read ({_reason(error)}); {_COPY_AGAIN}"
            ) from error
    raise UserError(
        f"records {batch.start} to {batch.stop - 1} of {where} could be read only on the second "
        "attempt; check the disk, then try again"
    )


def _reason(error: Exception) -> str:
    """The first line of an exception's message, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
