"""Structured initialization in a model, against statistics of the authors' code.

The values are from osiriszjq/structured_init at 48b59c3, run on a CPU.
"""

import functools

import numpy as np
import pytest
from flax import nnx

from smallvit_jax.config.choices import INITS
from smallvit_jax.errors import UserError
from smallvit_jax.models import abstract_model, create_model, impulse, resolve_options
from smallvit_jax.models.heads import ProjectionHead
from smallvit_jax.models.initializers import SCHEMES
from smallvit_jax.models.parameters import get_arrays
from tests.models.test_impulse import BANDS, SMALL, measure, outside
from tests.support.outputs import output

VARIANT = {"pool": "mean", "pos_embed": "sincos"}
GEOMETRY = {"image_size": 16, "patch_size": 4, "width": 64, "heads": 4, **VARIANT}


@functools.cache
def model(init, **options):
    return create_model("vit", init=init, num_classes=10, **GEOMETRY | {"depth": 2} | options)


@pytest.fixture(autouse=True, scope="module")
def _temporary_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(impulse, "CACHE", tmp_path_factory.mktemp("impulse"))
        yield


def kernels(block):
    """Kernels of queries, keys, values and projection, each [width, width], float64."""
    qkv = np.asarray(block.attn.qkv.kernel[...], np.float64)
    return *np.split(qkv, 3, axis=1), np.asarray(block.attn.proj.kernel[...], np.float64)


def by_head(kernel, heads=4):
    width = len(kernel)
    return kernel.reshape(width, heads, width // heads).transpose(1, 0, 2)


def test_impulse_queries_and_keys_give_the_maps():
    queries, keys = (by_head(k) for k in kernels(model("impulse3").blocks[0])[:2])
    offsets = impulse.solve(64, 4, 4, 3).offsets
    stats = measure(queries, keys.transpose(0, 2, 1), offsets, 4)
    assert outside(stats, BANDS[SMALL]) == [], stats


def test_blocks_share_only_initial_queries_and_keys():
    first, second = (kernels(block) for block in model("impulse3").blocks)
    for a, b in zip(first[:2], second[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first[2:], second[2:], strict=True):
        assert not (a == b).any()


@pytest.mark.parametrize(("images", "mass"), [("black", 0.35), ("noise", 0.129)])
def test_first_block_attends_to_targets_on_images(images, mass):
    """With random biases of queries, keys and patches; the authors' mean over heads."""
    network = model("impulse3")
    shape = (16, 16, 16, 3)
    pixels = np.random.default_rng(0).normal(size=shape) if images == "noise" else np.zeros(shape)
    block = network.blocks[0]
    tokens = block.norm1(output(network, pixels.astype(np.float32), "layers")["block_input"])
    weights = np.asarray(block.attn.weights(tokens, queries=16)).mean(axis=0)
    found = []
    for head, offset in zip(weights, impulse.solve(64, 4, 4, 3).offsets, strict=True):
        target = impulse.targets(4, tuple(offset))
        found.append((head * target).sum() / target.sum())
    assert np.mean(found) == pytest.approx(mass, rel=0.2)  # uniform attention has 1/16


@pytest.mark.parametrize("init", ["impulse3", "mimetic"])
def test_other_weights_start_as_in_pytorch(init):
    """Weights and biases are uniform within ±1/sqrt(inputs); norms start at 1 and 0."""
    arrays = get_arrays(model(init))
    inputs = {"patch_embed.proj": 48, "head": 64, "attn.proj": 64, "fc1": 64, "fc2": 128}
    structured = ("qkv", "attn.proj.kernel") if init == "mimetic" else ("qkv",)
    for name, array in arrays.items():
        if "norm" in name:
            assert (array == (1 if name.endswith("scale") else 0)).all(), name
        elif name.endswith("qkv.bias"):
            _check_uniform(array, 64, name)
        elif not any(part in name for part in structured):
            (fan_in,) = [n for part, n in inputs.items() if f"{part}." in f"{name}."]
            _check_uniform(array, fan_in, name)
    if init == "impulse3":
        _check_uniform(kernels(model(init).blocks[1])[2], 64, "values")


def _check_uniform(array, inputs, name):
    bound, count = inputs**-0.5, np.size(array)
    assert np.abs(array).max() <= bound, name
    if count >= 64:  # five standard errors of a uniform distribution's deviation
        assert np.std(array) == pytest.approx(bound / 3**0.5, rel=2.3 / count**0.5), name


def test_mimetic_queries_and_keys_have_the_authors_statistics():
    """Of G = W_qᵀ W_k and W_q, by head; they differ between heads and between blocks."""
    for block in model("mimetic").blocks:
        queries, keys = (by_head(k) for k in kernels(block)[:2])
        products = queries @ keys.transpose(0, 2, 1)
        diagonal = np.diagonal(products, axis1=1, axis2=2)
        others = products[:, ~np.eye(64, dtype=bool)]
        assert diagonal.mean() == pytest.approx(0.318, abs=0.02)
        assert others.std() == pytest.approx(0.084, abs=0.004)
        norms = np.linalg.norm(queries, axis=(1, 2))
        np.testing.assert_allclose(norms, 4.89, atol=0.1)
        assert np.abs(products[0] - products[1]).max() > 0.1
    first, second = (kernels(block)[0] for block in model("mimetic").blocks)
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize(
    ("init", "diagonal_spread", "other_spread"),
    [("mimetic", 0.0277, 0.0289), ("mimetic_released", 0.238, 0.0200)],
)
def test_mimetic_product_of_values_and_projection(init, diagonal_spread, other_spread):
    """The order of the factors differs between paper and released code; width 192."""
    _, _, value, projection = kernels(model(init, width=192, heads=3, depth=1).blocks[0])
    product = value @ projection
    diagonal = np.diagonal(product)
    assert diagonal.mean() == pytest.approx(-0.398, abs=0.015)
    assert diagonal.std() == pytest.approx(diagonal_spread, rel=0.2)
    assert product[~np.eye(192, dtype=bool)].std() == pytest.approx(other_spread, rel=0.05)
    for kernel in (value, projection):
        assert kernel.std() == pytest.approx(0.0510, rel=0.02)


def test_mimetic_patches_attend_to_themselves():
    """With 16 positions, the authors' code gives 0.123, averaged over seeds and heads."""
    network = model("mimetic")
    queries, keys = (by_head(k) for k in kernels(network.blocks[0])[:2])
    stats = measure(queries, keys.transpose(0, 2, 1), [(0, 0)] * 4, 4)
    assert stats.mass.mean() == pytest.approx(0.123, abs=0.02)


def test_seed_determines_the_weights():
    def arrays(init, seed):
        return get_arrays(create_model("vit", init=init, seed=seed, depth=1, **GEOMETRY))

    for init in ("impulse3", "mimetic"):
        a, b, c = (arrays(init, seed) for seed in (0, 0, 1))
        name = "blocks.0.attn.qkv.kernel"
        assert all((a[k] == b[k]).all() for k in a)
        assert not (a[name] == c[name]).any()


def test_abstract_models_skip_the_fit(monkeypatch):
    monkeypatch.delattr(impulse, "solve")
    abstract = abstract_model("vit", init="impulse3", depth=1, **GEOMETRY)
    assert abstract.blocks[0].attn.qkv.kernel.shape == (64, 192)


def test_projection_head_starts_as_in_pytorch():
    head = ProjectionHead(64, init="impulse3", hidden_dim=128, rngs=nnx.Rngs(0))
    for linear, inputs in zip(head.linears, (64, 128, 128), strict=True):
        _check_uniform(linear.kernel[...], inputs, "kernel")
        _check_uniform(linear.bias[...], inputs, "bias")
        assert np.std(linear.bias[...]) > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "vit"}, "set model.pool=mean and model.pos_embed=sincos, or"),
        ({"name": "vit", "pool": "mean"}, "set model.pos_embed=sincos, or"),
        ({"name": "vit", "pos_embed": "sincos"}, "set model.pool=mean, or"),
        ({"name": "swin"}, "set model.name=vit and model.pool=mean and"),
        ({"name": "cait"}, "set model.name=vit and model.pool=mean and"),
    ],
)
@pytest.mark.parametrize("init", ["impulse3", "mimetic"])
def test_error_names_the_options_to_set(init, options, words):
    with pytest.raises(UserError, match=words):
        resolve_options(init=init, **options)


def test_too_few_patches_are_refused():
    options = {"name": "vit", "image_size": 8, "patch_size": 4, **VARIANT}
    resolve_options(init="impulse3", **options)
    with pytest.raises(UserError, match="up to 2 away, but the image has only 2 x 2 patches"):
        resolve_options(init="impulse5", **options)


def test_config_lists_every_scheme():
    assert set(INITS) == set(SCHEMES)
