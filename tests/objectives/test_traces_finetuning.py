"""Supervised steps and losses against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.models import create_model
from smallvit_jax.objectives import supervised
from tests.support.golden_formulas import array
from tests.support.reference_traces import FINETUNING_LIMITS, LABELS, finetuning_differences


def test_steps_equal_the_reference(golden):
    network = create_model("vit", num_classes=10)
    finetuning_differences(golden("trace_finetune_vit"), network).check(FINETUNING_LIMITS)


@pytest.mark.parametrize("smoothing", ["0.0", "0.1", "0.3"])
def test_label_smoothing_equals_the_reference(golden, smoothing):
    expected = golden("criteria")[f"label_smoothing_{smoothing}"]
    logits = jnp.asarray(array("logits", (4, 10), 3.0))

    def mean_loss(logits):
        losses = supervised.smoothed_cross_entropy(logits, LABELS, float(smoothing))
        return losses.mean(), losses

    (mean, losses), gradient = jax.value_and_grad(mean_loss, has_aux=True)(logits)
    np.testing.assert_allclose(losses, expected["per_sample"]["values"], rtol=1e-6)
    assert float(mean) == pytest.approx(expected["mean"], rel=1e-6)
    np.testing.assert_allclose(np.ravel(gradient), expected["grad"]["values"], atol=1e-7)


def test_mixed_loss_equals_the_reference(golden):
    expected = golden("criteria")["mixup_criterion_lam0.3_targets_b"]
    logits = jnp.asarray(array("logits", (4, 10), 3.0))
    other = jnp.asarray(expected["targets_b"])
    for smoothing, loss in ((0.1, expected["loss"]), (0.0, expected["loss_plain_ce"])):
        mixed = supervised.mixed_loss(logits, LABELS, other, jnp.float32(0.3), smoothing)
        assert float(mixed) == pytest.approx(loss, rel=1e-6)
