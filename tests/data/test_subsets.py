import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallvit_jax.data.subsets import split_training_set, stratified_order
from smallvit_jax.errors import UserError

BALANCED = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))


def test_all_images_are_used_by_default():
    subsets = split_training_set(BALANCED)
    assert np.array_equal(subsets.unlabeled, np.arange(5000))
    assert np.array_equal(subsets.labeled, np.arange(5000))
    assert len(subsets.validation) == 0


def test_balanced_classes_get_exact_shares():
    subsets = split_training_set(
        BALANCED, train_fraction=0.4, validation_fraction=0.1, labels_per_class=25, seed=3
    )
    for part, each in zip(subsets, (180, 25, 20), strict=True):
        assert np.bincount(BALANCED[part]).tolist() == [each] * 10
        assert np.array_equal(part, np.unique(part))


@given(
    st.lists(st.integers(-1, 3), min_size=40, max_size=120),
    st.floats(0.5, 1.0),
    st.floats(0.0, 0.4),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_parts_are_disjoint_and_cover_the_used_images(labels, fraction, held_out, per_class, seed):
    labels = np.array(labels)
    options = dict(train_fraction=fraction, labels_per_class=per_class, seed=seed)
    try:
        unlabeled, labeled, validation = split_training_set(
            labels, validation_fraction=held_out, **options
        )
    except UserError:
        return
    assert not set(validation) & set(unlabeled)
    assert set(labeled) <= set(unlabeled)
    assert -1 not in labels[labeled] and -1 not in labels[validation]
    used = np.union1d(unlabeled, validation)
    assert len(used) == round(fraction * len(labels))
    assert len(validation) == round(held_out * np.sum(labels[used] != -1))
    counts = np.bincount(labels[labeled], minlength=4)
    present = np.isin(np.arange(4), labels)
    if per_class:
        assert counts.tolist() == np.where(present, per_class, 0).tolist()
    else:
        assert len(labeled) == np.sum(labels[unlabeled] != -1)


@given(st.lists(st.integers(0, 5), min_size=30, max_size=300), st.integers(0, 9))
def test_every_slice_has_the_class_proportions(labels, seed):
    labels = np.array(labels)
    order = stratified_order(labels, seed)
    assert np.array_equal(np.sort(order), np.arange(len(labels)))
    share = np.bincount(labels, minlength=6) / len(labels)
    for start in range(0, len(labels), 13):
        for stop in range(start, len(labels), 17):
            found = np.bincount(labels[order[start:stop]], minlength=6)
            assert np.all(np.abs(found - share * (stop - start)) < 2.5)


def test_smaller_subsets_are_part_of_larger_ones():
    by_fraction = [split_training_set(BALANCED, train_fraction=f).labeled for f in (0.1, 0.3, 1)]
    by_count = [split_training_set(BALANCED, labels_per_class=k).labeled for k in (4, 10, 250)]
    by_share = [split_training_set(BALANCED, label_fraction=f).labeled for f in (0.1, 0.3, 1)]
    for small, middle, large in (by_fraction, by_count, by_share):
        assert set(small) < set(middle) < set(large)


def test_label_fraction_keeps_all_images():
    """The fraction applies to each class, without the images held out."""
    subsets = split_training_set(BALANCED, label_fraction=0.25, validation_fraction=0.2)
    assert np.bincount(BALANCED[subsets.labeled]).tolist() == [100] * 10
    assert len(subsets.unlabeled) == 4000 and len(subsets.validation) == 1000


def test_seed_selects_the_subset():
    first, again, other = (
        split_training_set(BALANCED, labels_per_class=10, seed=seed).labeled for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert len(np.intersect1d(first, other)) < 20  # 2 of 100 expected by chance


def test_unlabeled_images_are_only_for_pretraining():
    labels = np.array([0, 1] * 10 + [-1] * 80)
    subsets = split_training_set(labels, validation_fraction=0.2, labels_per_class=3)
    assert len(subsets.unlabeled) == 96
    assert len(subsets.labeled) == 6
    assert len(subsets.validation) == 4
    nothing_known = split_training_set(np.full(50, -1))
    assert len(nothing_known.unlabeled) == 50 and len(nothing_known.labeled) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_fraction": 0.0}, r"dataset.train_fraction=0 "),
        ({"train_fraction": 1.5}, r"dataset.train_fraction=1.5 "),
        ({"train_fraction": float("nan")}, r"dataset.train_fraction=nan "),
        ({"train_fraction": 1e-5}, r"1e-05 of 5000 training images leaves no image"),
        ({"train_fraction": 1e-3}, r"leave no labeled training image of class \d"),
        ({"validation_fraction": 1.0}, r"dataset.validation_fraction=1 "),
        ({"validation_fraction": -0.1}, r"dataset.validation_fraction=-0.1 "),
        ({"validation_fraction": 1e-5}, r"of 5000 labeled training images leaves no image"),
        ({"label_fraction": 0.0}, r"dataset.label_fraction=0 "),
        ({"label_fraction": 1e-3}, r"no labeled training image of class \d"),
        ({"label_fraction": 0.5, "labels_per_class": 3}, r"both select labels"),
        ({"labels_per_class": -1}, r"dataset.labels_per_class=-1 "),
        ({"labels_per_class": 501}, r'=501 but class 0 \("c0"\) has 500 images'),
        (
            {"labels_per_class": 46, "train_fraction": 0.1, "validation_fraction": 0.1},
            r'=46 but class 0 \("c0"\) has 45 images',
        ),
    ],
)
def test_mistakes_name_the_field(options, message):
    with pytest.raises(UserError, match=message):
        split_training_set(BALANCED, class_names=[f"c{i}" for i in range(10)], **options)
