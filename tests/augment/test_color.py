import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from smallvit_jax.augment import color, geometry
from tests.augment.recorded_cases import image32, names, our_image, recorded_image
from tests.augment.reference_ops import assert_close, difference, recorded

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


EXACT = names("(brightness|contrast|saturation)_.+|grayscale3|solarize128")


@pytest.mark.parametrize("name", EXACT)
def test_single_operations_are_exact(name):
    """Exact without jit; in compiled code, a product and a sum may be rounded once."""
    with jax.disable_jit():
        np.testing.assert_array_equal(our_image(name), recorded_image(name))
    levels = difference(our_image(name), recorded_image(name))
    assert levels.max() <= 1 and (levels > 0).mean() <= 0.03


@pytest.mark.parametrize("operation", range(3))
def test_adjustments_match_pillow_at_any_factor(operation):
    adjust = jax.jit(color.adjust)
    image = Image.fromarray(recorded()["image64"])
    planes = geometry.to_planes(recorded()["image64"])
    for factor in np.random.default_rng(operation).uniform(0.5, 1.5, 20).astype(np.float32):
        expected = np.asarray(ENHANCERS[operation](image).enhance(float(factor)))
        levels = difference(geometry.from_planes(adjust(planes, operation, factor)), expected)
        assert levels.max() <= 1 and (levels > 0).mean() < 1e-3


@pytest.mark.parametrize("name", names("hue_.+"))
def test_hue_matches_pillow_in_all_but_a_few_values(name):
    levels = difference(our_image(name), recorded_image(name))
    assert levels.mean() <= 0.02 and levels.max() <= 4


def test_hue_goes_through_8_bit_hsv():
    values = np.arange(0, 256, 5, dtype=np.uint8)
    colors = np.stack(np.meshgrid(values, values, values), -1).reshape(values.size**2, -1, 3)
    hsv = np.array(Image.fromarray(colors).convert("HSV"))
    hsv[..., 0] += 256 - 20  # trunc(255 * -0.08) modulo 256
    expected = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    got = geometry.from_planes(jax.jit(color.adjust_hue)(geometry.to_planes(colors), -0.08))
    levels = difference(got, expected)
    assert (levels > 0).mean() < 0.02 and levels.max() <= 6  # one level of hue is up to 6 of color


def test_jitter_chain():
    (name,) = names("jitter_chain.+")
    assert_close(our_image(name), recorded_image(name), mean=0.02, share_above_4=0)


def test_jitter_follows_the_order():
    planes, factors, hue = image32(), (0.7123, 1.3571, 1.2377), 0.07
    orders = list(itertools.permutations(range(4)))
    jitter = jax.jit(jax.vmap(color.color_jitter, in_axes=(None, 0, None, None)))
    got = jitter(planes, jnp.array(orders), jnp.array(factors), hue)
    for one, order in zip(got, orders, strict=True):
        expected = planes
        for operation in order:
            if operation == color.HUE:
                expected = color.adjust_hue(expected, hue)
            else:
                expected = color.adjust(expected, operation, factors[operation])
        assert difference(one, expected).max() <= 6
        assert difference(one, expected).mean() <= 0.01


def test_skipped_jitter_changes_nothing():
    got = color.color_jitter(image32(), jnp.arange(4), jnp.array([1.3, 0.7, 1.15]), 0.1, False)
    np.testing.assert_array_equal(got, image32())


@pytest.mark.parametrize("name", names("gaussblur.+"))
def test_blur(name):
    assert_close(our_image(name), recorded_image(name), mean=0.6, share_above_4=0)


def test_blur_of_radius_0_changes_nothing():
    np.testing.assert_array_equal(color.gaussian_blur(image32(), 0.0), image32())


@pytest.mark.parametrize("radius", [0.3, 1.0, 1.9, 5.0])
def test_blur_matrix_has_the_variance_of_its_radius(radius):
    # The extended box has exactly the variance of the Gaussian (Gwosdek et al.).
    matrix = np.asarray(color.blur_matrix(radius, 64), np.float64)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
    offset = np.arange(64) - 31
    assert np.sum(matrix[31] * offset**2) == pytest.approx(radius**2, rel=1e-4)


def test_normalize():
    name = "totensor_normalize_cifar10"
    np.testing.assert_allclose(our_image(name), recorded_image(name), atol=1e-6)
