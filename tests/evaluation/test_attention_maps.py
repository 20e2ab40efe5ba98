import numpy as np
import pytest

import smallvit_jax
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.attention_maps import (
    attention_maps,
    describe,
    draw_attention,
    masked_image,
    mass_in_box,
    mass_mask,
)
from smallvit_jax.models import resolve_options

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def trained(name, **options):
    options = resolve_options(name, image_size=16, init="fan_in", **options)
    model = smallvit_jax.create_model(**options)
    return model, {"model": options, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def test_mask_keeps_the_largest_mass_as_in_dino():
    """Cumulative sums .1, .3, .6, 1: those above .4 belong to .3 and .4."""
    values = np.array([[0.1, 0.2], [0.3, 0.4]])
    assert mass_mask(values, 0.6).tolist() == [[False, False], [True, True]]
    assert mass_mask(values * 7, 0.6).tolist() == [[False, False], [True, True]]
    assert mass_mask(values, 1.0).all()
    assert mass_mask(np.stack([values, values[::-1]]), 0.3).tolist() == [
        [[False, False], [False, True]],
        [[False, True], [False, False]],
    ]


def test_entropy_and_spread_of_uniform_and_peaked_maps():
    uniform = np.full((1, 1, 4, 4), 1 / 16)
    point = np.zeros((1, 1, 4, 4))
    point[..., 1, 2] = 0.3  # the rest went to the class token
    assert describe(uniform)["entropy"] == pytest.approx([np.log(16)])
    assert describe(point) == {"entropy": [0.0], "spread": [0.0]}
    two = point.copy()
    two[..., 1, 0] = 0.3  # two of four columns apart, for half of all pairs
    assert describe(two)["spread"] == pytest.approx([0.25])


def test_mass_in_a_box_weights_patches_by_their_overlap():
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert mass_in_box(values, (0, 0, 0.5, 0.5)) == pytest.approx(0.1)
    assert mass_in_box(values, (0.5, 0, 1, 1)) == pytest.approx(0.6)
    assert mass_in_box(values, (0.25, 0.5, 0.75, 1)) == pytest.approx((1.5 + 2) / 10)
    assert mass_in_box(np.ones((5, 8, 8)), (0.1, 0.2, 0.6, 0.9)) == pytest.approx([0.35] * 5)


@pytest.mark.parametrize("name", ["vit", "cait"])
def test_maps_at_the_training_size_and_enlarged(name):
    model, meta = trained(name, width=8, depth=1, heads=2)
    maps = attention_maps(model, meta, IMAGES)
    assert maps.shape == (3, 2, 8, 8) and maps.dtype == np.float32
    enlarged = attention_maps(model, meta, IMAGES, image_size=32)
    assert enlarged.shape == (3, 2, 16, 16)
    assert (enlarged.sum(axis=(2, 3)) < 1).all() and (enlarged.sum(axis=(2, 3)) > 0.9).all()
    if name == "cait":  # the model itself is unchanged
        assert model.position_resize == "slice"
    with pytest.raises(UserError, match=r"attention\.block=5 is not a block of this model"):
        attention_maps(model, meta, IMAGES, block=5)
    with pytest.raises(UserError, match="images of 17 pixels cannot be divided into patches of 2"):
        attention_maps(model, meta, IMAGES, image_size=17)


def test_figure_has_a_row_per_image_and_a_column_per_head():
    maps = np.random.default_rng(1).random((3, 4, 8, 8))
    axes = draw_attention(IMAGES, {"a": maps}, names=["x", "y", "z"]).axes
    titles = [cell.get_title() for cell in axes[:7]]
    assert titles == ["image", "mean", "top 60%", "head 1", "head 2", "head 3", "head 4"]
    assert len(axes) == 21
    drawn = axes[7 + 4].images[0].get_array()  # second image, second head
    assert np.array_equal(drawn, maps[1, 1])
    side_by_side = draw_attention(IMAGES, {"a": maps, "b": maps}).axes
    titles = [cell.get_title() for cell in side_by_side[:5]]
    assert titles == ["image", "a\nmean", "a\ntop 60%", "b\nmean", "b\ntop 60%"]


def test_image_is_dark_outside_the_mask():
    image = np.full((4, 4, 3), 200, np.uint8)
    masked = masked_image(image, np.array([[True, False], [False, False]]))
    assert (
        (masked[:2, :2] == 200).all() and (masked[2:] == 50).all() and (masked[:2, 2:] == 50).all()
    )
