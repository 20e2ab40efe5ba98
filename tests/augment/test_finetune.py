import dataclasses
import types

import jax
import numpy as np
import pytest

from smallvit_jax.augment import geometry
from smallvit_jax.augment.finetune import AugmentSettings, augment_batch, evaluation_batch
from smallvit_jax.config import default_config
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.plans.finetuning import augment_settings
from tests.augment.reference_ops import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    assert_same_moments,
    recorded,
)

# Normalization only divides by 255, so outputs can be read as levels.
LEVELS = AugmentSettings(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), erase=0.0)
COUNT = 4000
jitted = jax.jit(augment_batch, static_argnums=2)


@pytest.fixture(scope="module")
def maps():
    """Images whose red is the row and whose green is the column, times 7, plus 10."""
    row, column = np.mgrid[:32, :32]
    image = np.stack([7 * row + 10, 7 * column + 10, np.full((32, 32), 255)], -1).astype(np.uint8)
    return np.broadcast_to(image, (COUNT, 32, 32, 3))


def test_flips_and_crops_are_uniform(maps):
    out = np.rint(np.asarray(jitted(maps, jax.random.key(0), LEVELS)) * 255).astype(int)
    flipped = out[:, 16, 17, 1] < out[:, 16, 16, 1]
    assert abs(flipped.mean() - 0.5) < 5 * 0.5 / np.sqrt(COUNT)
    top = (out[:, 16, 16, 0] - 10) // 7 - 16 + 4
    column = (out[:, 16, 16, 1] - 10) // 7
    left = np.where(flipped, 31 - column, column) - 16 + 4
    for offset in (top, left):
        times = np.bincount(offset, minlength=9)
        assert len(times) == 9
        assert np.sum((times - COUNT / 9) ** 2 / (COUNT / 9)) < 35  # 8 degrees of freedom: p < 1e-4
    assert abs(np.corrcoef(top, left)[0, 1]) < 5 / np.sqrt(COUNT)
    # Each output is exactly that crop of the image padded with black.
    for i in range(20):
        image = maps[i][:, ::-1] if flipped[i] else maps[i]
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        expected = padded[top[i] : top[i] + 32, left[i] : left[i] + 32]
        np.testing.assert_array_equal(out[i], expected)


def test_erasing_has_the_given_probability_and_fill(maps):
    settings = dataclasses.replace(LEVELS, erase=0.25, mean=(0.31, 0.47, 0.63), crop_padding=0)
    out = np.asarray(jitted(maps, jax.random.key(1), settings))
    erased = np.isclose(out, settings.mean, atol=1e-6).all(-1)
    hit = erased.any((1, 2))
    assert abs(hit.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / COUNT)
    # Erased pixels form a rectangle of 2 to 40 % of the image, up to rounding of the sides.
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    area = erased.sum((1, 2))
    np.testing.assert_array_equal(area, rows * columns)
    share = area[hit] / 1024
    assert share.min() > 0.01 and share.max() < 0.45
    in_place = dataclasses.replace(settings, erase_fill="mean")
    other = np.asarray(jitted(maps, jax.random.key(1), in_place))
    np.testing.assert_array_equal(other[erased], 0.0)
    np.testing.assert_array_equal(other[~erased], out[~erased])


@pytest.mark.parametrize("policy", ["CIFAR10", "SVHN", "ImageNet"])
def test_pipeline_has_the_reference_distribution(policy, golden):
    expected = golden("augment_distribution")
    image = np.broadcast_to(recorded()["image32"], (COUNT, 32, 32, 3))
    settings = AugmentSettings(policy=policy.lower(), mean=CIFAR10_MEAN, std=CIFAR10_STD)
    out = np.asarray(jitted(image, jax.random.key(0), settings))
    recorded_moments = expected[f"finetune_{policy}Policy"]
    for name, values in (("image_mean", out.mean((1, 2))), ("image_std", out.std((1, 2)))):
        mean, sd = recorded_moments[name], recorded_moments[f"{name}_sd"]
        assert_same_moments(values, mean, sd, expected["n"])


def test_policy_acts_before_normalization():
    # On black images: 0, 255 if inverted, the gray fill 128, and 127 if that is inverted.
    settings = dataclasses.replace(LEVELS, policy="svhn", crop_padding=0)
    black = np.zeros((200, 32, 32, 3), np.uint8)
    out = np.asarray(jitted(black, jax.random.key(0), settings))
    levels = np.unique(np.rint(out * 255))
    assert set(levels) == {0, 127, 128, 255}


def test_disabled_augmentation_only_normalizes():
    settings = AugmentSettings(flip=0.0, crop_padding=0, erase=0.0)
    batch = recorded()["image32"][None]
    expected = recorded()["totensor_normalize_cifar10"].transpose(1, 2, 0)[None]
    np.testing.assert_allclose(jitted(batch, jax.random.key(0), settings), expected, atol=1e-6)
    evaluated = evaluation_batch(batch, 32, CIFAR10_MEAN, CIFAR10_STD)
    np.testing.assert_allclose(evaluated, expected, atol=1e-6)


def test_other_image_sizes_are_resized_like_pillow():
    batch = recorded()["image64"][None]
    expected = recorded()["rrc64_0_0_64_64_to32"] / 255
    got = evaluation_batch(batch, 32, (0.0,) * 3, (1.0,) * 3)
    np.testing.assert_allclose(got[0], expected, atol=1.01 / 255)
    settings = dataclasses.replace(LEVELS, flip=0.0, crop_padding=0)
    np.testing.assert_allclose(jitted(batch, jax.random.key(0), settings), got, atol=1e-6)


def test_results_do_not_depend_on_other_images():
    batch = np.stack([recorded()["image32"], recorded()["image32_lowcontrast"]])
    settings = AugmentSettings(erase=1.0)
    first = jitted(batch, jax.random.key(3), settings)
    second = jitted(np.stack([255 - batch[0], batch[1]]), jax.random.key(3), settings)
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_config_overrides_the_datasets_policy(dataset):
    config = default_config()
    config.dataset.name = dataset
    spec = get_dataset(dataset)
    data = types.SimpleNamespace(info=spec, spec=spec)
    assert spec.policy == {"cifar10": "cifar10", "digits": "none"}[dataset]
    expected = AugmentSettings(policy=spec.policy, mean=spec.mean, std=spec.std)
    assert augment_settings(config, data, 32) == expected
    config.finetune.augment.policy = "svhn"
    assert augment_settings(config, data, 32) == dataclasses.replace(expected, policy="svhn")


def test_planes_round_trip():
    image = recorded()["image32"]
    np.testing.assert_array_equal(geometry.from_planes(geometry.to_planes(image)), image)
