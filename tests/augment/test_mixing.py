import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.augment.mixing import cut_box, cutmix, mix_batch, mixup
from tests.support.golden_formulas import image_batch

PERMUTATION = jnp.array([2, 0, 3, 1])
mix_jitted = jax.jit(mix_batch, static_argnums=(3, 4, 5))


def test_cut_box_agrees_with_every_recorded_row(golden):
    for row in golden("rand_bbox")["rand_bbox"]:
        size = row["size"]
        box, lam = cut_box(row["lam"], row["cx"], row["cy"], size, size)
        top, left, height, width = box.tolist()
        assert [top, left, top + height, left + width] == row["bbox_x1_y1_x2_y2"], row
        assert lam == pytest.approx(row["lam_adjusted"], abs=1e-6), row


def test_mixed_inputs_equal_the_recorded_training_steps(golden):
    kinds = []
    for step in golden("trace_finetune_vit")["steps"]:
        images = jnp.asarray(image_batch(4, 32, f"ft{step['step']}").transpose(0, 2, 3, 1))
        if step["kind"] == "mixup":
            images = mixup(images, PERMUTATION, 0.3)
        elif step["kind"] == "cutmix":
            box, lam = cut_box(0.3, 20, 6, 32, 32)
            assert lam == pytest.approx(step["lam_used"], abs=1e-6)
            images = cutmix(images, PERMUTATION, box)
        kinds.append(step["kind"])
        expected = step["input_after_mix"]
        mixed = np.asarray(images).transpose(0, 3, 1, 2)
        first = mixed.reshape(-1)[: len(expected["first"])]
        np.testing.assert_allclose(first, expected["first"], atol=1e-6)
        assert np.linalg.norm(mixed) == pytest.approx(expected["l2"], rel=1e-6)
    assert {"mixup", "cutmix", "none"} <= set(kinds)


def batch(count=4, size=8):
    """Images whose values all equal their label."""
    labels = jnp.arange(count)
    return jnp.broadcast_to(labels[:, None, None, None], (count, size, size, 3)) * 1.0, labels


def test_labels_and_lam_describe_the_mixed_images():
    images, labels = batch()
    for seed in range(12):
        mixed, a, b, lam = mix_jitted(images, labels, jax.random.key(seed), 0.8, 1.0, 1.0)
        np.testing.assert_array_equal(a, labels)
        # With cutmix as with mixup, the mean over pixels mixes labels as the loss does.
        expected = lam * a + (1 - lam) * b
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
        assert sorted(b.tolist()) == labels.tolist()


def kinds_and_lams(count, *settings):
    """What happens to `count` batches (0: nothing, 1: mixup, 2: cutmix), and their lams."""
    images, labels = batch()

    def one(key):
        mixed, _, _, lam = mix_batch(images, labels, key, *settings)
        whole = (mixed == jnp.round(mixed)).all()
        same = (mixed == images).all()
        return jnp.where(same, 0, jnp.where(whole, 2, 1)), lam

    keys = jax.random.split(jax.random.key(7), count)
    return [np.asarray(x) for x in jax.jit(lambda k: jax.lax.map(one, k))(keys)]


def test_half_of_the_batches_get_mixup_or_cutmix_equally():
    count = 4000
    kinds, lams = kinds_and_lams(count, 0.5, 1.0, 1.0)
    # Some mixed batches look untouched: 1 of 24 permutations is the identity, some boxes are empty.
    error = 5 * np.sqrt(0.25 / count)
    assert abs((lams < 1).mean() - 0.5) < error + 0.02
    assert abs((kinds == 1).mean() - 0.25 * 23 / 24) < error
    uniform = lams[kinds == 1]  # Beta(1, 1)
    assert abs(uniform.mean() - 0.5) < 5 / np.sqrt(12 * len(uniform))
    assert abs(uniform.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / len(uniform))


def test_alpha_0_disables_mixup_or_cutmix():
    assert 1 not in kinds_and_lams(300, 1.0, 0.0, 1.0)[0]
    assert 2 not in kinds_and_lams(300, 1.0, 1.0, 0.0)[0]
    for settings in ((0.0, 1.0, 1.0), (1.0, 0.0, 0.0)):
        kinds, lams = kinds_and_lams(10, *settings)
        assert not kinds.any() and (lams == 1).all()


def test_lam_follows_the_beta_distribution():
    count, alpha = 4000, 0.2
    _, lams = kinds_and_lams(count, 1.0, alpha, 0.0)
    variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha), whose mean is 1/2
    assert abs(lams.mean() - 0.5) < 5 * np.sqrt(variance / count)
    assert abs(lams.var() - variance) < 5 * variance / np.sqrt(count)
