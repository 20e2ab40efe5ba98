"""Your own images: a folder of image files as a dataset like those in the table."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from smallvit_jax.data.datasets import FOLDER, Color, DatasetInfo, DatasetSpec, get_dataset
from smallvit_jax.data.folder_layout import FolderLayout
from smallvit_jax.data.image_files import list_names, read_images, read_size
from smallvit_jax.data.subsets import NO_LABEL
from smallvit_jax.errors import UserError

IMAGE_SIZES = (32, 64, 96, 128, 224)  # to choose from; every model family supports all of them
_SMALL = 96  # pixels per side; up to this size, images are stored at the training size
_MOST_ENLARGED = 9 / 8
_SIDES_TO_MEASURE = 500
_IMAGES_AT_ONCE = 256


class Folder(NamedTuple):
    """The images of a folder: training first, then validation, then test."""

    spec: DatasetSpec
    info: DatasetInfo
    images: UInt8[np.ndarray, "images size size 3"]
    labels: Int32[np.ndarray, " images"]
    counts: tuple[int, int, int]  # images in each part
    description: str  # one sentence

    def part(
        self, name: str
    ) -> tuple[UInt8[np.ndarray, "part size size 3"], Int32[np.ndarray, " part"]]:
        """Images and labels of "train", "validation" or "test", without copying."""
        number = ("train", "validation", "test").index(name)
        start = sum(self.counts[:number])
        rows = slice(start, start + self.counts[number])
        return self.images[rows], self.labels[rows]


def typical_side(layout: FolderLayout) -> int:
    """The median shorter side of (up to 500 of) the training images, in pixels."""
    paths = layout.train.paths
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), _SIDES_TO_MEASURE)).round()
    sizes = (read_size(paths[int(number)]) for number in chosen)
    sides = [min(size) for size in sizes if size is not None]
    return int(median(sides)) if sides else IMAGE_SIZES[0]


def choose_image_size(side: int) -> int:
    """The training size for images whose shorter side is typically `side`.

    The largest of 32, 64, 96, 128 and 224 that enlarges them by at most an eighth, but at least 32.
    """
    fitting = [size for size in IMAGE_SIZES if size <= side * _MOST_ENLARGED]
    return max(fitting, default=IMAGE_SIZES[0])


def read_folder(
    layout: FolderLayout,
    side: int,
    image_size: int,
    *,
    test_fraction: float = 0.2,
    unreadable_fraction: float = 0.01,
) -> Folder:
    """Reads every image once, splits off a test part if there is none, and measures mean and std.

    `side` is the typical shorter side. `image_size` is the training size; above 96 pixels, images
    are stored at eight sevenths of it if that enlarges them by at most an eighth.

    Without a test part, `test_fraction` of each class is held out. The choice depends only on the
    files' contents, so every stage and seed holds out the same images, even after the folder is
    moved, and copies of a file stay on one side.

    Raises UserError if too many files are unreadable, a class has too few images, or the images do
    not fit into memory.
    """
    parts = (layout.train, layout.validation, layout.test)
    paths = [path for part in parts for path in part.paths]
    stored_size = _stored_size(image_size, side)
    _check_memory(len(paths), stored_size, layout.field)
    files = read_images(
        paths, stored_size, unreadable_fraction=unreadable_fraction, what=layout.field
    )
    part_of = np.repeat(np.arange(3), [len(part.paths) for part in parts])[files.kept]
    labels = np.array([label for part in parts for label in part.labels], np.int32)[files.kept]
    splits = bool(layout.class_names and not layout.test.paths and test_fraction)
    _check_counts(layout, labels[part_of == 0], at_least=1 + splits)
    if splits:
        part_of[_hold_out(labels, files.digests, test_fraction, part_of == 0)] = 2
    _warn_of_copies([paths[number] for number in files.kept], files.digests, part_of, labels)
    order = np.argsort(part_of, kind="stable")
    _reorder(files.images, order)
    train, validation, test = (int((part_of == part).sum()) for part in range(3))
    counts = (train, validation, test)
    mean, std = measure_colors(files.images[:train])
    spec = _spec(layout, image_size, stored_size, mean, std)
    info = DatasetInfo(FOLDER, layout.class_names, len(layout.class_names), image_size, mean, std)
    labels = labels[order]
    description = _describe(layout, spec, side, labels, counts, test_fraction if splits else 0)
    return Folder(spec, info, files.images, labels, counts, description)


def measure_colors(images: UInt8[np.ndarray, "images height width 3"]) -> tuple[Color, Color]:
    """Mean and standard deviation per channel over all pixels, on a scale of 0 to 1.

    From exact sums, rounded to four digits like the table. A constant channel gets a deviation of
    one level, since images are divided by it.
    """
    total, squares = np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        pixels = images[start : start + _IMAGES_AT_ONCE].reshape(-1, 3)
        total += pixels.sum(axis=0, dtype=np.uint64)
        squares += np.multiply(pixels, pixels, dtype=np.uint16).sum(axis=0, dtype=np.uint64)
    count = images.size / 3
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))
    return tuple(np.round(mean / 255, 4).tolist()), tuple(np.round(std / 255, 4).tolist())


def _stored_size(image_size: int, side: int) -> int:
    """As in the table (256 for 224), so that crops of photographs need not be enlarged."""
    larger = round(image_size * 8 / 7 / 8) * 8
    return larger if image_size > _SMALL and larger <= side * _MOST_ENLARGED else image_size


def _spec(
    layout: FolderLayout, image_size: int, stored_size: int, mean: Color, std: Color
) -> DatasetSpec:
    """Our choice, not tuned: crops as for CIFAR up to 32 pixels and as for Tiny-ImageNet above."""
    like = get_dataset("cifar10" if image_size <= 32 else "tiny_imagenet")
    return DatasetSpec(
        name=FOLDER,
        num_classes=len(layout.class_names),
        image_size=image_size,
        stored_size=stored_size,
        mean=mean,
        std=std,
        global_scale=like.global_scale,
        local_scale=like.local_scale,
        policy="imagenet",
        crop_padding=image_size // 8,
    )


def _check_memory(count: int, size: int, field: str) -> None:
    needed = count * size**2 * 3
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(
            f"the {count} files in {field} take {needed / 2**30:.1f} GiB at {size} x {size} "
            f"pixels but this machine has {memory / 2**30:.1f} GiB of memory; choose a smaller "
            "model.image_size, or a folder with fewer images"
        )


def _check_counts(layout: FolderLayout, labels: Int[np.ndarray, " train"], at_least: int) -> None:
    for label, name in enumerate(layout.class_names):
        count = int((labels == label).sum())
        if count < at_least:
            why = " but needs one for training and one for testing" if at_least > 1 else ""
            raise UserError(
                f'class "{name}" in {layout.field} has {count or "no"} readable training image'
                f"{why}; add images, or remove the class"
            )


def _hold_out(
    labels: Int[np.ndarray, " images"],
    digests: Sequence[bytes],
    fraction: float,
    candidates: Bool[np.ndarray, " images"],
) -> list[int]:
    """Selects the candidates with the smallest digests in each class, at least one per class.

    Sorting by digest puts copies of a file next to each other; the cut moves to the nearest
    position that separates no copies.
    """
    held_out: list[int] = []
    for label in np.unique(labels[candidates & (labels != NO_LABEL)]):
        members = np.flatnonzero(candidates & (labels == label)).tolist()
        members.sort(key=lambda number: (digests[number], number))
        wanted = min(max(1, round(fraction * len(members))), len(members) - 1)
        ends = [
            end
            for end in range(1, len(members))
            if digests[members[end - 1]] != digests[members[end]]
        ]
        held_out += members[: min(ends, key=lambda end: abs(end - wanted), default=wanted)]
    return held_out


def _warn_of_copies(
    paths: Sequence[Path],
    digests: Sequence[bytes],
    part_of: Int[np.ndarray, " images"],
    labels: Int[np.ndarray, " images"],
) -> None:
    """Warns about byte-identical files that distort the accuracy."""
    copies: dict[bytes, list[int]] = {}
    for number, digest in enumerate(digests):
        copies.setdefault(digest, []).append(number)
    groups = [group for group in copies.values() if len(group) > 1]
    problems = {
        "in training and test data": lambda group: 2 in part_of[group] and min(part_of[group]) < 2,
        "in two classes": lambda group: len(set(labels[group].tolist()) - {NO_LABEL}) > 1,
    }
    for problem, is_one in problems.items():
        bad = [" = ".join(map(str, (paths[n] for n in group))) for group in groups if is_one(group)]
        if bad:
            warnings.warn(
                f"identical image files {problem} ({len(bad)}): {list_names(bad)}",
                stacklevel=3,
            )


def _reorder(images: UInt8[np.ndarray, "images ..."], order: Int[np.ndarray, " images"]) -> None:
    """Like `images[:] = images[order]`, but with only one extra image in memory."""
    done = np.zeros(len(order), bool)
    for start in np.flatnonzero(order != np.arange(len(order))):
        if done[start]:
            continue
        first, place = images[start].copy(), start
        while not done[place]:
            done[place] = True
            images[place] = first if order[place] == start else images[order[place]]
            place = order[place]


def _describe(
    layout: FolderLayout,
    spec: DatasetSpec,
    side: int,
    labels: Int[np.ndarray, " images"],
    counts: tuple[int, ...],
    test_fraction: float,
) -> str:
    what = "images without labels"
    if layout.class_names:
        sizes = [f"{name} {(labels == i).sum()}" for i, name in enumerate(layout.class_names)]
        what = f"images of {len(sizes)} classes ({list_names(sizes)})"
    uses = [f"{counts[0]} for training"]
    uses += [f"{counts[1]} for validation"] if counts[1] else []
    own = f" (dataset.test_fraction={test_fraction:g})" if test_fraction else ""
    uses += [f"{counts[2]} for testing{own}"]
    colors = "; ".join(
        f"{name} {', '.join(f'{value:.4f}' for value in values)}"
        for name, values in (("mean", spec.mean), ("std", spec.std))
    )
    size = f"{spec.image_size} x {spec.image_size} pixels"
    return (
        f"{layout.root}: {len(labels)} {what}; {', '.join(uses)}; training size {size} (median "
        f"shorter side: {side}); measured {colors}"
    )
