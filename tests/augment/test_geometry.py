import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.augment import geometry
from tests.augment.recorded_cases import crop, names, our_image, recorded_image
from tests.augment.reference_ops import assert_close, assert_same_moments, difference, recorded

CROPS = names(r"rrc\d+_\d+_\d+_\d+_\d+_to\d+")

crop_and_resize = jax.jit(geometry.crop_and_resize, static_argnums=2)


@pytest.mark.parametrize("name", CROPS)
def test_crop_and_resize_matches_pillow_within_a_level(name):
    got, expected = our_image(name), recorded_image(name)
    assert_close(got, expected, mean=0.01)
    assert difference(got, expected).max() <= 1


def test_crop_nearly_matches_pillow_13():
    """Pillow 13 resizes vertically first."""
    name = "rrc32_5_0_23_17_to16"
    assert_close(our_image(name), recorded_image(f"{name}__pillow13"), mean=0.5)


def test_crop_can_flip():
    plain = crop("32", "3_5_20_24", "16")
    np.testing.assert_array_equal(crop("32", "3_5_20_24", "16", flip=True), plain[:, ::-1])


def test_pixels_outside_the_box_are_not_used():
    planes = np.zeros((32, 3, 40), np.float32)
    planes[4:20, :, 7:30] = 100.0
    out = crop_and_resize(planes, jnp.array([4, 7, 16, 23]), 24)
    np.testing.assert_array_equal(out, np.full((24, 3, 24), 100.0))


@pytest.mark.parametrize("name", names("randomcrop_pad4.+|hflip"))
def test_padded_crop_and_flip_are_exact(name):
    np.testing.assert_array_equal(our_image(name), recorded_image(name))


def test_flip_comes_before_the_crop():
    planes = geometry.to_planes(recorded()["image32"])
    got = geometry.from_planes(geometry.pad_and_crop(planes, 1, 7, padding=4, flip=True))
    padded = np.pad(recorded()["hflip"], ((4, 4), (4, 4), (0, 0)))
    np.testing.assert_array_equal(got, padded[1:33, 7:39])


@pytest.mark.parametrize("name", names(r"erase_\d"))
def test_erase_is_exact(name):
    np.testing.assert_allclose(our_image(name), recorded_image(name), atol=1e-6)


@pytest.mark.parametrize("scale", [(0.7, 1.0), (0.2, 0.5), (0.5, 1.0), (0.2, 0.4)])
def test_crop_boxes_have_torchvisions_distribution(golden, scale):
    expected = golden("augment_distribution")[f"rrc_params_scale{scale}"]
    count = 20_000  # as many as were recorded
    uniform = jax.random.uniform(jax.random.key(0), (count, geometry.CROP_NUMBERS))
    boxes = np.asarray(jax.jit(jax.vmap(lambda u: geometry.crop_box(u, 32, 32, scale)))(uniform))
    assert_same_moments(boxes, expected["mean"], expected["sd"], count)
    area = boxes[:, 2] * boxes[:, 3]
    standard_error = area.std() * np.sqrt(2 / count)
    assert abs(area.mean() - expected["area_mean"]) < 5 * standard_error
    correlation = np.corrcoef(boxes[:, 2], boxes[:, 3])[0, 1]
    assert abs(correlation - expected["corr_h_w"]) < 5 * np.sqrt(2 / count)
    # The rarest values may or may not turn up in 20,000 draws.
    assert np.abs(boxes.min(0) - expected["min"]).max() <= 1
    assert np.abs(boxes.max(0) - expected["max"]).max() <= 1
    assert boxes.min() >= 0 and (boxes[:, :2] + boxes[:, 2:]).max() <= 32


@pytest.mark.parametrize(
    "height,width,box",
    [(32, 32, [0, 0, 32, 32]), (10, 40, [0, 13, 10, 13]), (40, 10, [13, 0, 13, 10])],
)
def test_crop_box_falls_back_to_the_largest_centered_box(height, width, box):
    # Areas above 1 never fit. As in torchvision, the longer side is 4/3 of the shorter, rounded.
    got = geometry.crop_box(jnp.full(geometry.CROP_NUMBERS, 0.9), height, width, (1.5, 2.0))
    assert got.tolist() == [(height - box[2]) // 2, (width - box[3]) // 2, *box[2:]]


def test_boxes_reach_both_edges_and_stay_inside():
    nearly_one = 1 - 2.0**-24
    for last, corner in ((0.0, [0, 0]), (nearly_one, [32 - 23, 32 - 23])):
        uniform = jnp.full(geometry.CROP_NUMBERS, 0.5).at[-2:].set(last)
        assert geometry.crop_box(uniform, 32, 32, (0.5, 0.5)).tolist() == [*corner, 23, 23]


def simulated_erase_boxes(count):
    """The reference's rule, one box at a time."""
    random = np.random.default_rng(0)
    boxes = []
    while len(boxes) < count:
        area, aspect = random.uniform(0.02, 0.4) * 1024, random.uniform(0.3, 3.33)
        height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if height < 32 and width < 32:
            row, column = random.integers(0, 33 - height), random.integers(0, 33 - width)
            boxes.append((row, column, height, width))
    return np.array(boxes)


def test_erase_boxes_have_the_reference_distribution():
    count = 20_000
    expected = simulated_erase_boxes(count)
    uniform = jax.random.uniform(jax.random.key(1), (count, geometry.ERASE_NUMBERS))
    boxes = np.asarray(jax.jit(jax.vmap(lambda u: geometry.erase_box(u, 32, 32)))(uniform))
    assert_same_moments(boxes, expected.mean(0), expected.std(0), count)
    area = (boxes[:, 2] * boxes[:, 3])[:, None]
    expected_area = (expected[:, 2] * expected[:, 3])[:, None]
    assert_same_moments(area, expected_area.mean(0), expected_area.std(0), count)
    assert boxes.min() >= 0 and (boxes[:, :2] + boxes[:, 2:]).max() <= 32


def test_box_that_never_fits_erases_nothing():
    uniform = jax.random.uniform(jax.random.key(0), (geometry.ERASE_NUMBERS,))
    assert geometry.erase_box(uniform, 32, 32, area=(1.5, 2.0)).tolist() == [0, 0, 0, 0]
