"""The base class of this package's builders: reads and checks an original for TFDS."""

import abc
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import tensorflow_datasets as tfds

from smallvit_jax.data.builders.original import Original, OriginalLayout
from smallvit_jax.errors import UserError
from smallvit_jax.process.terminal import progress

_IMAGES_AT_ONCE = 256

Labels = Mapping[str, int]  # key of an image file → label


# Its base class declares the argument, but TFDS imports that lazily, which hides it from mypy.
class OriginalBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS dataset of square images, with features "image", "label" and "id".

    `original` is the archive or folder; without it, the dataset can be read but not prepared.
    Preparing raises UserError if the original is incomplete.
    """

    VERSION = tfds.core.Version("1.0.0")
    SIZE: int  # pixels per side as stored
    CLASSES: int
    COUNTS: dict[str, int]  # images in each split
    LAYOUT: OriginalLayout
    HOMEPAGE: str
    DESCRIPTION: str

    def __init__(self, *, original: str | Path | None = None, **tfds_arguments):
        self.original = original
        super().__init__(**tfds_arguments)

    @abc.abstractmethod
    def read_labels(self, original: Original) -> tuple[list[str], Mapping[str, Labels]]:
        """Returns the class names in label order, and the labels of each split's images."""

    def store(self, content: bytes) -> bytes:
        """Returns the image file to store, here unchanged; raises if its size is not `SIZE`."""
        _decode(content, self.SIZE)
        return content

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(self.SIZE, self.SIZE, 3)),
            "label": tfds.features.ClassLabel(num_classes=self.CLASSES),
            "id": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # there is nothing to download
        if self.original is None:
            raise UserError(f"preparing {self.name} needs the original; pass --manual_dir")
        original = Original(self.original, self.LAYOUT)
        class_names, splits = self.read_labels(original)
        self._check(original, class_names, splits)
        self.info.features["label"].names = class_names
        return {
            split: self._generate_examples(original, split, labels)
            for split, labels in splits.items()
        }

    def _generate_examples(self, original: Original, split: str, labels: Labels) -> Iterator:
        with ThreadPoolExecutor() as workers, progress(f"writing {split}", len(labels)) as advance:
            # Pillow releases the GIL while it decodes and scales.
            files = original.read(labels)
            while some := list(islice(files, _IMAGES_AT_ONCE)):
                jobs = [(key, workers.submit(self.store, content)) for key, content in some]
                for key, job in jobs:
                    try:
                        image = job.result()
                    except Exception as error:
                        raise UserError(
                            f"image {key} in {original.path} cannot be used ({error}); download "
                            "the original again"
                        ) from error
                    yield key, {"image": image, "label": labels[key], "id": key}
                advance(len(some))

    def _check(self, original: Original, class_names, splits) -> None:
        if len(class_names) != self.CLASSES:
            raise UserError(
                f"{original.path} has {len(class_names)} classes instead of {self.CLASSES}; "
                "download the original again"
            )
        for split, expected in self.COUNTS.items():
            labels = splits[split]
            missing = [key for key in labels if key not in original.files]
            if missing:
                raise UserError(
                    f"{original.path} lacks {len(missing)} of the {len(labels)} images in split "
                    f'"{split}", such as {missing[0]}; download or unpack the original again'
                )
            if len(labels) != expected:
                raise UserError(
                    f'{original.path} has {len(labels)} images in split "{split}" instead of '
                    f"{expected}; download or unpack the original again"
                )


def square_jpeg(content: bytes, size: int, bottom: int = 0) -> bytes:
    """Crops `bottom` rows of pixels off an encoded photograph, scales both sides to `size`, and
    encodes it as JPEG (quality 95, no chroma subsampling)."""
    from PIL import Image

    image = _decode(content).convert("RGB")
    box = (0, 0, image.width, image.height - bottom)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _decode(content: bytes, size: int | None = None):
    """Returns the decoded image; raises if it is truncated or not `size` pixels high and wide."""
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    if size is not None and image.size != (size, size):
        raise ValueError(f"{image.width}x{image.height} pixels instead of {size}x{size}")
    image.load()
    return image
