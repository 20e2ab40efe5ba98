"""Reading a prepared TFDS dataset (array_record files) without TensorFlow and without the network.

TFDS itself meets a missing dataset with minutes of download attempts and meets damage with its own
tracebacks, so everything that can be wrong is looked for first, and what still fails is said in one
sentence.
"""

import contextlib
import os
import re
import shlex
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Int32, UInt8

from smallvit_jax.errors import UserError, did_you_mean

_RECORDS_AT_ONCE = 1000
_RECORDS_WORTH_A_BAR = 5000  # about half a second
_COPY_AGAIN = "copy or prepare the dataset again"


def read_tfds(
    builder: str, split: str, data_dir: str | Path | None, *, image_size: int, num_classes: int
) -> tuple[UInt8[np.ndarray, "images size size 3"], Int32[np.ndarray, " images"], tuple[str, ...]]:
    """Decodes one split of `<data_dir>/<builder>/<newest version>`: images, labels, class names.

    Raises UserError where the directory or its files are not what `image_size` (pixels per side),
    `num_classes` and the dataset's own dataset_info.json promise.
    """
    directory = _find_version(builder, data_dir)
    with _quiet_tfds() as tfds:
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
        if file_format != "array_record":
            other = _data_root(data_dir) / "array_record"
            raise UserError(
                f"the dataset in {directory} is stored as {file_format}, which needs TensorFlow to "
                "read; prepare it once more in another folder, with TensorFlow installed: "
                f"{_prepare_command(builder, other)}"
            )
        if split not in shards:
            raise UserError(
                f'{directory} has no split "{split}"{did_you_mean(split, shards)}, only '
                f"{', '.join(shards) or 'none at all'}; {_COPY_AGAIN}"
            )
        _check_features(dataset.info.features, directory, num_classes)
        _check_files(shards[split])
        images, labels = _decode(
            dataset.as_data_source(split=split),
            f'split "{split}" in {directory}',
            image_size,
            num_classes,
        )
        return images, labels, tuple(dataset.info.features["label"].names)


def _data_root(data_dir: str | Path | None) -> Path:
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser().absolute()


def _find_version(builder: str, data_dir: str | Path | None) -> Path:
    """Returns the directory of the newest version; looks at directory names only."""
    root = _data_root(data_dir)
    folder = root / builder
    prepare = (
        "or prepare the dataset there once, with TensorFlow installed: "
        f"{_prepare_command(builder, root)}"
    )
    if not folder.is_dir():
        hint = ""
        if (root / "dataset_info.json").exists():  # <data_dir>/<builder>/<version>
            hint = f"; that is itself a dataset, so the folder to give may be {root.parent.parent}"
        elif _versions(root):
            hint = f"; that is itself a dataset, so the folder to give may be {root.parent}"
        raise UserError(
            f"dataset {builder} is not in {root}{hint}; pass --data_dir or set TFDS_DATA_DIR to "
            f"the folder that has {builder}/ in it, {prepare}"
        )
    versions = _versions(folder)
    if not versions:
        raise UserError(
            f"{folder} holds no version of the dataset (a folder such as {builder}/1.0.0); pass "
            f"--data_dir or set TFDS_DATA_DIR to a complete copy, {prepare}"
        )
    return versions[-1]


def _versions(folder: Path) -> list[Path]:
    """The version directories in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name) and p.is_dir()]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


def _prepare_command(builder: str, root: Path) -> str:
    return f"tfds build {builder} --file_format=array_record --data_dir={shlex.quote(str(root))}"


@contextlib.contextmanager
def _quiet_tfds():
    """Imports TFDS and keeps its advice (install OpenCV, …) from the terminal meanwhile."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        try:
            import array_record  # noqa: F401  TFDS asks for it on Linux only
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
            f'the examples in {directory} have {", ".join(features)} where an "image" and a '
            '"label" are needed; give another --data_dir'
        )
    classes = getattr(features["label"], "num_classes", None)
    if classes != num_classes:
        raise UserError(
            f"{directory} has {classes} classes instead of {num_classes}; give a --data_dir that "
            "holds the original dataset"
        )


def _check_files(shards: list[tuple[os.PathLike, int]]) -> None:
    """Looks for every file of a split and the number of records in it."""
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
                f"{file} has {count} records where dataset_info.json promises {expected}; "
                f"{_COPY_AGAIN}"
            )


def _decode(source, where: str, image_size: int, num_classes: int):
    """Decodes every record once, in order."""
    images = np.empty((len(source), image_size, image_size, 3), np.uint8)
    labels = np.empty(len(source), np.int32)
    with _progress(len(source)) as advance:
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
    """A batch fails as a whole; this finds the record that makes it fail."""
    for number in batch:
        try:
            source[number]
        except Exception as error:
            raise UserError(
                f"record {number} of {where} cannot be read ({_reason(error)}); {_COPY_AGAIN}"
            ) from error
    raise UserError(
        f"records {batch.start} to {batch.stop - 1} of {where} could be read only at the second "
        "attempt; check the disk, then try again"
    )


@contextlib.contextmanager
def _progress(total: int):
    """Yields a function that takes counts of finished records; shows a bar at a terminal."""
    if total < _RECORDS_WORTH_A_BAR or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("decoding images", total=total)
        yield lambda count: bar.advance(task, count)


def _reason(error: Exception) -> str:
    """The first line of an exception's message, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
