"""Masked autoencoding: only visible patches reach the encoder, and the loss is the formula's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.models import create_model
from smallvit_jax.objectives.mae import draw_orders, mae_losses, patch_targets

SIZE, PATCH = 16, 4  # 16 patches
SMALL = {"image_size": SIZE, "patch_size": PATCH, "width": 16, "depth": 2, "heads": 2}


def random_images(count: int = 3) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (count, SIZE, SIZE, 3))


@pytest.mark.parametrize("stem", ["patchify", "conv", "spt"])
def test_hidden_patches_do_not_matter(stem):
    options = {"stem_norm": "layer"} if stem == "conv" else {}
    model = create_model("vit", **SMALL, stem=stem, **options)
    images = random_images()
    visible = jnp.array([[0, 5], [15, 3], [7, 8]])
    shown = np.zeros((3, SIZE, SIZE, 1), bool)
    for i, patches in enumerate(np.asarray(visible)):
        for row, column in (divmod(patch, 4) for patch in patches):
            shown[i, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = True
    tokens = model.encode(images, visible)
    assert tokens.shape == (3, 3, 16)
    np.testing.assert_array_equal(tokens, model.encode(jnp.where(shown, images, 7.0), visible))
    other = model.encode(jnp.where(shown, images + 1, images), visible)
    assert np.abs(tokens - other).max() > 0.01


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_order_of_visible_patches_does_not_matter(pool):
    positions = "sincos" if pool == "mean" else "learned"
    model = create_model("vit", **SMALL, pool=pool, pos_embed=positions)
    images = random_images()
    order = jnp.arange(16)[None].repeat(3, axis=0)[:, ::-1]
    tokens = model.encode(images, order)
    if pool == "cls":
        np.testing.assert_allclose(tokens[:, 0], model.features(images), atol=1e-5)
    back = model.encode(images, order[:, ::-1])
    skipped = len(tokens[0]) - 16
    np.testing.assert_allclose(tokens[:, skipped:][:, ::-1], back[:, skipped:], atol=1e-5)


def test_orders_are_permutations_that_show_each_patch_equally_often():
    orders = np.asarray(draw_orders(jax.random.key(1), 4000, 16))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(16), (4000, 1)))
    shown = np.bincount(orders[:, :4].ravel(), minlength=16) / 4000
    np.testing.assert_allclose(shown, 0.25, atol=0.04)


def test_targets_have_mean_0_and_variance_1():
    targets = np.asarray(patch_targets(3 + 2 * random_images(), PATCH))
    assert targets.shape == (3, 16, 48)
    np.testing.assert_allclose(targets.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(targets.var(axis=-1, ddof=1), 1, rtol=1e-4)
    flat = np.asarray(patch_targets(jnp.ones((1, SIZE, SIZE, 3)), PATCH))
    np.testing.assert_array_equal(flat, 0)


def test_losses_are_means_over_masked_and_visible_patches():
    rng = np.random.default_rng(0)
    predictions, targets = rng.normal(size=(2, 2, 4, 3))
    order = jnp.array([[3, 1, 0, 2], [0, 2, 1, 3]])
    errors = ((predictions - targets) ** 2).mean(axis=-1)
    masked = np.mean([errors[0, [1, 0, 2]], errors[1, [2, 1, 3]]])
    visible = np.mean([errors[0, 3], errors[1, 0]])
    losses = mae_losses(jnp.asarray(predictions), jnp.asarray(targets), order, 1, 0.3)
    assert losses.masked == pytest.approx(masked, rel=1e-5)
    assert losses.visible == pytest.approx(visible, rel=1e-5)
    assert losses.total == pytest.approx(masked + 0.3 * visible, rel=1e-5)
    zero = mae_losses(jnp.zeros_like(targets), jnp.asarray(targets), order, 1, 0.3)
    assert losses.constant == zero.constant == pytest.approx(float(zero.masked), rel=1e-6)
