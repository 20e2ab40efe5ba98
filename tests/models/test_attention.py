"""Operations with a custom backward pass, against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.models.attention import attend, softmax
from smallvit_jax.models.layers import product


def plain_attend(q, k, v, mask_self=False):
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    if mask_self:
        logits = jnp.where(np.eye(*logits.shape[-2:], dtype=bool), -jnp.inf, logits)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits, axis=-1), v)


def normal(*shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape)


CASES = {
    "attention": (
        attend,
        plain_attend,
        (normal(2, 5, 3, 4), normal(2, 5, 3, 4), 3 * normal(2, 5, 3, 4)),
    ),
    "one query": (
        attend,
        plain_attend,
        (normal(2, 1, 3, 4), normal(2, 6, 3, 4), normal(2, 6, 3, 4)),
    ),
    "self masked": (
        lambda *args: attend(*args, True),
        lambda *args: plain_attend(*args, True),
        (normal(2, 3, 3, 4), normal(2, 5, 3, 4), normal(2, 5, 3, 4)),
    ),
    "softmax": (softmax, lambda x: jax.nn.softmax(x, axis=-1), (5 * normal(2, 3, 7),)),
    "product": (product, lambda x, w: x @ w, (normal(2, 3, 7), normal(7, 5))),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_match_the_plain_form(case):
    ours, plain, arguments = CASES[case]
    weights = jnp.sin(jnp.arange(plain(*arguments).size)).reshape(plain(*arguments).shape)
    np.testing.assert_allclose(ours(*arguments), plain(*arguments), rtol=1e-5, atol=1e-6)
    found, expected = (
        jax.grad(lambda args, f=f: (f(*args) * weights).sum())(arguments) for f in (ours, plain)
    )
    for ours_each, plain_each in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours_each, plain_each, rtol=1e-5, atol=2e-6)


def test_scores_stay_float32_in_bfloat16():
    # The scores are 64.0 and 64.5.
    q, k = jnp.full((1, 1, 1, 64), 8.0), jnp.stack([jnp.full(64, 1.0), jnp.full(64, 1.0)])
    k = (k * jnp.array([[1.0], [1.0078125]]))[None, :, None, :]
    v = jnp.array([0.0, 1.0]).reshape(1, 2, 1, 1)
    exact = plain_attend(q, k, v)
    half = attend(*(x.astype(jnp.bfloat16) for x in (q, k, v)))
    assert exact.item() == pytest.approx(1 / (1 + np.exp(-0.5)), rel=1e-5)
    assert half.astype(jnp.float32).item() == pytest.approx(exact.item(), rel=4e-3)
