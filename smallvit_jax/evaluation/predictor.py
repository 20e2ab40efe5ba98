"""Applies a trained model to new images: class probabilities and features."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from smallvit_jax.checkpoints.loading import load_with_meta
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.data.image_files import (
    FILES_WORTH_A_BAR,
    decode_images,
    find_images,
    judge_unreadable,
)
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.forward import available_outputs, bind_model
from smallvit_jax.process.terminal import progress

_FILES_AT_ONCE = 2000  # decoded at a time, which bounds the memory for a large folder

ImageInput = (
    str | os.PathLike | Sequence[str | os.PathLike] | UInt8[np.ndarray, "images height width 3"]
)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image with their probabilities, highest first.

    `name` is the file's path, relative to a given folder, or the image's index in an array.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class PredictedBatch:
    """Names, logits (None without a classifier) and features of some images.

    `unreadable` lists files that could not be read, with the reason.
    """

    names: list[str]
    logits: Float[np.ndarray, "images classes"] | None
    features: Float[np.ndarray, "images width"]
    unreadable: list[tuple[Path, str]]


class Predictor:
    """A trained model with the methods `predict` and `embed` for new images.

    Both take an image file, a folder of them (nested or not), a list of files, or a uint8 array
    [images, height, width, 3]. Files are made square the same way as the training images: the
    shorter side is scaled to the model's size and the center is cropped, or the whole image is
    squeezed. Arrays are scaled without cropping. Files that are not images are skipped with a
    warning that lists them.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        which: str = "latest",
        batch_size: int = 500,
        dtype: Any = jnp.float32,
    ):
        model, self.meta = load_with_meta(path, which, dtype)
        self._path = path
        self._outputs_of = bind_model(
            model, self.meta, *available_outputs(self.meta), batch_size=batch_size
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty if the model has no classifier."""
        return tuple(self.meta["class_names"]) if self.meta["model"]["num_classes"] else ()

    def predict(self, source: ImageInput, top: int = 5) -> list[Prediction]:
        """Returns the `top` most probable classes of each image.

        Raises `UserError` if the model has no classifier, or if there is no readable image.
        """
        if not self.class_names:
            raise UserError(
                f"the model in {self._path} has no classifier; fine-tune it first, or get its "
                'features with the job "embed"'
            )
        found: list[Prediction] = []
        for part in self.outputs(source):
            assert part.logits is not None  # as of every classifier
            probabilities = np.asarray(jax.nn.softmax(part.logits, axis=-1))
            best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
            for name, row, order in zip(part.names, probabilities, best, strict=True):
                classes = tuple(self.class_names[i] for i in order)
                found.append(Prediction(name, classes, tuple(row[order].tolist())))
        return found

    def embed(self, source: ImageInput) -> tuple[Float[np.ndarray, "images width"], list[str]]:
        """Returns the features of each image, float32, and the images' names.

        Raises `UserError` if there is no readable image.
        """
        parts = list(self.outputs(source))
        features = np.concatenate([part.features for part in parts])
        return features, [name for part in parts for name in part.names]

    def outputs(self, source: ImageInput) -> Iterator[PredictedBatch]:
        """Yields the model's outputs batch by batch; warns about unreadable files at the end."""
        if isinstance(source, np.ndarray):
            yield from self._of_array(source)
            return
        paths, names = _list_files(source)
        unreadable: list[tuple[Path, str]] = []
        spec = DATASETS.get(self.meta["dataset"])
        size, squeeze = self.meta["model"]["image_size"], False
        if spec is not None and spec.squeezed:
            size, squeeze = spec.stored_size, True
        with progress("images", len(paths), worth_a_bar=FILES_WORTH_A_BAR) as advance:
            for start in range(0, len(paths), _FILES_AT_ONCE):
                some = paths[start : start + _FILES_AT_ONCE]
                files = decode_images(some, size, squeeze)
                unreadable += files.unreadable
                if files.kept:
                    found = self._outputs_of(files.images)
                    kept = [names[start + i] for i in files.kept]
                    yield PredictedBatch(
                        kept, found.get("logits"), found["features"], files.unreadable
                    )
                advance(len(some))
        judge_unreadable(unreadable, len(paths), 1.0, _shown(source))

    def _of_array(self, images: np.ndarray) -> Iterator[PredictedBatch]:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
            raise UserError(
                f"the images are a {images.dtype} array of shape {images.shape}; pass a nonempty "
                "uint8 array of shape [images, height, width, 3]"
            )
        found = self._outputs_of(images)
        names = [str(i) for i in range(len(images))]
        yield PredictedBatch(names, found.get("logits"), found["features"], [])


def load_predictor(
    path: str | os.PathLike,
    which: str = "latest",
    batch_size: int = 500,
    dtype: Any = jnp.float32,
) -> Predictor:
    """Loads the model of a checkpoint as a `Predictor`.

    `path` and `which` are as for `load_checkpoint`; `batch_size` is the total over all devices, and
    `dtype` is the model's compute dtype. Raises `UserError` if there is no valid checkpoint.
    """
    return Predictor(path, which, batch_size, dtype)


def _list_files(source) -> tuple[list[Path], list[str]]:
    """Returns the files and their names, which are relative to a folder, otherwise as given."""
    if isinstance(source, str | os.PathLike):
        root = Path(source).expanduser()
        paths = find_images(root)
        if root.is_dir():
            return paths, [path.relative_to(root).as_posix() for path in paths]
        return paths, [root.name]
    paths = [Path(path).expanduser() for path in source]
    if not paths:
        raise UserError("the list of images is empty; give at least one file")
    return paths, [str(path) for path in source]


def _shown(source) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "the list"
