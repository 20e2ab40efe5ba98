"""Shifted patch tokenization against SPT_LSA_ViT's outputs with the same weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax.errors import UserError
from smallvit_jax.interop.torch_files import infer_model
from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.initializers import get_scheme
from smallvit_jax.models.parameters import get_arrays
from smallvit_jax.models.shifted_patches import ShiftedMerging, ShiftedPatches, shifted_copies
from tests.models.spt_lsa_cases import added_parameters, check, fill, read_case
from tests.support.golden_formulas import hashed
from tests.support.reference_traces import quick_jit

OPTIONS = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
NAMES = {
    "merging.1.weight": "norm.scale",
    "merging.1.bias": "norm.bias",
    "merging.2.weight": "project.kernel",
    "merging.2.bias": "project.bias",
}
TINY = {
    "vit": {"width": 16, "heads": 2, "depth": 1},
    "swin": {"width": 8, "heads": 1, "depths": (1, 1)},
    "cait": {"width": 16, "heads": 2, "depth": 1, "class_depth": 1},
}


def filled(module: ShiftedPatches, weights: dict[str, np.ndarray]) -> ShiftedPatches:
    fill(module, {NAMES[name]: weight.T for name, weight in weights.items()})
    return module


@pytest.mark.parametrize(("case", "patch", "width"), [("spt_pe_p4", 4, 192), ("spt_pe_p2", 2, 96)])
def test_tokens_equal_the_published_code(case, patch, width):
    weights, images = read_case(case)
    module = filled(ShiftedPatches(patch, 3, width, 4, **OPTIONS), weights)
    check(case, module(jnp.asarray(images.transpose(0, 2, 3, 1))))


def test_merging_equals_the_published_code():
    weights, tokens = read_case("spt_merge")
    start = {"kernel_init": get_scheme("reference").kernel}
    module = filled(ShiftedMerging(96, 4, **start, **OPTIONS), weights)
    merged = module(jnp.asarray(tokens.reshape(2, 8, 8, 96)))
    check("spt_merge", merged.reshape(2, 16, 192))


def test_directions_of_the_eight_copies():
    """Left, right, up, down, then the diagonals; with a border of zeros, a shift is a roll."""
    image = np.zeros((1, 12, 12, 2), np.float32)
    image[:, 2:-2, 2:-2] = hashed("image", (1, 8, 8, 2), 1.0)
    found = np.asarray(shifted_copies(jnp.asarray(image), 2, 8))
    moves = [(0, 0), (0, 2), (0, -2), (2, 0), (-2, 0), (2, 2), (2, -2), (-2, 2), (-2, -2)]
    for i, move in enumerate(moves):
        expected = np.roll(image, move, axis=(1, 2))
        np.testing.assert_array_equal(found[..., 2 * i : 2 * i + 2], expected)


@pytest.mark.parametrize(
    ("name", "size", "directions", "added"),
    [
        # Published models with SPT and LSA, minus those without, minus the temperatures.
        ("vit", 32, 4, 2_729_878 - 2_692_426 - 108),
        ("vit", 64, 4, 2_906_228 - 2_756_744 - 108),
        ("cait", 32, 4, 9_058_066 - 9_020_618 - 104),
        ("swin", 32, 4, 8_562_166 - 7_073_188 - 90),
        ("swin", 32, 8, 10_050_646 - 7_073_188 - 90),
    ],
)
def test_added_parameters(name, size, directions, added):
    assert added_parameters(name, size, stem="spt", spt_directions=directions) == added


@pytest.mark.parametrize("name", TINY)
def test_models_accept_both_view_sizes(name):
    """With LSA; the smaller crop gives an odd grid, which Swin has to merge."""
    options = {"image_size": 16, "patch_size": 2, "stem": "spt", "lsa": True} | TINY[name]
    model = create_model(name, **options, init="fan_in")
    features = quick_jit(lambda images: model.features(images))
    for side in (16, 6):
        images = jnp.asarray(hashed("images", (2, side, side, 3), 1.0))
        found = np.asarray(features(images))
        assert found.shape == (2, model.num_features)
        assert np.isfinite(found).all() and (found[0] != found[1]).any()
    assert resolve_options(name, **options)["spt_directions"] == 4

    weights = state_dict(model)
    other = create_model(name, **options, seed=1)
    load_state_dict(other, weights)
    for key, array in get_arrays(model).items():
        np.testing.assert_array_equal(get_arrays(other)[key], array, err_msg=key)
    with pytest.raises(UserError, match="a model with shifted patches"):
        infer_model(weights, "x.pth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spt_directions": 8}, "model.spt_directions is for shifted patches"),
        ({"stem": "conv", "spt_directions": 8}, "model.spt_directions is for shifted patches"),
        ({"stem": "spt", "spt_directions": 6}, "choose 4 or 8"),
        ({"stem": "spt", "patch_size": 1}, "by half a patch, but model.patch_size is 1"),
        ({"stem": "spt", "stem_norm": "layer"}, "for the convolutional stem"),
    ],
)
def test_mistakes_get_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        resolve_options("vit", **options)
