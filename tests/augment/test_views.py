import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.augment import color, geometry
from smallvit_jax.augment.views import ViewSettings, draw_views, multi_crop
from tests.augment.reference_ops import CIFAR10_MEAN, CIFAR10_STD, assert_same_moments, recorded

# Every view is the normalized image itself.
PLAIN = ViewSettings(
    local_crops=2,
    global_scale=(1.0, 1.0),
    local_scale=(1.0, 1.0),
    flip=0.0,
    jitter=0.0,
    grayscale=0.0,
    blur=(0.0, 0.0, 0.0),
    solarize=0.0,
)
jitted = jax.jit(multi_crop, static_argnums=2)


def images(count=3, height=32, width=32):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def normalized(batch):
    return (batch / 255 - np.array(CIFAR10_MEAN)) / np.array(CIFAR10_STD)


def test_view_axis_follows_the_batch_axis():
    batch = images()
    global_views, local_views = jitted(batch, jax.random.key(0), PLAIN)
    expected = np.stack([normalized(batch)] * 2, axis=1)
    np.testing.assert_allclose(global_views, expected, atol=1e-5)
    half = jax.vmap(lambda x: geometry.crop_and_resize(x, jnp.array([0, 0, 32, 32]), 16))
    half = geometry.from_planes(half(geometry.to_planes(batch)))
    expected = np.stack([normalized(half)] * 2, axis=1)
    np.testing.assert_allclose(local_views, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (48, 40)])
@pytest.mark.parametrize("local_crops", [0, 3])
def test_shapes(size, local_crops):
    settings = ViewSettings(image_size=24, local_crops=local_crops)
    views = jax.eval_shape(
        lambda x, k: multi_crop(x, k, settings), images(5, *size), jax.random.key(0)
    )
    expected = [(5, 2, 24, 24, 3), (5, local_crops, 12, 12, 3)][: 2 if local_crops else 1]
    assert [v.shape for v in views] == expected
    assert all(v.dtype == jnp.float32 for v in views)


def test_solarize_acts_on_the_second_global_view_only():
    batch = images()
    settings = dataclasses.replace(PLAIN, solarize=1.0)
    plain = jitted(batch, jax.random.key(0), PLAIN)
    solarized = jitted(batch, jax.random.key(0), settings)
    np.testing.assert_array_equal(solarized[0][:, 0], plain[0][:, 0])
    inverted = np.where(batch >= 128, 255 - batch, batch)
    np.testing.assert_allclose(solarized[0][:, 1], normalized(inverted), atol=1e-5)
    np.testing.assert_array_equal(solarized[1], plain[1])


def test_views_do_not_depend_on_other_images():
    batch, key = images(4), jax.random.key(5)
    others = batch.copy()
    others[[0, 2, 3]] = 255 - batch[[0, 2, 3]]
    stacked = jax.jit(multi_crop, static_argnums=2)
    first = stacked(batch, key, ViewSettings())
    second = stacked(others, key, ViewSettings())
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[1], b[1])
        assert not np.array_equal(a[0], b[0])


def test_choices_have_the_reference_probabilities():
    count = 20_000
    draw = jax.vmap(lambda key: draw_views(key, 32, 32, ViewSettings()))
    views = jax.jit(draw)(jax.random.split(jax.random.key(2), count))

    def assert_share(values, probability):
        error = np.sqrt(probability * (1 - probability) / count)
        np.testing.assert_allclose(np.mean(values, axis=0), probability, atol=5 * error + 1e-9)

    assert_share(views.flip, 0.5)
    assert_share(views.jitter, 0.8)
    assert_share(views.grayscale, 0.2)
    for view, blur, solarize in ((0, 1.0, 0.0), (1, 0.1, 0.2), (2, 0.5, 0.0), (9, 0.5, 0.0)):
        assert_share(views.blur_radius[:, view] > 0, blur)
        assert_share(views.solarize[:, view], solarize)
    orders, times = np.unique(np.asarray(views.order[:, 3]), axis=0, return_counts=True)
    assert len(orders) == 24
    assert np.sum((times - count / 24) ** 2 / (count / 24)) < 60  # chi square, 23 degrees: p < 1e-4
    for values, low, high in (
        (views.factors[..., 0], 0.6, 1.4),
        (views.factors[..., 1], 0.6, 1.4),
        (views.factors[..., 2], 0.8, 1.2),
        (views.hue, -0.1, 0.1),
        (views.blur_radius[:, :1], 0.1, 2.0),
    ):
        assert low <= values.min() and values.max() <= high
        middle, sd = (low + high) / 2, (high - low) / np.sqrt(12)
        np.testing.assert_allclose(values.mean(0), middle, atol=5 * sd / np.sqrt(count))
        np.testing.assert_allclose(values.std(0), sd, atol=5 * 0.45 * sd / np.sqrt(count))


def test_views_have_the_reference_distribution(golden):
    expected = golden("augment_distribution")
    count, rounds = 1000, 8
    batch = np.broadcast_to(recorded()["image32"], (count, 32, 32, 3))
    settings = ViewSettings(local_crops=1)

    @jax.jit
    def moments(key):
        views = multi_crop(batch, key, settings)
        return [(v.mean((2, 3)), v.std((2, 3))) for v in views]

    draws = [moments(key) for key in jax.random.split(jax.random.key(3), rounds)]
    (global_mean, global_std), (local_mean, local_std) = jax.tree.map(
        lambda *parts: np.concatenate(parts), *draws
    )
    for name, mean, std in (
        ("ssl_global1", global_mean[:, 0], global_std[:, 0]),
        ("ssl_global2", global_mean[:, 1], global_std[:, 1]),
        ("ssl_local", local_mean[:, 0], local_std[:, 0]),
    ):
        row = expected[name]
        assert_same_moments(mean, row["image_mean"], row["image_mean_sd"], expected["n"])
        assert_same_moments(std, row["image_std"], row["image_std_sd"], expected["n"])


def test_grayscale_views_have_equal_channels():
    settings = dataclasses.replace(PLAIN, grayscale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    batch = images()
    gray = color.luma(geometry.to_planes(batch[0]))[:, 0] / 255
    global_views, _ = jitted(batch, jax.random.key(0), settings)
    np.testing.assert_allclose(global_views[0, 0], np.repeat(gray[..., None], 3, -1), atol=1e-6)


@pytest.mark.multiprocess
def test_sharded_batch_needs_no_communication():
    run = [sys.executable, "-m", "tests.augment.four_devices"]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["views", "finetune", "evaluation"]
