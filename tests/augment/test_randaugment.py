"""RandAugment against Pillow with timm's arguments, and its draws against their distribution."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from smallvit_jax.augment import autoaugment, geometry, randaugment
from smallvit_jax.augment.randaugment import OPERATIONS
from tests.augment.reference_ops import difference

GRAY = (128, 128, 128)
DRAWS = 20_000


def timm(image, name, level, sign):
    """timm's operation at a level; rotations use the nearest pixel, the rest is bicubic."""
    strength = min(max(level, 0), 10) / 10
    size = image.width
    affine = {
        "shearX": (1, 0.3 * sign * strength, 0, 0, 1, 0),
        "shearY": (1, 0, 0, 0.3 * sign * strength, 1, 0),
        "translateX": (1, 0, 0.45 * sign * strength * size, 0, 1, 0),
        "translateY": (1, 0, 0, 0, 1, 0.45 * sign * strength * size),
    }
    enhance = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
        "brightness": ImageEnhance.Brightness,
    }
    if name in affine:
        return image.transform(
            image.size, Image.AFFINE, affine[name], Image.BICUBIC, fillcolor=GRAY
        )
    if name in enhance:
        return enhance[name](image).enhance(1 + 0.9 * sign * strength)
    if name == "rotate":
        return image.rotate(30 * sign * strength, fillcolor=GRAY)
    if name == "posterize":
        bits = 4 - int(4 * strength)  # 0 bits make an image black; new Pillow refuses them
        return ImageOps.posterize(image, bits) if bits else image.point([0] * 768)
    if name == "solarize":
        return ImageOps.solarize(image, 256 - int(256 * strength))
    if name == "solarize_add":
        table = [min(255, i + int(110 * strength)) if i < 128 else i for i in range(256)]
        return image.point(3 * table)
    return getattr(ImageOps, name)(image)


@jax.jit
def ours(planes, operation, level, sign):
    parameters = randaugment.parameters(operation, level, sign, planes.shape[0])
    return autoaugment.apply(planes, parameters)


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).integers(0, 120, (32, 32, 3))
    row, column = np.mgrid[:32, :32]
    return (noise + np.stack([3 * row, 4 * column, row * column // 9], -1)).astype(np.uint8)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_match_pillow(picture, name):
    planes = geometry.to_planes(picture[None])[0]
    for level in (0.0, 4.99, 8.7, 9.3, 10.0, 11.0):
        for sign in (-1, 1):
            got = ours(planes, OPERATIONS.index(name), level, float(sign))
            expected = np.asarray(timm(Image.fromarray(picture), name, level, sign))
            levels = difference(np.asarray(got).transpose(0, 2, 1), expected)
            # Pillow computes in double precision, so a few values are a level off; in a rotation,
            # one rounded coordinate may fall on the other side of a pixel's edge.
            share = 0.03 if name == "autocontrast" else 0.01
            assert (levels > 0).mean() <= share, (level, sign)
            assert levels.max() <= 1 or name == "rotate", (level, sign)


def drawn():
    numbers = jax.random.uniform(jax.random.key(0), (DRAWS, 4))
    return jax.jit(jax.vmap(lambda u: randaugment.draw(u, 16)))(numbers), np.asarray(numbers)


def test_operations_apply_half_the_time_and_equally_often():
    found, _ = drawn()
    kinds = np.asarray(found.kind)
    expected = {
        autoaugment.TURN: 1,
        autoaugment.SHIFT: 4,
        autoaugment.ADJUST: 3,
        autoaugment.SHARPEN: 1,
        autoaugment.AUTOCONTRAST: 1,
        autoaugment.EQUALIZE: 1,
        autoaugment.MAP: 4 + 15,  # including those not applied, which change nothing
    }
    for kind, of_thirty in expected.items():
        share = of_thirty / 30
        error = (share * (1 - share) / DRAWS) ** 0.5
        assert abs((kinds == kind).mean() - share) < 5 * error, kind
    for changed in (
        found.added > 0,
        found.step > 1,
        (found.threshold < 256) & (found.threshold > 0),
    ):
        assert abs(np.mean(changed) - 1 / 30) < 5 * (1 / 30 / DRAWS) ** 0.5
    assert (np.asarray(found.vertical)[kinds == autoaugment.SHIFT].mean() - 0.5) < 0.04


def test_levels_are_clipped_normal_and_signs_are_even():
    found, _ = drawn()
    adjusted = np.asarray(found.kind) == autoaugment.ADJUST
    signed = (np.asarray(found.factor)[adjusted] - 1) / 0.9 * 10
    levels, count = np.abs(signed), adjusted.sum()
    # N(9, 0.5) clipped at 10, by integration: mean 8.9958, deviation 0.4899, 2.28 % clipped.
    assert levels.mean() == pytest.approx(8.9958, abs=5 * 0.49 / count**0.5)
    assert levels.std() == pytest.approx(0.4899, abs=5 * 0.49 / (2 * count) ** 0.5)
    assert (levels > 9.999).mean() == pytest.approx(0.0228, abs=5 * (0.0228 / count) ** 0.5)
    assert levels.max() <= 10.0001
    assert (signed > 0).mean() == pytest.approx(0.5, abs=2.5 / count**0.5)


def test_two_operations_apply_in_turn(picture):
    """With numbers chosen by hand: invert, then solarize at level 9 (values from 26)."""
    planes = geometry.to_planes(picture[None])[0]
    places = [(OPERATIONS.index(name) + 0.5) / 15 for name in ("invert", "solarize")]
    numbers = np.array([places[0], 0.2, 0.5, 0.9, places[1], 0.4, 0.5, 0.1], np.float32)
    got = np.asarray(jax.jit(randaugment.randaugment)(planes, numbers))
    inverted = 255 - np.asarray(planes)
    expected = np.where(inverted < 256 - 230, inverted, 255 - inverted)
    np.testing.assert_array_equal(got, expected)
    numbers[[1, 5]] = 0.6  # neither applies
    np.testing.assert_array_equal(jax.jit(randaugment.randaugment)(planes, numbers), planes)
