"""FLOPs of matrix products and convolutions against formulas."""

import jax
import jax.numpy as jnp
import pytest

from smallvit_jax.evaluation.flops import matmul_flops, model_size
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.parameters import get_arrays
from tests.benchmarks.tiny import TINY


def test_product_counts_two_flops_per_multiply_add():
    a, b = jnp.ones((5, 3, 4)), jnp.ones((5, 4, 7))
    assert matmul_flops(jnp.matmul, a, b) == 2 * 5 * 3 * 4 * 7


def test_convolution_counts_its_kernel_at_every_output():
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 5))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert matmul_flops(convolve, images, kernel) == 2 * (2 * 2 * 2 * 5) * (4 * 4 * 3)


def test_grouped_convolution_counts_channels_of_its_group():
    images, kernel = jnp.ones((1, 6, 6, 8)), jnp.ones((3, 3, 2, 12))  # 4 groups: 2 in, 3 out

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x,
            k,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    assert matmul_flops(convolve, images, kernel) == 2 * (6 * 6 * 12) * (3 * 3 * 2)


def test_scan_counts_every_step_and_cond_its_costliest_branch():
    weights = jnp.ones((6, 4, 4))

    def loop(x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ weights[0] @ weights[1], lambda x: x, x)

    x = jnp.ones((3, 4))
    assert matmul_flops(loop, x) == 6 * 2 * 3 * 4 * 4
    assert matmul_flops(branch, x) == 2 * 2 * 3 * 4 * 4


def test_gradient_costs_two_more_products():
    x, w = jnp.ones((3, 4)), jnp.ones((4, 5))
    forward = 2 * 3 * 4 * 5
    loss = jax.grad(lambda x, w: jnp.tanh(x @ w).sum(), argnums=(0, 1))
    assert matmul_flops(loss, x, w) == 3 * forward


def test_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="unknown number of iterations"):
        matmul_flops(
            lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x),
            jnp.ones((2, 2)),
        )


def test_vit_flops_match_the_formula():
    batch, tokens, width, depth, hidden = 2, 65, 24, 3, 48
    block = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width
    # The last block computes query, output and MLP only for the class token.
    keys_and_values = tokens * 2 * width * width
    last = keys_and_values + 2 * width * width + 2 * tokens * width + 2 * width * hidden
    patches = 64 * (4 * 4 * 3) * width
    expected = 2 * batch * (patches + (depth - 1) * block + last)

    model = create_model("vit", image_size=32, **TINY)
    assert matmul_flops(model.features, jnp.ones((batch, 32, 32, 3))) == expected


def test_model_size_is_for_one_image_with_the_classifier():
    options = resolve_options("vit", image_size=32, num_classes=7, **TINY)
    model = create_model(**options)
    size = model_size(options)
    width = model.num_features
    features = matmul_flops(model.features, jnp.ones((1, 32, 32, 3)))
    assert size.flops == features + 2 * width * 7
    # All of the model's arrays are trained.
    assert size.parameters == sum(value.size for value in get_arrays(model).values())
