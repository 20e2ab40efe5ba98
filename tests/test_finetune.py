"""Supervised steps and losses against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smallvit_jax import finetune
from smallvit_jax.augment import mixing
from smallvit_jax.interop import torch_weights
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import Functional
from smallvit_jax.training.optimizers import make_optimizer
from tests.golden_formulas import array, fill, image_batch

LABELS = jnp.asarray([1, 4, 7, 0])
PERMUTATION = jnp.asarray([2, 0, 3, 1])
LAM, CUT_CENTER = 0.3, (20, 6)


def l2(x) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def recorded_batch(step: int, kind: str):
    """The step's images after mixing, and the share of `LABELS` in them."""
    images = jnp.asarray(image_batch(4, 32, f"ft{step}").transpose(0, 2, 3, 1))
    if kind == "mixup":
        return mixing.mixup(images, PERMUTATION, LAM), LAM
    if kind == "cutmix":
        box, share = mixing.cut_box(LAM, *CUT_CENTER, 32, 32)
        return mixing.cutmix(images, PERMUTATION, box), float(share)
    return images, 1.0


def test_steps_equal_the_reference(golden):
    network = create_model("vit", num_classes=10)
    shapes = {k: np.shape(v) for k, v in torch_weights.state_dict(network).items()}
    torch_weights.load_state_dict(network, {k: fill(k, s) for k, s in shapes.items()})
    ours = {key: name for name, key in torch_weights.reference_keys(network).items()}
    model = Functional(network)
    keep_gradients = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda updates, state, params=None: (updates, updates),
    )
    optimizer = optax.chain(keep_gradients, make_optimizer("adamw", decay_vectors=True))
    # Unoptimised: it runs for five steps only.
    step = jax.jit(
        functools.partial(finetune.update, model=model, optimizer=optimizer, label_smoothing=0.1),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = finetune.initial_state(model, optimizer)
    for expected in golden("trace_finetune_vit")["steps"]:
        number = expected["step"]
        images, share = recorded_batch(number, expected["kind"])
        assert l2(images) == pytest.approx(expected["input_after_mix"]["l2"], rel=1e-6)
        if expected["lam_used"] is not None:
            assert share == pytest.approx(expected["lam_used"], rel=1e-6)
        other_labels = LABELS if expected["kind"] == "none" else LABELS[PERMUTATION]
        schedule = {"learning_rate": expected["lr_used"], "weight_decay": 0.05}
        state, metrics = step(
            state, images, LABELS, other_labels, jnp.float32(share), None, schedule
        )
        assert float(metrics["loss"]) == pytest.approx(expected["loss"], rel=1e-5)
        logits = np.reshape(expected["logits"]["values"], expected["logits"]["shape"])
        right = (logits.argmax(axis=1) == LABELS).mean() * 100
        assert float(metrics["accuracy"]) == pytest.approx(right)
        gradients = state.optimizer[0]
        for key, value in expected["grads"].items():
            assert l2(gradients[ours[key]]) == pytest.approx(value["l2"], rel=1e-4), (key, number)
        for key, value in expected["params_after"].items():
            assert l2(state.params[ours[key]]) == pytest.approx(value["l2"], rel=1e-6), key
    assert int(state.step) == 5


@pytest.mark.parametrize("smoothing", ["0.0", "0.1", "0.3"])
def test_label_smoothing_equals_the_reference(golden, smoothing):
    expected = golden("criteria")[f"label_smoothing_{smoothing}"]
    logits = jnp.asarray(array("logits", (4, 10), 3.0))

    def mean_loss(logits):
        losses = finetune.smoothed_cross_entropy(logits, LABELS, float(smoothing))
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
        mixed = finetune.mixed_loss(logits, LABELS, other, jnp.float32(0.3), smoothing)
        assert float(mixed) == pytest.approx(loss, rel=1e-6)
