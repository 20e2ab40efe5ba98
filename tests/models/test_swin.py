"""Swin against the reference's outputs with the same weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.interop.torch_weights import state_dict
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import get_arrays, set_arrays
from smallvit_jax.models.window_attention import MASKED, window_mask
from tests.models.reference_models import (
    OUTPUT_LIMITS,
    RESOLUTIONS,
    TOLERANCE,
    check_epsilon,
    check_initialization,
    check_parameter_counts,
    check_state_dict,
    features_of,
    filled_model,
    multi_crop_difference,
    output_differences,
    recorded_images,
)

TINY = {"width": 12, "depths": (1, 2, 1)}


@pytest.fixture(scope="module")
def fresh():
    return create_model("swin", num_classes=10)


@pytest.fixture(scope="module")
def swin():
    return filled_model("swin", num_classes=10)


@pytest.mark.parametrize(("part", "size", "tag"), RESOLUTIONS)
def test_outputs_and_every_layer_equal_the_reference(swin, golden, part, size, tag):
    recorded = golden("model_swin_32")[part]
    output_differences(swin, recorded, size, tag).check(OUTPUT_LIMITS)


def test_multi_crop_network_equals_the_reference(golden):
    assert multi_crop_difference("swin", golden("model_swin_32")) < TOLERANCE


def test_layer_norm_epsilon_is_1e_6(swin, golden):
    check_epsilon(swin, golden("eps_probe")["swin"])


def test_state_dict_matches_the_reference(swin, golden):
    check_state_dict(swin, golden("model_swin_32"))


def test_parameter_counts(fresh, golden):
    check_parameter_counts(fresh, golden("model_swin_32"))


def test_initialization_has_the_reference_statistics(fresh, golden):
    check_initialization(state_dict(fresh), golden("init_stats_swin_32"))


def test_drop_path_rises_over_all_blocks(fresh):
    rates = [block.drop_path_rate for stage in fresh.layers for block in stage.blocks]
    assert rates == pytest.approx(list(np.arange(12) * 0.1 / 11))


def test_drop_path_needs_rngs():
    model = create_model("swin", **TINY, drop_path=0.9, init="fan_in")
    images = jnp.tile(recorded_images(1, 32, "img"), (8, 1, 1, 1))
    assert len(np.unique(features_of(model, images), axis=0)) == 1
    assert len(np.unique(features_of(model, images, seed=0), axis=0)) > 1


def test_masked_padding_changes_small_crops_as_recorded(swin, golden):
    """The reference's features change by 2.43880415 when its padding is masked."""
    masked = filled_model("swin", num_classes=10, window_padding="masked")
    for part, size, tag in RESOLUTIONS:
        recorded = np.asarray(golden("model_swin_32")[part]["features"]["values"])
        features = np.ravel(features_of(masked, recorded_images(4, size, tag)))
        change = np.abs(features - recorded).max()
        assert change == pytest.approx(0 if size == 32 else 2.43880415, abs=1e-5)


def test_mask_separates_tokens_joined_by_rolling():
    """One window of 4 x 4, shifted by 2: its four quadrants come from four corners."""
    (mask,) = window_mask(4, 4, window=4, shift=2, mask_padding=False, mask_self=False)
    quadrant = np.array([0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2)
    np.testing.assert_array_equal(mask == 0, quadrant[:, None] == quadrant)
    assert set(np.unique(mask)) == {0, MASKED}
    # Of 2 x 2 windows, only the first has no border inside.
    mask = window_mask(8, 8, window=4, shift=2, mask_padding=False, mask_self=False)
    assert [len(np.unique(m, axis=0)) for m in mask] == [1, 2, 2, 4]


def test_padding_mask():
    assert window_mask(2, 2, window=4, shift=0, mask_padding=False, mask_self=False) is None
    assert window_mask(4, 8, window=4, shift=0, mask_padding=True, mask_self=False) is None
    (mask,) = window_mask(2, 3, window=4, shift=0, mask_padding=True, mask_self=False)
    assert (mask == mask[0]).all()
    assert np.flatnonzero(mask[0] == 0).tolist() == [0, 1, 2, 4, 5, 6]


def test_doubling_image_and_patch_size_keeps_features():
    """Repeating pixels 2 x 2 and quartering the patch weights gives the same tokens."""
    small, large = (create_model("swin", image_size=size, **TINY) for size in (32, 64))
    weights = get_arrays(small)
    kernel = weights["patch_embed.proj.kernel"].reshape(2, 2, 3, -1) / 4
    kernel = kernel.repeat(2, axis=0).repeat(2, axis=1).reshape(48, -1)
    set_arrays(large, weights | {"patch_embed.proj.kernel": kernel})
    for size in (32, 16):
        images = recorded_images(2, size, "img")
        double = images.repeat(2, axis=1).repeat(2, axis=2)
        np.testing.assert_allclose(
            features_of(large, double), features_of(small, images), atol=1e-5
        )


@pytest.mark.parametrize("padding", ["unmasked", "masked"])
@pytest.mark.parametrize("shape", [(24, 24), (16, 32), (40, 12)])
def test_other_image_sizes_work(shape, padding):
    model = create_model("swin", **TINY, window_padding=padding)
    features = features_of(model, jnp.ones((1, *shape, 3)))
    assert features.shape == (1, 48) and np.isfinite(features).all()


def test_bfloat16_stays_near_float32(golden):
    model = filled_model("swin", dtype=jnp.bfloat16)
    features = np.ravel(features_of(model, recorded_images(4, 32, "img")))
    expected = np.asarray(golden("model_swin_32")["full_res"]["features"]["values"])
    assert features.dtype == np.float32
    assert np.linalg.norm(features - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window_padding": "mask"}, 'did you mean "masked"'),
        ({"patch_size": 16}, "leaves nothing"),
        ({"width": 64}, "does not divide"),
        ({"position_resize": "slice"}, "has no option"),
    ],
)
def test_mistakes_get_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        create_model("swin", **options)
