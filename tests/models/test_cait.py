"""CaiT against the reference's outputs with the same weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.interop.torch_weights import state_dict
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import get_arrays, set_arrays
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

TINY = {"width": 16, "depth": 2, "class_depth": 1}


@pytest.fixture(scope="module")
def fresh():
    return create_model("cait", num_classes=10)


@pytest.fixture(scope="module")
def cait():
    return filled_model("cait", num_classes=10)


@pytest.mark.parametrize(("part", "size", "tag"), RESOLUTIONS)
def test_outputs_and_every_layer_equal_the_reference(cait, golden, part, size, tag):
    recorded = golden("model_cait_32")[part]
    output_differences(cait, recorded, size, tag).check(OUTPUT_LIMITS)


def test_multi_crop_network_equals_the_reference(golden):
    assert multi_crop_difference("cait", golden("model_cait_32")) < TOLERANCE


def test_layer_norm_epsilon_is_1e_6(cait, golden):
    check_epsilon(cait, golden("eps_probe")["cait"])


def test_state_dict_matches_the_reference(cait, golden):
    check_state_dict(cait, golden("model_cait_32"))


def test_parameter_counts(fresh, golden):
    check_parameter_counts(fresh, golden("model_cait_32"))


def test_initialization_has_the_reference_statistics(fresh, golden):
    check_initialization(state_dict(fresh), golden("init_stats_cait_32"))


def test_drop_path_is_the_same_in_every_block(fresh):
    assert [block.drop_path_rate for block in fresh.blocks] == [0.1] * 24


def test_branches_are_dropped_independently():
    """Two blocks of two branches, each kept or dropped, give 16 outputs."""
    model = create_model("cait", **TINY, drop_path=0.5, init="fan_in")
    images = jnp.tile(recorded_images(1, 32, "img"), (256, 1, 1, 1))
    arrays = get_arrays(model)
    set_arrays(model, {k: v + 1 if "gamma" in k else v for k, v in arrays.items()})
    assert len(np.unique(features_of(model, images), axis=0)) == 1
    assert len(np.unique(features_of(model, images, seed=0), axis=0)) == 16


def test_interpolated_positions():
    """Changes nothing at full size and much at half size, and allows larger images."""
    sliced, resized = (
        filled_model("cait", **TINY, num_classes=10, position_resize=resize)
        for resize in ("slice", "interpolate")
    )
    change = {
        size: np.abs(features_of(resized, images) - features_of(sliced, images)).max()
        for size, images in ((s, recorded_images(4, s, tag)) for _, s, tag in RESOLUTIONS)
    }
    assert change[32] == 0
    assert change[16] > 0.1
    assert np.isfinite(features_of(resized, jnp.zeros((1, 40, 24, 3)))).all()


def test_smaller_images_use_the_first_positions():
    """With 4 x 2 patches, positions after the eighth have no influence."""
    model = create_model("cait", **TINY, init="fan_in")
    images = jnp.asarray(recorded_images(2, 16, "img")[:, :, :8])
    before = features_of(model, images)
    arrays = get_arrays(model)
    positions = arrays["pos_embed"]
    set_arrays(model, arrays | {"pos_embed": positions.at[:, 8:].set(7.0)})
    np.testing.assert_array_equal(features_of(model, images), before)
    set_arrays(model, arrays | {"pos_embed": positions.at[:, 7:].set(7.0)})
    assert np.abs(features_of(model, images) - before).max() > 0


def test_images_with_more_patches_than_positions_are_refused():
    model = create_model("cait", **TINY)
    assert features_of(model, jnp.zeros((1, 16, 64, 3))).shape == (1, 16)  # still 64 patches
    with pytest.raises(UserError, match="built for 64 patches, but images of 32 x 36 pixels"):
        features_of(model, jnp.zeros((1, 32, 36, 3)))


def test_doubling_image_and_patch_size_keeps_features():
    """Repeating pixels 2 x 2 and quartering the patch weights gives the same tokens."""
    small, large = (create_model("cait", image_size=size, **TINY) for size in (32, 64))
    weights = get_arrays(small)
    kernel = weights["patch_embed.linear.kernel"].reshape(4, 4, 3, -1) / 4
    kernel = kernel.repeat(2, axis=0).repeat(2, axis=1).reshape(192, -1)
    set_arrays(large, weights | {"patch_embed.linear.kernel": kernel})
    for size in (32, 16):
        images = recorded_images(2, size, "img")
        double = images.repeat(2, axis=1).repeat(2, axis=2)
        np.testing.assert_allclose(
            features_of(large, double), features_of(small, images), atol=1e-5
        )


def test_bfloat16_stays_near_float32(golden):
    model = filled_model("cait", dtype=jnp.bfloat16)
    features = np.ravel(features_of(model, recorded_images(4, 32, "img")))
    expected = np.asarray(golden("model_cait_32")["full_res"]["features"]["values"])
    assert features.dtype == np.float32
    assert np.linalg.norm(features - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"position_resize": "interpolated"}, 'did you mean "interpolate"'),
        ({"width": 66}, "does not divide"),
        ({"window_padding": "masked"}, "has no option"),
    ],
)
def test_mistakes_get_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        create_model("cait", **options)


@pytest.mark.parametrize("gamma", [1e-5, 1e-3])
def test_small_layer_scales_survive_bfloat16(gamma):
    """What the blocks add to their input, in bfloat16, points where it does in float32."""
    added = []
    for dtype in (jnp.float32, jnp.bfloat16):
        model = create_model("cait", width=32, depth=3, class_depth=1, init="fan_in", dtype=dtype)
        arrays = get_arrays(model)
        scales = {k: jnp.full_like(v, gamma) for k, v in arrays.items() if "gamma" in k}
        set_arrays(model, arrays | scales)
        layers = model.outputs(recorded_images(4, 32, "img"), "layers")["layers"]
        added.append(np.ravel(layers["blocks.2"] - layers["block_input"]))
    a, b = added
    assert a @ b > 0.99 * np.linalg.norm(a) * np.linalg.norm(b)
