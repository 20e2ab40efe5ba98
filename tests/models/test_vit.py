"""The ViT against the reference's outputs with the same weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.models import create_model
from smallvit_jax.models.layers import resize_position_embedding
from smallvit_jax.models.parameters import get_arrays
from tests.support.golden_formulas import fill, image_batch
from tests.support.outputs import output

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def vit():
    model = create_model("vit", num_classes=10)
    load_state_dict(model, {k: fill(k, v.shape) for k, v in state_dict(model).items()})
    return model


def nhwc(images):
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def test_formulas_match_the_recording(golden):
    recorded = golden("formula_selftest")
    for key, expected in recorded["fill"].items():
        values = fill(key, tuple(expected["shape"]))
        assert values.ravel()[:4].tolist() == expected["first4"]
        assert float(values.astype(np.float64).sum()) == pytest.approx(expected["sum"], abs=1e-9)
    images = image_batch(4, 32, "img")
    np.testing.assert_allclose(
        images.ravel()[:4], recorded["image_batch(4,32,'img')"]["first4"], atol=1e-7
    )


@pytest.mark.parametrize(
    ("part", "size", "tag"), [("full_res", 32, "img"), ("half_res", 16, "local")]
)
def test_outputs_equal_the_reference(vit, golden, part, size, tag):
    expected = golden("model_vit_32")[part]
    images = nhwc(image_batch(4, size, tag))
    features = np.asarray(vit.features(images)).ravel()
    logits = np.asarray(vit(images)).ravel()
    assert np.abs(features - expected["features"]["values"]).max() < TOLERANCE
    assert np.abs(logits - expected["logits10"]["values"]).max() < TOLERANCE


@pytest.mark.parametrize(
    ("part", "size", "tag"), [("full_res", 32, "img"), ("half_res", 16, "local")]
)
def test_every_layer_equals_the_reference(vit, golden, part, size, tag):
    expected = golden("model_vit_32")[part]["intermediate_norms"]
    layers = output(vit, nhwc(image_batch(4, size, tag)), "layers")
    assert set(layers) == set(expected)
    for name, tokens in layers.items():
        norm = np.linalg.norm(np.asarray(tokens, np.float64))
        assert norm == pytest.approx(expected[name]["l2"], rel=1e-6), name
        np.testing.assert_allclose(tokens.ravel()[:4], expected[name]["first"], atol=2e-5)


def test_layer_norm_epsilon_is_1e_6(golden):
    model = create_model("vit")
    weights = {k: fill(k, v.shape) for k, v in state_dict(model).items()}
    weights["pos_embed"] = weights["pos_embed"] * np.float32(0.01)
    weights["cls_token"] = weights["cls_token"] * np.float32(0.01)
    load_state_dict(model, weights)
    features = np.asarray(model.features(jnp.zeros((1, 32, 32, 3)))).ravel()
    assert np.abs(features - golden("eps_probe")["vit"]["values"]).max() < TOLERANCE


def test_class_token_shortcut_equals_the_full_last_block(vit):
    images = nhwc(image_batch(4, 32, "img"))
    full = output(vit, images, "layers")["norm"][:, 0]
    np.testing.assert_allclose(vit.features(images), full, atol=5e-6)


def test_parameter_counts(golden):
    counts = golden("model_vit_32")["parameter_counts"]
    for classes, key in [(0, "backbone"), (10, "classes_10"), (200, "classes_200")]:
        arrays = get_arrays(create_model("vit", num_classes=classes))
        assert sum(a.size for a in arrays.values()) == counts[key]


def test_initialization_has_the_reference_statistics(golden):
    """Means and deviations agree within 5 standard errors; constants are equal."""
    expected = golden("init_stats_vit_32")
    model = create_model("vit", num_classes=10)
    for key, weight in state_dict(model).items():
        full_key = f"classifier.{key}" if key.startswith("head.") else f"backbone.{key}"
        reference = expected[full_key]
        assert list(weight.shape) == reference["shape"], key
        if reference["std"] == 0:
            assert (weight == reference["mean"]).all(), key
            continue
        # Two samples are compared, so the variance of their difference is twice that of one.
        error = reference["std"] * np.sqrt(2 / weight.size)
        assert abs(weight.mean() - reference["mean"]) < 5 * error, key
        assert abs(weight.std() - reference["std"]) < 5 * error / np.sqrt(2), key
        bound = max(abs(reference["min"]), abs(reference["max"]))
        assert np.abs(weight).max() < 1.6 * bound, key


def test_seed_determines_the_weights():
    a, b, c = (get_arrays(create_model("vit", depth=1, seed=s)) for s in (0, 0, 1))
    assert all((a[k] == b[k]).all() for k in a)
    assert not (a["blocks.0.mlp.fc1.kernel"] == c["blocks.0.mlp.fc1.kernel"]).any()


def test_bfloat16_stays_near_float32(golden):
    model = create_model("vit", dtype=jnp.bfloat16)
    load_state_dict(model, {k: fill(k, v.shape) for k, v in state_dict(model).items()})
    features = np.asarray(model.features(nhwc(image_batch(4, 32, "img")))).ravel()
    expected = np.asarray(golden("model_vit_32")["full_res"]["features"]["values"])
    assert features.dtype == np.float32
    assert np.linalg.norm(features - expected) / np.linalg.norm(expected) < 0.02


def test_position_embedding_equals_the_reference(golden):
    """For a 16 px image: all 16 positions, channels 0 to 3."""
    grid = jnp.asarray(fill("pos_embed", (1, 65, 192))[0, 1:].reshape(8, 8, 192))
    resized = resize_position_embedding(grid, 4, 4).reshape(16, 192)[:, :4]
    recorded = golden("vit32_pos_embed_interp")["size_16"]["first"]
    np.testing.assert_allclose(np.ravel(resized), recorded, atol=1e-6)
    assert resize_position_embedding(grid, 3, 5).shape == (3, 5, 192)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "vitt"}, 'did you mean "vit"'),
        ({"name": "vit", "widht": 64}, 'did you mean "width"'),
        ({"name": "vit", "patch_size": 5}, "does not divide"),
        ({"name": "vit", "width": 64, "heads": 12}, "does not divide"),
        ({"name": "vit", "init": "fanin"}, 'did you mean "fan_in"'),
    ],
)
def test_mistakes_get_one_sentence(arguments, words):
    with pytest.raises(UserError, match=words):
        create_model(**arguments)
