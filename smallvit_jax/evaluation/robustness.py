"""Errors on corrupted test images, as on CIFAR-10-C (Hendrycks and Dietterich, 2019)."""

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
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

_SUBSET_SEED = 0  # independent of the run's, so that all runs use the same images

Images = UInt8[np.ndarray, "images size size 3"]
Labels = Int[np.ndarray, " images"]
CorruptedSplit = tuple[str, int, Images, Labels]
CorruptedSplits = Generator[CorruptedSplit, None, None]


@dataclass(frozen=True)
class CorruptedImages:
    """A corrupted test set.

    `splits` generates or reads it: (kind, severity, images, labels) for every kind in `kinds` at
    severities 1 to 5. `skipped` gives the reason for each kind left out.
    """

    name: str  # such as "CIFAR-10-C (regenerated)"
    images: int
    kinds: tuple[str, ...]
    splits: Callable[[], CorruptedSplits]
    skipped: dict[str, str] = field(default_factory=dict)


def corrupted_images(
    settings, *, images: Images, labels: Labels, dataset: DatasetInfo, data_dir: str | Path | None
) -> CorruptedImages:
    """Finds a dataset's published corrupted images, or prepares to corrupt its test images.

    `settings` is `config.evaluate.corruptions`; `images` and `labels` are the whole test split.
    Raises UserError, before any long work, if corruptions are not defined for the image size, or
    if published files are requested but missing, incomplete or from another dataset.
    """
    size = images.shape[1]
    if size not in SIZES:
        raise UserError(
            "corruptions are only defined for images of 32 and 64 pixels, but those of "
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
    """Returns top-1 errors in %: for each kind those at severities 1 to 5, and their means.

    Unlike on ImageNet-C, means over kinds and severities are not divided by another network's
    errors. `mce15` is over the 15 kinds of the benchmark and `mce19` over those and the 4 for
    validation; each is left out if one of its kinds was skipped. `mean_error` is over all kinds
    that were evaluated.
    """
    errors: dict[str, list[float]] = {kind: [] for kind in corrupted.kinds}
    total = len(corrupted.kinds) * len(SEVERITIES) * corrupted.images
    # Closing ends the worker processes, even after an interruption.
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
    """Formats the result of `corruption_errors`: rows are kinds, columns severities, plus means."""
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
    skipped = [f"  skipped: {kind} ({reason})" for kind, reason in result["skipped"].items()]
    return "\n".join([format_table(title, rows), *skipped])


def _mean(errors: dict[str, list[float]], kinds: Sequence[str]) -> float | None:
    """Mean over kinds and severities; None if a kind is missing."""
    if not all(kind in errors for kind in kinds):
        return None
    return float(np.mean([errors[kind] for kind in kinds]))


def _regenerated_splits(settings, kinds, images, labels, name: str, count: int) -> CorruptedSplits:
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


def _published_splits(published: Published, kinds, count: int) -> CorruptedSplits:
    for kind in kinds:
        for severity in SEVERITIES:
            images, labels = published.read(kind, severity)
            indices = _subset(labels, count)
            yield kind, severity, images[indices], labels[indices]


def _subset(labels: Labels, count: int) -> Int[np.ndarray, " count"]:
    """Sorted indices of `count` images, stratified by class."""
    return np.sort(stratified_order(labels, _SUBSET_SEED)[:count])
