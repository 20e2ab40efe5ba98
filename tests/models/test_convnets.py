"""Convolutional networks: published parameter counts, and blocks against plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smallvit_jax.errors import UserError
from smallvit_jax.models import abstract_model, create_model, resolve_options
from smallvit_jax.models.batch_norm import EPSILON
from smallvit_jax.models.convnet import he_normal
from smallvit_jax.models.efficientnet import InvertedBlock
from smallvit_jax.models.parameters import Functional, get_arrays
from smallvit_jax.models.resnet import BasicBlock
from tests.support.outputs import output

MODE = {"train": False, "record": False}


# Parameters with 10, 100, 200 and 1000 classes. ResNet-18 and EfficientNet-B0 with 1000 classes
# match torchvision, ResNet-56 and ResNet-110 their paper (0.85 and 1.7 million, option A).
COUNTS = {
    ("resnet56",): (853_018, 858_868, 865_368, 917_368),
    ("resnet56", ("shortcut", "projection")): (855_770, 861_620, 868_120, 920_120),
    ("resnet110",): (1_727_962, 1_733_812, 1_740_312, 1_792_312),
    ("resnet110", ("shortcut", "projection")): (1_730_714, 1_736_564, 1_743_064, 1_795_064),
    ("resnet18", ("stem", "cifar")): (11_173_962, 11_220_132, 11_271_432, 11_681_832),
    ("resnet18", ("stem", "imagenet")): (11_181_642, 11_227_812, 11_279_112, 11_689_512),
    ("efficientnet_b0",): (4_020_358, 4_135_648, 4_263_748, 5_288_548),
}


@pytest.mark.parametrize("case", COUNTS, ids=str)
def test_parameter_counts(case):
    name, *options = case
    model = abstract_model(name, num_classes=10, **dict(options))
    total = sum(v.size for v in jax.tree.leaves(nnx.state(model, nnx.Param)))
    per_class = model.num_features + 1
    assert (model.head.kernel.size + model.head.bias.size) == 10 * per_class
    counts = tuple(total + (n - 10) * per_class for n in (10, 100, 200, 1000))
    assert counts == COUNTS[case]


def filled(module: nnx.Module) -> dict[str, np.ndarray]:
    """Fills a module with random values, positive for variances, and returns them by name."""
    rng = np.random.default_rng(0)
    state = nnx.state(module, nnx.Not(nnx.RngState))
    for path, variable in nnx.to_flat_state(state):
        value = rng.normal(0.5 if path[-1] == "scale" else 0, 0.5, variable.get_value().shape)
        variable.set_value(jnp.asarray(0.5 + value**2 if path[-1] == "var" else value, jnp.float32))
    nnx.update(module, state)
    return {k: np.asarray(v, np.float64) for k, v in get_arrays(module).items()}


def convolve(x, kernel, stride=1):
    """Padded to keep the size; depthwise if the kernel has fewer inputs than `x`."""
    pad = len(kernel) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    if kernel.shape[2] < x.shape[-1]:
        return np.einsum("bhwcij,ijc->bhwc", windows, kernel[:, :, 0])
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel)


def conv_norm(x, weights, name, stride=1):
    kernel = weights[f"{name}.conv.kernel"]
    x = convolve(x, kernel if kernel.ndim == 4 else kernel[None, None], stride)
    mean, var, scale, bias = (weights[f"{name}.norm.{k}"] for k in ("mean", "var", "scale", "bias"))
    return (x - mean) / np.sqrt(var + EPSILON) * scale + bias


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


IMAGES = np.random.default_rng(1).normal(size=(2, 7, 6, 4))


def output_of(block):
    return nnx.jit(lambda block, x: block(x, **MODE))(block, jnp.asarray(IMAGES, jnp.float32))


INIT = nnx.initializers.lecun_normal()


@pytest.mark.parametrize(
    ("outputs", "stride", "shortcut"), [(4, 1, "pad"), (8, 2, "pad"), (8, 2, "projection")]
)
def test_basic_block(outputs, stride, shortcut):
    shared = {"kernel_init": INIT, "dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    block = BasicBlock(4, outputs, stride, shortcut, 0.0, **shared)
    weights = filled(block)
    inner = np.maximum(conv_norm(IMAGES, weights, "conv1", stride), 0)
    branch = conv_norm(inner, weights, "conv2")
    if shortcut == "projection":
        skip = conv_norm(IMAGES, weights, "projection", stride)
    else:
        skip = np.zeros((*branch.shape[:3], outputs))
        added = (outputs - 4) // 2
        skip[..., added : added + 4] = IMAGES[:, ::stride, ::stride]
    found = output_of(block)
    np.testing.assert_allclose(found, np.maximum(branch + skip, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("outputs", "expansion", "side", "stride"), [(4, 6, 5, 1), (8, 1, 3, 2)])
def test_inverted_block(outputs, expansion, side, stride):
    block = InvertedBlock(
        *(4, outputs, expansion, side, stride, 0.0), dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    weights = filled(block)
    x = silu(conv_norm(IMAGES, weights, "expand")) if expansion > 1 else IMAGES
    x = silu(conv_norm(x, weights, "filter", stride))
    squeezed = x.mean(axis=(1, 2)) @ weights["excitation.reduce.kernel"]
    assert squeezed.shape == (2, 1)  # a quarter of the block's inputs, not of the expanded channels
    squeezed = silu(squeezed + weights["excitation.reduce.bias"])
    gate = squeezed @ weights["excitation.expand.kernel"] + weights["excitation.expand.bias"]
    x = conv_norm(x * sigmoid(gate)[:, None, None], weights, "project")
    expected = x + IMAGES if outputs == 4 else x
    np.testing.assert_allclose(output_of(block), expected, rtol=1e-5, atol=1e-5)


TINY = {"image_size": 16, "width": 4, "depth": 8}


def tiny(**options):
    return create_model("resnet56", **TINY, num_classes=3, **options)


def images(count=6, size=16):
    return jnp.asarray(
        np.random.default_rng(count).normal(size=(count, size, size, 3)), jnp.float32
    )


@functools.cache
def step(remat: bool, size: int = 16):
    """Gradients of a loss and the new buffers, in training mode with drop path."""
    model = Functional(create_model("resnet56", **TINY, drop_path=0.5, remat=remat))

    @jax.jit
    def run(trainable, buffers, images):
        def loss_of(trainable):
            rngs = nnx.Rngs(0)
            out, new = model(trainable, buffers, images, method="features", train=True, rngs=rngs)
            return jnp.sum(out**2), new

        return jax.grad(loss_of, has_aux=True)(trainable)

    return run(model.trainable, model.buffers, images(size=size)), model


def test_remat_gives_the_same_gradients():
    (plain, _), (recomputed, _) = step(False), step(True)
    assert max(float(jnp.abs(g).max()) for g in plain[0].values()) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, recomputed
    )


def test_running_statistics_ignore_smaller_crops():
    """Only full-size images update them; evaluation uses them."""
    (_, recorded), model = step(False)
    (_, untouched), _ = step(False, 8)
    for name, before in model.buffers.items():
        np.testing.assert_array_equal(untouched[name], before)
        assert not np.array_equal(recorded[name], before), name
    evaluate = jax.jit(lambda b, x: model(model.trainable, b, x, method="features"))
    features, after = evaluate(recorded, images())
    one, _ = evaluate(recorded, images()[:1])
    np.testing.assert_allclose(features[:1], one, atol=1e-5)  # regardless of the rest of the batch
    assert not np.allclose(features, evaluate(model.buffers, images())[0], atol=1e-3)
    for name, value in after.items():
        np.testing.assert_array_equal(value, recorded[name])


@pytest.mark.parametrize("blocks", [1, 2, 9])
def test_block_features_are_means_of_the_last_blocks(blocks):
    model = tiny()

    @nnx.jit
    def outputs(model, images):
        first = model.blocks[0](jax.nn.relu(model.stem(images, **MODE)), **MODE)
        found = output(model, images, "block_features", last_blocks=blocks)
        return found, model.features(images), first.mean(axis=(1, 2))

    found, features, first = outputs(model, images())
    assert found.shape == (6, {1: 16, 2: 8 + 16, 9: 4 + 8 + 16}[blocks])
    np.testing.assert_allclose(found[:, -16:], features, atol=1e-5)
    if blocks > 2:
        np.testing.assert_allclose(found[:, :4], first, atol=1e-5)


def test_drop_path_and_dropout_need_rngs(monkeypatch):
    same = jnp.tile(images(1), (8, 1, 1, 1))

    def spread(model, rngs=None):
        """Range of the outputs for copies of one image."""
        outputs = nnx.jit(lambda m: m(same, rngs=rngs and nnx.Rngs(0)))(model)
        return float(np.ptp(outputs, axis=0).max())

    model = tiny(drop_path=0.9)
    assert spread(model) < 1e-4 < 1e-2 < spread(model, rngs=True)
    model = tiny()
    assert spread(model, rngs=True) < 1e-4
    monkeypatch.setattr(type(model), "DROPOUT", 0.2)  # as in EfficientNet
    assert spread(model) < 1e-4 < 1e-2 < spread(model, rngs=True)


def test_initial_kernels_have_the_papers_deviations():
    for mode, fan in (("fan_in", 64 * 9), ("fan_out", 128 * 9)):
        kernel = he_normal(mode)(jax.random.key(0), (3, 3, 64, 128))
        assert float(kernel.std()) == pytest.approx((2 / fan) ** 0.5, rel=0.02)
    block = InvertedBlock(112, 192, 6, 5, 2, 0.0, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert float(block.filter.conv.kernel[...].std()) == pytest.approx((2 / 25) ** 0.5, rel=0.02)
    assert float(block.project.conv.kernel[...].std()) == pytest.approx((2 / 192) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "stem", "image_size", "first_side", "last_side"),
    [
        ("resnet18", "imagenet", 32, 8, 1),
        ("resnet18", "cifar", 32, 32, 4),
        ("efficientnet_b0", "imagenet", 32, 16, 1),
        ("efficientnet_b0", "cifar", 32, 32, 2),
        ("resnet18", "imagenet", 224, 56, 7),
    ],
)
def test_feature_map_sizes(name, stem, image_size, first_side, last_side):
    """Positions per side before the first block and after the last."""
    width = {"width": 8, "image_size": image_size, "stem": stem}
    shape = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    model = abstract_model(name, **width)

    def sides(model, images):
        first = x = model._begin(images, **MODE)
        for block in model.blocks:
            x = block(x, **MODE)
        return first, x

    first, last = nnx.eval_shape(sides, model, shape)
    assert first.shape[1:3] == (first_side, first_side)
    assert last.shape[1:3] == (last_side, last_side)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "resnet56", "depth": 54}, "6n \\+ 2 layers"),
        ({"name": "resnet110", "shortcut": "projction"}, 'did you mean "projection"'),
        ({"name": "resnet18", "stem": "conv"}, "choose one of cifar, imagenet"),
        ({"name": "resnet18", "init": "fan_in"}, "set model.init=reference for"),
        ({"name": "resnet18", "patch_size": 4}, 'no option "patch_size"'),
        ({"name": "resnet56", "stem": "imagenet"}, 'no option "stem"'),
        ({"name": "efficientnet_b0", "width": 12}, "multiples of 8"),
    ],
)
def test_invalid_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve_options(**options)


def test_stem_follows_the_image_size():
    for name in ("resnet18", "efficientnet_b0"):
        assert resolve_options(name, image_size=64)["stem"] == "cifar"
        assert resolve_options(name, image_size=224)["stem"] == "imagenet"
        assert resolve_options(name, image_size=32, stem="imagenet")["stem"] == "imagenet"


@pytest.mark.parametrize("name", ["attention", "grid", "layers"])
def test_outputs_of_transformers_are_refused(name):
    model = create_model("resnet56", num_classes=2)
    with pytest.raises(UserError, match=f"no {name} to return; choose a vit, swin or cait"):
        model.outputs(np.zeros((1, 8, 8, 3), np.float32), name)
