"""Tiny-ImageNet (Stanford CS231n): 200 ImageNet classes at 64 pixels."""

import re
from collections.abc import Mapping

from smallvit_jax.data.builders.base import Labels, OriginalBuilder
from smallvit_jax.data.builders.original import Original, OriginalLayout
from smallvit_jax.errors import UserError

_FILE = re.compile(
    r"(?:^|/)(train/n\d+/images/[^/]+\.JPEG|val/images/[^/]+\.JPEG|val/val_annotations\.txt|"
    r"wnids\.txt|words\.txt)$"
)


def _recognize(path: str) -> str | None:
    match = _FILE.search(path)
    return match[1] if match else None


class TinyImagenet(OriginalBuilder):
    """The 100,000 training and 10,000 validation images; the `test` images have no labels.

    Classes are sorted by WordNet id, like class folders, and named by the first word that WordNet
    lists for them. The validation labels come from val_annotations.txt.
    """

    SIZE = 64
    CLASSES = 200
    COUNTS = {"train": 100_000, "validation": 10_000}  # noqa: RUF012
    LAYOUT = OriginalLayout(
        wanted="tiny-imagenet-200.zip or the folder unpacked from it",
        archives=("tiny-imagenet-200*.zip", "tiny-imagenet-200*.tar*"),
        contents=("train", "val", "wnids.txt", "words.txt"),
        signs=("wnids.txt", "val/val_annotations.txt"),
        recognize=_recognize,
    )
    HOMEPAGE = "http://cs231n.stanford.edu/"
    DESCRIPTION = "Tiny-ImageNet: 200 classes of ImageNet, 64x64 pixels."

    def read_labels(self, original: Original) -> tuple[list[str], Mapping[str, Labels]]:
        """See the base class."""
        ids = sorted(set(original.read_text("wnids.txt").split()))
        label_of = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
        train, validation = {}, {}
        for key in original.files:
            if key.startswith("train/"):
                train[key] = _look_up(label_of, key.split("/")[1], key)
        for line in original.read_text("val/val_annotations.txt").splitlines():
            file, wordnet_id, *_box = (*line.split("\t"), "")
            if file:
                validation[f"val/images/{file}"] = _look_up(label_of, wordnet_id, file)
        return _names(ids, original), {"train": train, "validation": validation}


def _look_up(label_of: dict[str, int], wordnet_id: str, file: str) -> int:
    if wordnet_id not in label_of:
        raise UserError(
            f"{file} belongs to {wordnet_id}, which wnids.txt does not list; download the original "
            "again"
        )
    return label_of[wordnet_id]


def _names(ids: list[str], original: Original) -> list[str]:
    """The first word for each id, followed by the id if two classes share the word."""
    lines = original.read_text("words.txt").splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = [words.get(wordnet_id, wordnet_id).split(",")[0].strip() for wordnet_id in ids]
    return [
        name if names.count(name) == 1 else f"{name} ({wordnet_id})"
        for name, wordnet_id in zip(names, ids, strict=True)
    ]
