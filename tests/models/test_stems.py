"""The convolutional stem: recorded outputs, default layers, and its use in each family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax.errors import UserError
from smallvit_jax.models import abstract_model, create_model, resolve_options
from smallvit_jax.models.parameters import Functional, get_arrays, set_arrays
from smallvit_jax.models.stems import ConvStack, conv_stack, make_stem
from tests.support.golden_formulas import hashed, read_golden
from tests.support.outputs import output
from tests.support.tiny_jobs import SMALLEST

CASES = read_golden("conv_stem")["cases"]
IMAGES = jnp.asarray(hashed("input:img", (3, 16, 16, 3), 1.0))
TINY = {
    name: options | {"image_size": 16, "patch_size": 2, "stem": "conv"}
    for name, options in (SMALLEST | {"swin": SMALLEST["swin"] | {"depths": (1,)}}).items()
}


def never():
    raise AssertionError("the convolutional stem has no patch embedding")


def stem_of(case: dict, **options) -> nnx.Module:
    """A recorded stem, with its hashed weights."""
    *channels, width = case["dims"]
    *strides, _ = case["strides"]
    patch = int(np.prod(strides))
    stem = make_stem(
        never,
        stem="conv",
        image_size=patch * case["eval"]["shape"][-1],
        patch_size=patch,
        width=width,
        stem_channels=channels,
        stem_strides=strides,
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
        **({"stem_norm": "batch"} | options),
    )
    set_arrays(stem, {name: hashed_array(name, a.shape) for name, a in get_arrays(stem).items()})
    return stem


def hashed_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Takes our name; the recorded ones are cstem0_conv.weight, ..., cstem_last_conv.bias."""
    if name.endswith((".mean", ".var")):
        return np.full(shape, name.endswith(".var"), np.float32)
    kind, *rest = name.split(".")
    if kind == "convs":
        weight = hashed(f"cstem{rest[0]}_conv.weight", (*shape[:1:-1], *shape[:2]), 0.2)
        return weight.transpose(2, 3, 1, 0)
    if kind == "norms":
        key = {"scale": "weight", "bias": "bias"}[rest[1]]
        return hashed(f"cstem{rest[0]}_bn.{key}", shape, 0.2) + np.float32(key == "weight")
    if name == "pointwise.kernel":
        return hashed("cstem_last_conv.weight", shape[::-1], 0.2).T
    return hashed("cstem_last_conv.bias", shape, 0.2)


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_the_recording(name):
    """With running statistics of 0 and 1, and with batch statistics."""
    stem = stem_of(CASES[name])
    weights = [v for k, v in get_arrays(stem).items() if not k.endswith((".mean", ".var"))]
    assert sum(w.size for w in weights) == CASES[name]["params"]
    side = stem.image_size
    images = jnp.asarray(hashed("input:img", (2, 3, side, side), 1.0).transpose(0, 2, 3, 1))
    for mode in ("eval", "train"):
        recorded = CASES[name][mode]
        tokens = np.asarray(stem(images, train=mode == "train"))
        found = tokens.transpose(0, 2, 1).ravel()
        assert found.size == np.prod(recorded["shape"])
        np.testing.assert_allclose(found[:64], recorded["first64"], 0, 1e-5)
        assert found[-1] == pytest.approx(recorded["last"], abs=1e-5)
        assert found.mean(dtype=np.float64) == pytest.approx(recorded["mean"], abs=1e-6)
        assert np.linalg.norm(found.astype(np.float64)) == pytest.approx(recorded["l2"], rel=1e-6)


@pytest.mark.parametrize(
    ("patch_size", "width", "channels", "strides"),
    [
        (1, 192, (192,), (1,)),
        (2, 96, (96,), (2,)),
        (4, 192, (48, 96, 192), (1, 2, 2)),
        (8, 192, (48, 96, 192), (2, 2, 2)),
        (16, 192, (24, 48, 96, 192), (2, 2, 2, 2)),
        (16, 384, (48, 96, 192, 384), (2, 2, 2, 2)),
        (32, 192, (12, 24, 48, 96, 192), (2, 2, 2, 2, 2)),
    ],
)
def test_stem_halves_the_image_and_doubles_the_channels(patch_size, width, channels, strides):
    """Patches of 16 give the paper's 1GF and 4GF stems, 2 to 8 those for small images."""
    assert conv_stack(patch_size, width) == ConvStack(channels, strides)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stem": "convs"}, 'did you mean "conv"'),
        ({"stem_norm": "layer"}, "model.stem_norm is for the convolutional stem"),
        ({"stem_channels": (8,), "stem_strides": (2,)}, "set model.stem=conv or leave"),
        ({"stem": "conv", "stem_norm": "bath"}, 'did you mean "batch"'),
        ({"stem": "conv", "stem_channels": (8, 8)}, "give both or neither"),
        ({"stem": "conv", "stem_channels": (8,), "stem_strides": (2, 2)}, "have the same length"),
        ({"stem": "conv", "stem_channels": (8, 8), "stem_strides": (1, 2)}, "model.patch_size=4"),
        ({"stem": "conv", "stem_channels": (8,), "stem_strides": (4,)}, "ones and twos"),
        ({"stem": "conv", "image_size": 24, "patch_size": 6}, "a power of two"),
        ({"stem": "conv", "width": 6, "heads": 2}, "choose a multiple of 4"),
    ],
)
def test_invalid_stems_get_one_sentence(options, words):
    for build in (resolve_options, create_model):
        with pytest.raises(UserError, match=words) as caught:
            build("vit", **({"image_size": 32} | options))
        assert "\n" not in str(caught.value)


def test_initial_stem_has_the_papers_deviations():
    model = create_model("vit", stem="conv", depth=1)
    weights = {k: np.asarray(v) for k, v in get_arrays(model).items() if "patch_embed" in k}
    for i, channels in enumerate((48, 96, 192)):
        kernel = weights[f"patch_embed.convs.{i}.kernel"]
        assert kernel.std() == pytest.approx((2 / channels) ** 0.5, rel=0.05)
    assert weights["patch_embed.pointwise.kernel"].std() == pytest.approx(192**-0.5, rel=0.02)
    assert not weights["patch_embed.pointwise.bias"].any()


def parameters(name: str, **options) -> int:
    """Number of parameters, counted without allocating them."""
    weights = nnx.state(abstract_model(name, **options), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


def test_conv_stem_replaces_one_block_by_default():
    assert resolve_options("vit")["depth"] == 9
    assert resolve_options("vit", stem="conv")["depth"] == 8
    assert resolve_options("vit", stem="conv", depth=9)["depth"] == 9
    assert resolve_options("cait", stem="conv")["depth"] == 24
    # A block has 297,024 parameters, the stem 246,384, the patch embedding 9,408.
    assert parameters("vit") == 2_695_680
    assert parameters("vit", stem="conv") == 2_695_680 - 297_024 + 246_384 - 9_408


@pytest.mark.parametrize("family", ["vit", "swin", "cait"])
def test_half_size_crops_leave_running_statistics(family):
    """Their grid has half the side and is normalized by its own statistics."""
    model = Functional(create_model(family, **TINY[family]))

    @jax.jit
    def after(images):
        return model(model.trainable, model.buffers, images, train=True, method="features")

    _, whole = after(IMAGES)
    _, local = after(IMAGES[:, :8, :8])
    assert list(whole) == ["patch_embed.norms.0.mean", "patch_embed.norms.0.var"]
    for name, value in model.buffers.items():
        np.testing.assert_array_equal(local[name], value)
        assert np.abs(whole[name] - value).max() > 1e-3


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("family", ["vit", "swin", "cait"])
def test_model_outputs_agree(family, norm):
    """Features, block features, attention and layers, with tokens from the conv stem."""
    model = create_model(family, **TINY[family], stem_norm=norm)
    features = np.asarray(model.features(IMAGES))
    layers = output(model, IMAGES, "layers")
    assert layers["patch_embed"].shape[1] == 64
    tokens = np.asarray(layers["norm"], np.float64)
    pooled = tokens.mean(axis=1) if family == "swin" else tokens[:, 0]
    np.testing.assert_allclose(features, pooled, 1e-4, 1e-5)
    np.testing.assert_allclose(
        output(model, IMAGES, "block_features", last_blocks=1), features, 1e-4, 1e-5
    )
    assert np.isfinite(output(model, IMAGES, "attention")).all()
    if norm == "layer":
        assert not Functional(model).buffers


def test_layers_in_training_have_the_tokens_that_the_blocks_get():
    model = create_model("vit", **TINY["vit"])
    layers = model.outputs(IMAGES, "layers", train=True)["layers"]
    tokens = layers["block_input"][:, 1:] - model.pos_embed[:, 1:]
    np.testing.assert_allclose(layers["patch_embed"], tokens, atol=1e-5)


def test_swin_keeps_the_norm_after_patch_embedding():
    model = create_model("swin", **TINY["swin"])
    model.patch_embed.norm.bias[...] = jnp.full(4, 3.0)
    tokens = model.patch_embed(IMAGES)
    np.testing.assert_allclose(tokens.mean(axis=-1), 3, atol=1e-5)
    assert 0.5 < float(tokens.std()) < 1.1
