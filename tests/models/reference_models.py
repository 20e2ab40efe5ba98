"""Models with formula weights, compared with recordings of the reference."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import get_arrays
from tests.support.differences import Differences
from tests.support.golden_formulas import fill, image_batch
from tests.support.outputs import output
from tests.support.reference_traces import fill_weights, l2, quick_jit, view_network

# Largest float32 differences from the recording; relative for the norms.
OUTPUT_LIMITS = {
    "features": 1e-5,
    "logits": 1e-5,
    "norms of each layer's tokens": 1e-6,
    "first values of each layer's tokens": 2e-5,
}
TOLERANCE = 1e-5  # for features
# Part of the golden file, image size, tag of the images.
RESOLUTIONS = [("full_res", 32, "img"), ("half_res", 16, "local")]


def filled_model(name: str, **options) -> nnx.Module:
    model = create_model(name, **options)
    fill_weights(model)
    return model


def recorded_images(count: int, size: int, tag: str) -> jax.Array:
    return jnp.asarray(image_batch(count, size, tag).transpose(0, 2, 3, 1))


def features_of(model: nnx.Module, images: jax.Array, seed: int | None = None) -> np.ndarray:
    """Features from one compiled program; `seed` enables drop path."""

    @quick_jit
    def features(images):
        return model.features(images, rngs=None if seed is None else nnx.Rngs(seed))

    return np.asarray(features(images))


def output_differences(
    model: nnx.Module, recorded, size: int, tag: str, jit=quick_jit
) -> Differences:
    """Compares features, logits and the tokens after each layer."""

    @jit
    def outputs(images):
        return model.features(images), model(images), output(model, images, "layers")

    features, logits, layers = outputs(recorded_images(4, size, tag))
    found = Differences()
    found.absolute("features", features, recorded["features"]["values"])
    found.absolute("logits", logits, recorded["logits10"]["values"])
    assert layers.keys() == recorded["intermediate_norms"].keys()
    for name, tokens in layers.items():
        expected, place = recorded["intermediate_norms"][name], f"after {name}"
        found.relative("norms of each layer's tokens", l2(tokens), expected["l2"], place)
        first = tokens.ravel()[: len(expected["first"])]
        found.absolute("first values of each layer's tokens", first, expected["first"], place)
    return found


def check_state_dict(model: nnx.Module, recorded) -> None:
    """Keys, their order, shapes and types are the reference's; weights survive a round trip."""
    back = state_dict(model)
    found = [[key, list(weight.shape), str(weight.dtype)] for key, weight in back.items()]
    assert found == recorded["state_dict"]
    shifted = {key: weight + 1 for key, weight in back.items()}
    other = create_model(recorded["arch"], num_classes=10)
    load_state_dict(other, shifted)
    for key, weight in state_dict(other).items():
        if weight.dtype == np.float32:
            np.testing.assert_array_equal(weight, shifted[key], err_msg=key)


def check_parameter_counts(model: nnx.Module, recorded) -> None:
    """Counts for the model with 10 classes and for the backbone alone."""
    sizes = {name: array.size for name, array in get_arrays(model).items()}
    head = sizes["head.kernel"] + sizes["head.bias"]
    counts = recorded["parameter_counts"]
    assert sum(sizes.values()) == counts["classes_10"]
    assert sum(sizes.values()) - head == counts["backbone"]


def check_epsilon(model: nnx.Module, recorded) -> None:
    """Zero images and small embeddings make the LayerNorm epsilon matter."""
    weights = {k: fill(k, v.shape) for k, v in state_dict(model).items()}
    for key in weights.keys() & {"pos_embed", "cls_token"}:
        weights[key] = weights[key] * np.float32(0.01)
    load_state_dict(model, weights)
    features = np.ravel(features_of(model, jnp.zeros((1, 32, 32, 3))))
    fill_weights(model)
    assert np.abs(features - recorded["values"]).max() < TOLERANCE


def multi_crop_difference(name: str, recorded, jit=quick_jit) -> float:
    """Largest over two global and two local views, through backbone and projection head."""
    views = [
        jnp.stack([recorded_images(2, size, f"{letter}{i}") for i in (0, 1)], axis=1)
        for size, letter in ((32, "g"), (16, "l"))
    ]
    output = jit(view_network(create_model(name)))(views)
    expected = recorded["multicrop_output"]["values"]
    return float(np.abs(np.asarray(output).swapaxes(0, 1).ravel() - expected).max())


def check_initialization(weights: dict[str, np.ndarray], recorded) -> None:
    """Means and deviations agree within 5 standard errors; constants are equal.

    `recorded` may hold only the first of several identical blocks.
    """
    for key, weight in weights.items():
        if weight.dtype != np.float32:
            continue
        full_key = f"classifier.{key}" if key.startswith("head.") else f"backbone.{key}"
        if full_key not in recorded:
            _, _, rest = key.removeprefix("blocks.").partition(".")
            full_key = f"backbone.blocks.0.{rest}"
        reference = recorded[full_key]
        assert list(weight.shape) == reference["shape"], key
        if reference["std"] == 0:
            assert (weight == np.float32(reference["mean"])).all(), key
            continue
        # Two samples are compared, so the variance of their difference is twice that of one.
        error = reference["std"] * np.sqrt(2 / weight.size)
        assert abs(weight.mean() - reference["mean"]) < 5 * error, key
        assert abs(weight.std() - reference["std"]) < 5 * error / np.sqrt(2), key
        if weight.size > 1000:
            bound = max(abs(reference["min"]), abs(reference["max"]))
            assert np.abs(weight).max() < 1.6 * bound, key
