"""Errors on corrupted test images: CIFAR-10-C's measure (Hendrycks and Dietterich, 2019)."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from smallvit_jax.data.reading import DatasetInfo
from smallvit_jax.data.subsets import stratified_order
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.accuracy import classification_figures
from smallvit_jax.evaluation.corruptions import (
    BENCHMARK_KINDS,
    KINDS,
    SEVERITIES,
    SIZES,
    missing_kinds,
)
from smallvit_jax.evaluation.corruptions.cache import CorruptionCache
from smallvit_jax.evaluation.corruptions.generated import corrupted_splits
from smallvit_jax.evaluation.corruptions.published import NAMES, Published, find_published
from smallvit_jax.process.terminal import format_table, progress

_SUBSET_SEED = 0  # whatever the run's, so that runs are judged on the same images

Images = UInt8[np.ndarray, "images size size 3"]
Labels = Int[np.ndarray, " images"]
CorruptedSplit = tuple[str, int, Images, Labels]


@dataclass(frozen=True)
class CorruptedImages:
    """Corrupted test images and what they are.

    `splits` makes or reads them: (kind, severity, images, labels) for every kind of `kinds` at
    severities 1 to 5. `skipped` says why a kind is not among them.
    """

    name: str  # such as "CIFAR-10-C (regenerated)"
    images: int
    kinds: tuple[str, ...]
    splits: Callable[[], Iterator[CorruptedSplit]]
    skipped: dict[str, str] = field(default_factory=dict)


def corrupted_images(
    settings, *, images: Images, labels: Labels, dataset: DatasetInfo, data_dir: str | Path | None
) -> CorruptedImages:
    """Finds the published images of a dataset, or prepares to corrupt its test images.

    `settings` is `config.evaluate.corruptions`; `images` and `labels` are the whole test split.
    Raises UserError, before anything long, where the images are not of a size that has constants,
    or where published files are asked for and missing, incomplete or of another dataset.
    """
    size = images.shape[1]
    if size not in SIZES:
        raise UserError(
            f"corruptions have constants for images of 32 and 64 pixels, and those of "
            f"{dataset.name} have {size}; set --config.evaluate.corruptions.kinds=0"
        )
    kinds = KINDS if settings.kinds == len(KINDS) else BENCHMARK_KINDS
    count = min(settings.images, len(labels)) or len(labels)
    benchmark = NAMES.get(dataset.name, f"{dataset.name}-C")
    if settings.source != "regenerated":
        published = find_published(
            dataset.name,
            kinds,
            root=settings.root,
            data_dir=data_dir,
            size=size,
            test_labels=labels,
            class_names=dataset.class_names,
        )
        if published:
            splits = functools.partial(_published_splits, published, kinds, count)
            return CorruptedImages(f"{benchmark} (official)", count, kinds, splits)
        if settings.source == "official":
            raise UserError(
                f"the published images of {benchmark} are not in the data directory; set "
                "--config.evaluate.corruptions.root to their folder, or source=regenerated"
            )
    skipped = {kind: reason for kind, reason in missing_kinds().items() if kind in kinds}
    kinds = tuple(kind for kind in kinds if kind not in skipped)
    splits = functools.partial(
        _regenerated_splits, settings, kinds, images, labels, dataset.name, count
    )
    return CorruptedImages(f"{benchmark} (regenerated)", count, kinds, splits, skipped)


def corruption_errors(
    corrupted: CorruptedImages,
    logits_of: Callable[[Images], Float[np.ndarray, "images classes"]],
) -> dict[str, Any]:
    """Returns top-1 errors in %, for each kind those at severities 1 to 5, and their means.

    The mean over kinds and severities is not divided by another network's errors, as it is for
    ImageNet-C. It is called `mce15` for the 15 kinds of the benchmark and `mce19` for those and the
    4 for validation, and is left out where one of them is skipped; `mean_error` is over the kinds
    that there are.
    """
    errors: dict[str, list[float]] = {kind: [] for kind in corrupted.kinds}
    total = len(corrupted.kinds) * len(SEVERITIES) * corrupted.images
    # Closed even when interrupted: that ends the processes that make them.
    splits = contextlib.closing(corrupted.splits())
    with progress("corrupted images", total) as advance, splits as made:
        for kind, _, images, labels in made:
            errors[kind].append(100 - classification_figures(logits_of(images), labels)["top1"])
            advance(len(images))
    result = {
        "source": corrupted.name,
        "images": corrupted.images,
        "errors": errors,
        "mean_error": _mean(errors, corrupted.kinds),
        "mce15": _mean(errors, BENCHMARK_KINDS),
        "mce19": _mean(errors, KINDS),
        "skipped": corrupted.skipped,
    }
    return {name: value for name, value in result.items() if value is not None}


def error_table(result: dict[str, Any]) -> str:
    """The result of `corruption_errors` as text: a row per kind, a column per severity, means."""
    errors: dict[str, list[float]] = result["errors"]
    rows = [["severity", *map(str, SEVERITIES), "mean"]]
    for kind, row in errors.items():
        rows.append([kind.replace("_", " "), *(f"{e:.2f}" for e in row), f"{np.mean(row):.2f}"])
    by_severity = np.mean(list(errors.values()), axis=0)
    mean = [f"{error:.2f}" for error in (*by_severity, result["mean_error"])]
    rows.append([f"mean of {len(errors)}", *mean])
    if "mce19" in result:
        rows.append(["mean of the 15", *[""] * len(SEVERITIES), f"{result['mce15']:.2f}"])
    title = f"{result['source']}: top-1 error in % on {result['images']:,} images"
    skipped = [f"  without {kind}: {reason}" for kind, reason in result["skipped"].items()]
    return "\n".join([format_table(title, rows), *skipped])


def _mean(errors: dict[str, list[float]], kinds: Sequence[str]) -> float | None:
    """The mean over kinds and severities; None unless every kind is there."""
    if not all(kind in errors for kind in kinds):
        return None
    return float(np.mean([errors[kind] for kind in kinds]))


def _regenerated_splits(
    settings, kinds, images, labels, name: str, count: int
) -> Iterator[CorruptedSplit]:
    indices = _subset(labels, count)
    images, labels = images[indices], labels[indices]
    cache = None
    if settings.cache:
        first = jax.process_index() == 0
        cache = CorruptionCache(settings.cache, name, images, indices, write=first)
    wanted = [(kind, severity) for kind in kinds for severity in SEVERITIES]
    made = corrupted_splits(images, indices, wanted, processes=settings.processes, cache=cache)
    for kind, severity, corrupted in made:
        yield kind, severity, corrupted, labels


def _published_splits(published: Published, kinds, count: int) -> Iterator[CorruptedSplit]:
    for kind in kinds:
        for severity in SEVERITIES:
            images, labels = published.read(kind, severity)
            indices = _subset(labels, count)
            yield kind, severity, images[indices], labels[indices]


def _subset(labels: Labels, count: int) -> Int[np.ndarray, " count"]:
    """Sorted indices of `count` images, with its share of every class."""
    return np.sort(stratified_order(labels, _SUBSET_SEED)[:count])
