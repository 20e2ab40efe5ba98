"""Optimizer updates against formulas written in numpy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.training.optimizers import clip_each_tensor, clip_together, make_optimizer

LEARNING_RATE, DECAY = 0.1, 0.05


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"matrix": (3, 4), "bias": (4,), "head.last_layer.weight_v": (4, 5)}
    return {k: rng.normal(size=s) for k, s in shapes.items()}


def gradients(step: int):
    rng = np.random.default_rng(step + 1)
    return {k: rng.normal(size=v.shape) for k, v in parameters().items()}


def run(optimizer, steps: int, frozen=lambda step: False):
    params = {k: jnp.asarray(v, jnp.float32) for k, v in parameters().items()}
    state = optimizer.init(params)
    for step in range(steps):
        grads = {k: jnp.asarray(v, jnp.float32) for k, v in gradients(step).items()}
        updates, state = optimizer.update(
            grads,
            state,
            params,
            learning_rate=LEARNING_RATE,
            weight_decay=DECAY,
            frozen=frozen(step),
        )
        params = optax.apply_updates(params, updates)
    return params


def adamw(parameter, grads, decays: bool, eps: float = 1e-8):
    m = v = 0.0
    for t, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + eps)
        parameter = parameter * (1 - LEARNING_RATE * DECAY * decays) - LEARNING_RATE * step
    return parameter


def momentum_sgd(parameter, grads, decays: bool, trust: bool = False):
    velocity = 0.0
    for g in grads:
        g = g + DECAY * decays * parameter
        if trust:
            g = g * 0.001 * np.linalg.norm(parameter) / np.linalg.norm(g)
        velocity = 0.9 * velocity + g
        parameter = parameter - LEARNING_RATE * velocity
    return parameter


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_adamw_matches_its_formula(decay_vectors):
    result = run(make_optimizer("adamw", decay_vectors=decay_vectors), 4)
    for name, start in parameters().items():
        grads = [gradients(s)[name] for s in range(4)]
        expected = adamw(start, grads, decays=start.ndim > 1 or decay_vectors)
        np.testing.assert_allclose(result[name], expected, rtol=1e-5, atol=1e-6)


def test_adamw_uses_its_epsilon():
    result = run(make_optimizer("adamw", eps=0.3), 3)
    for name, start in parameters().items():
        grads = [gradients(s)[name] for s in range(3)]
        expected = adamw(start, grads, decays=start.ndim > 1, eps=0.3)
        np.testing.assert_allclose(result[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["adamw", "sgd", "lars"])
def test_rate_factors_scale_the_steps_of_single_parameters(rule):
    """One step from the same state; a parameter without a factor moves as before."""
    first = next(iter(parameters()))
    scaled = run(make_optimizer(rule, rate_factors={first: 0.25}), 1)
    plain = run(make_optimizer(rule), 1)
    for name, start in parameters().items():
        factor = 0.25 if name == first else 1.0
        np.testing.assert_allclose(
            scaled[name] - start, factor * (plain[name] - start), rtol=2e-5, atol=1e-7
        )


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_global_clipping_scales_all_gradients(share):
    """By one factor for all, and only if their joint norm exceeds the limit."""
    found = gradients(0)
    norm = np.sqrt(sum(float((g**2).sum()) for g in found.values()))
    clip = clip_together(share * norm)
    clipped, _ = clip.update(found, clip.init(found))
    for name, gradient in found.items():
        np.testing.assert_allclose(clipped[name], min(1, share) * gradient, rtol=1e-5)
    once = run(make_optimizer("sgd", clip_global=share * norm), 1)
    for name, start in parameters().items():
        expected = momentum_sgd(start, [min(1, share) * found[name]], start.ndim > 1)
        np.testing.assert_allclose(once[name], expected, rtol=1e-5, atol=1e-7)


def test_sgd_and_lars_match_their_formulas():
    sgd, lars = run(make_optimizer("sgd"), 3), run(make_optimizer("lars"), 3)
    for name, start in parameters().items():
        grads = [gradients(s)[name] for s in range(3)]
        matrix = start.ndim > 1
        np.testing.assert_allclose(sgd[name], momentum_sgd(start, grads, matrix), rtol=1e-5)
        np.testing.assert_allclose(
            lars[name], momentum_sgd(start, grads, matrix, trust=matrix), rtol=1e-5
        )


def test_frozen_layer_keeps_weights_moments_and_step_count():
    optimizer = make_optimizer("adamw", freezable=lambda name: ".last_layer." in name)
    result = run(optimizer, 5, frozen=lambda step: step < 2)
    for name, start in parameters().items():
        steps = range(2, 5) if "last_layer" in name else range(5)
        expected = adamw(start, [gradients(s)[name] for s in steps], decays=start.ndim > 1)
        np.testing.assert_allclose(result[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_clipping_is_per_tensor():
    grads = {"long": jnp.full(4, 3.0), "short": jnp.full(4, 0.1)}
    clipped, _ = clip_each_tensor(3.0).update(grads, optax.EmptyState())
    np.testing.assert_allclose(clipped["long"], np.full(4, 3.0 * 3 / (6 + 1e-6)), rtol=1e-6)
    np.testing.assert_array_equal(clipped["short"], grads["short"])


def test_unknown_name_suggests_the_closest():
    with pytest.raises(UserError, match='did you mean "adamw"'):
        make_optimizer("adam")
