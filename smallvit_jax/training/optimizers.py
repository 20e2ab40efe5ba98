"""Optimizers that follow the reference, composed from optax.

Their `update` takes the step's `learning_rate`, `weight_decay` and, if a layer can be frozen,
`frozen` as keyword arguments: schedules are inputs, not part of the compiled program.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from smallvit_jax.config.choices import OPTIMIZERS
from smallvit_jax.errors import check_choice


def make_optimizer(
    name: str,
    *,
    clip: float = 0.0,
    clip_global: float = 0.0,
    eps: float = 1e-8,
    decay_vectors: bool = False,
    freezable: Callable[[str], bool] | None = None,
    rate_factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer for a flat dict of parameters.

    Args:
      name: "adamw" (decoupled weight decay, betas .9 and .999), "sgd" (momentum .9, weight decay
        added to the gradient) or "lars" (trust coefficient .001, momentum .9; one-dimensional
        tensors are neither decayed nor scaled), as in utils/utils_ssl.py.
      clip: largest norm of each tensor's gradient; 0 disables clipping.
      clip_global: largest norm of the whole gradient, applied after `clip`; 0 disables clipping.
      eps: added to the root of the mean squared gradient in "adamw"; unused by the others.
      decay_vectors: whether weight decay applies to biases and other one-dimensional tensors.
      freezable: selects by name the parameters that do not change while `frozen` is true. Their
        moments, decay and step count do not change either (reference: their gradient is None,
        utils/utils_ssl.py:809).
      rate_factors: factors of the learning rate by parameter name; 1 for parameters not named.

    Raises:
      UserError: unknown name.
    """
    check_choice("the optimizer", name, OPTIMIZERS)
    inner = _RULES[name](decay_vectors, eps)
    if rate_factors:
        inner = optax.chain(inner, _scale_each(rate_factors))
    if clip_global:
        inner = optax.chain(clip_together(clip_global), inner)
    if clip:
        inner = optax.chain(clip_each_tensor(clip), inner)
    if freezable is None:
        return optax.with_extra_args_support(inner)
    return optax.partition(
        {"moving": inner, "freezable": hold_while_frozen(inner)},
        lambda params: {k: "freezable" if freezable(k) else "moving" for k in params},
    )


def clip_each_tensor(max_norm: float) -> optax.GradientTransformation:
    """Scales each tensor by min(1, max_norm / (norm + 1e-6)) (utils/utils_ssl.py:63-72)."""

    def clip(gradient: jax.Array) -> jax.Array:
        norm = optax.tree.norm(gradient)
        return gradient * jnp.minimum(1.0, max_norm / (norm + 1e-6))

    return optax.stateless_with_tree_map(lambda gradient, _: clip(gradient))


def clip_together(max_norm: float) -> optax.GradientTransformation:
    """Scales all tensors by min(1, max_norm / (norm + 1e-6)), as PyTorch's clip_grad_norm_ does."""

    def clip(gradients, _):
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(gradients) + 1e-6))
        return jax.tree.map(lambda gradient: gradient * factor, gradients)

    return optax.stateless(clip)


def _scale_each(factors: Mapping[str, float]) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: {k: u * factors.get(k, 1.0) for k, u in updates.items()}
    )


def hold_while_frozen(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Zeroes the update and keeps the inner state unchanged while `frozen` is true."""

    def update(updates, state, params=None, *, frozen, **extra):
        moved, new_state = inner.update(updates, state, params, frozen=frozen, **extra)
        still = jax.tree.map(jnp.zeros_like, moved)
        return _choose(frozen, still, moved), _choose(frozen, state, new_state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _choose(condition, if_true, if_false):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def _adamw(decay_vectors: bool, eps: float) -> optax.GradientTransformationExtraArgs:
    return optax.chain(_scale_by_adam(eps), _add_decay(decay_vectors), _descend())


def _sgd(decay_vectors: bool, eps: float) -> optax.GradientTransformationExtraArgs:
    del eps
    return optax.chain(_add_decay(decay_vectors), optax.trace(decay=0.9), _descend())


def _lars(decay_vectors: bool, eps: float) -> optax.GradientTransformationExtraArgs:
    del decay_vectors, eps  # LARS never decays vectors
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), _has_matrix_shape)
    return optax.chain(_add_decay(False), trust, optax.trace(decay=0.9), _descend())


_RULES = {"adamw": _adamw, "sgd": _sgd, "lars": _lars}


def _scale_by_adam(eps: float, b1: float = 0.9, b2: float = 0.999) -> optax.GradientTransformation:
    """optax.scale_by_adam with an exact bias correction.

    optax computes 1 - b2^t in float32, which is off by 1.3e-5 at t = 1, more than all other
    rounding errors of a step combined.
    """
    inner = optax.scale_by_adam(b1, b2, eps)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        first, second = (-jnp.expm1(count * math.log(b)) for b in (b1, b2))
        updates = jax.tree.map(lambda m, v: m / first / (jnp.sqrt(v / second) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(inner.init, update)


def _has_matrix_shape(params):
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def _add_decay(decay_vectors: bool) -> optax.GradientTransformationExtraArgs:
    """Adds weight_decay · parameter to the update, for vectors only if `decay_vectors`."""

    def update(updates, state, params=None, *, weight_decay, **_):
        def decay(update, parameter):
            decays = decay_vectors or parameter.ndim > 1
            return update + weight_decay * parameter if decays else update

        return jax.tree.map(decay, updates, params), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _descend() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, learning_rate, **_):
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
