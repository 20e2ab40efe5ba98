import zlib

import numpy as np
import pytest

from smallvit_jax.data import load_split
from smallvit_jax.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return {split: load_split("digits", split) for split in ("train", "test")}


def test_split_sizes_and_types(digits):
    for split, count in (("train", 1437), ("test", 360)):
        images, labels, info = digits[split]
        assert images.shape == (count, 16, 16, 3) and images.dtype == np.uint8
        assert labels.shape == (count,) and labels.dtype == np.int32
        assert images.flags.c_contiguous
        assert np.array_equal(images[..., 0], images[..., 2])
        assert (info.name, info.image_size, info.num_classes) == ("digits", 16, 10)
        assert info.class_names == tuple("0123456789")


def test_split_is_stratified_and_deterministic(digits):
    train, test = (np.bincount(digits[split][1]) for split in ("train", "test"))
    np.testing.assert_allclose(test, (train + test) * 360 / 1797, atol=1)
    # Recorded checksum: the order of the labels identifies the split.
    assert zlib.crc32(digits["test"][1].tobytes()) == 1488704784
    again, _, _ = load_split("digits", "test")
    assert np.array_equal(again, digits["test"][0])


def test_train_and_test_cover_all_originals(digits):
    from sklearn.datasets import load_digits

    labels = np.concatenate([digits["train"][1], digits["test"][1]])
    assert np.array_equal(np.bincount(labels), np.bincount(load_digits().target))


def test_enlarged_images_keep_the_original_pixels(digits):
    """The mean of each 2x2 cell is close to its original pixel, so images are the right way up."""
    from sklearn.datasets import load_digits

    images, labels, _ = digits["train"]
    cells = images[..., 0].reshape(-1, 8, 2, 8, 2).mean((2, 4)) / 255 * 16
    originals = load_digits()
    zeros = originals.images[originals.target == labels[0]]
    nearest = np.abs(zeros - cells[0]).mean((1, 2)).min()
    assert nearest < 1  # of 16 levels; another image of the class is more than 2 away


def test_mean_and_std_match_the_training_images(digits):
    images, _, info = digits["train"]
    np.testing.assert_allclose((images / 255).mean((0, 1, 2)), info.mean, atol=2e-4)
    np.testing.assert_allclose((images / 255).std((0, 1, 2)), info.std, atol=2e-4)


def test_unknown_split_suggests_the_closest():
    with pytest.raises(UserError, match=r'digits has no split "tests" \(did you mean "test"'):
        load_split("digits", "tests")
