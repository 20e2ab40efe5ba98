"""Selects the training images of a run, those used with labels, and those for validation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from smallvit_jax.data.permutation import stable_permutation
from smallvit_jax.errors import UserError

NO_LABEL = -1
_SUBSET_KEY = 1  # makes these random orders differ from others with the same seed


class TrainingSubsets(NamedTuple):
    """Sorted indices into the training split; `validation` is disjoint from the other two.

    Self-supervised training uses `unlabeled`, which includes `labeled`.
    """

    unlabeled: Int[np.ndarray, " unlabeled"]
    labeled: Int[np.ndarray, " labeled"]
    validation: Int[np.ndarray, " validation"]


def split_training_set(
    labels: Int[np.ndarray, " images"],
    *,
    train_fraction: float = 1.0,
    validation_fraction: float = 0.0,
    labels_per_class: int = 0,
    label_fraction: float = 1.0,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> TrainingSubsets:
    """Selects training, labeled and validation images, stratified by class.

    Uses `train_fraction` of the images (above 0, up to 1) and holds out `validation_fraction` of
    the labeled ones (from 0 to less than 1). Of the remaining labeled images, `labels_per_class`
    per class (0: all) or `label_fraction` in total (above 0, up to 1) keep their label. A label of
    -1 means unlabeled. Selections are nested: with the same seed, a smaller `train_fraction`,
    `labels_per_class` or `label_fraction` selects a subset of what a larger one selects (the last
    two if all other arguments are equal). Raises UserError, naming the field, if there are too few
    images.
    """
    _check_fractions(train_fraction, validation_fraction, labels_per_class, label_fraction)
    labels = np.asarray(labels)
    order = stratified_order(labels, seed)
    used = order[: round(train_fraction * len(labels))]
    if not len(used):
        raise UserError(
            f"dataset.train_fraction={train_fraction:g} of {len(labels)} training images leaves no "
            "images; increase it"
        )
    candidates = used[labels[used] != NO_LABEL]
    held_out = round(validation_fraction * len(candidates))
    if validation_fraction and not held_out:
        raise UserError(
            f"dataset.validation_fraction={validation_fraction:g} of {len(candidates)} labeled "
            "training images leaves no images; increase it, or set 0 for no validation"
        )
    validation = candidates[len(candidates) - held_out :]
    candidates = candidates[: len(candidates) - held_out]
    candidates = candidates[: round(label_fraction * len(candidates))]
    classes = np.unique(labels[labels != NO_LABEL])
    _check_classes(labels[candidates], classes, labels_per_class, class_names)
    labeled = candidates
    if labels_per_class:
        labeled = candidates[_rank_within_class(labels[candidates]) < labels_per_class]
    unlabeled = np.setdiff1d(used, validation)
    return TrainingSubsets(unlabeled, np.sort(labeled), np.sort(validation))


def stratified_order(labels: Int[np.ndarray, " images"], seed: int) -> Int[np.ndarray, " images"]:
    """Returns an order in which every stretch has about the class proportions of all images.

    Systematic sampling: image r of the n in its class, counted in random order, is placed at the
    fraction (r + offset) / n of the whole; offsets are spread over the classes so that they take
    turns. With equal class sizes, the first k images have k / classes of each class, rounded up or
    down.
    """
    shuffled = stable_permutation(len(labels), seed, _SUBSET_KEY)
    shuffled_labels = np.asarray(labels)[shuffled]
    _, classes, counts = np.unique(shuffled_labels, return_inverse=True, return_counts=True)
    offset = (classes + 0.5) / len(counts)
    position = (_rank_within_class(shuffled_labels) + offset) / counts[classes]
    return shuffled[np.argsort(position, kind="stable")]


def _rank_within_class(labels: Int[np.ndarray, " images"]) -> Int[np.ndarray, " images"]:
    """For each image, the number of images of its class that precede it."""
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered, side="left")
    return rank


def _check_fractions(train_fraction, validation_fraction, labels_per_class, label_fraction) -> None:
    if not 0 < train_fraction <= 1:
        raise UserError(
            f"dataset.train_fraction={train_fraction:g} is not a fraction of the training images; "
            "give a number above 0 and up to 1"
        )
    if not 0 <= validation_fraction < 1:
        raise UserError(
            f"dataset.validation_fraction={validation_fraction:g} is not a fraction of the "
            "training images; give a number from 0 to less than 1"
        )
    if labels_per_class < 0:
        raise UserError(
            f"dataset.labels_per_class={labels_per_class} is negative; give a number of images, or "
            "0 for all"
        )
    if not 0 < label_fraction <= 1:
        raise UserError(
            f"dataset.label_fraction={label_fraction:g} is not a fraction of the labels; give a "
            "number above 0 and up to 1"
        )
    if labels_per_class and label_fraction < 1:
        raise UserError(
            f"dataset.labels_per_class={labels_per_class} and dataset.label_fraction="
            f"{label_fraction:g} both select labels; leave one of them at its default"
        )


def _check_classes(labels, classes, labels_per_class, class_names) -> None:
    """Raises for the first class with fewer labeled images than requested, or with none."""
    needed = max(labels_per_class, 1)
    for label in classes:
        count = int(np.sum(labels == label))
        if count >= needed:
            continue
        name = f' ("{class_names[label]}")' if class_names is not None else ""
        if labels_per_class:
            raise UserError(
                f"dataset.labels_per_class={labels_per_class} but class {label}{name} has {count} "
                "images to select from; lower it, or use more training images"
            )
        raise UserError(
            "dataset.train_fraction, dataset.validation_fraction and dataset.label_fraction leave "
            f"no labeled training image of class {label}{name}; increase the first or the last, or "
            "lower the second"
        )


def spread_out(indices: Int[np.ndarray, " count"], most: int) -> Int[np.ndarray, " chosen"]:
    """Returns at most `most` of the indices, evenly spaced."""
    return indices[:: max(1, -(-len(indices) // most))]
