"""Floating-point operations of the matrix products in a JAX function.

XLA's own cost analysis counts the body of a loop once however often it runs, and models here loop
over equal blocks. So the products are counted in the jaxpr, where a scan's length is known.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smallvit_jax.models import abstract_model
from smallvit_jax.models.parameters import Functional


class ModelSize(NamedTuple):
    """How many values training changes, and what one image costs on its way to the output."""

    parameters: int
    flops: int


def model_size(options: dict[str, Any]) -> ModelSize:
    """The size of the model with these arguments of `create_model`; no array is made.

    FLOPs are those of `matmul_flops` in evaluation mode, for one image of the model's size.
    """
    network = Functional(abstract_model(**options))
    side = options["image_size"]
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    flops = matmul_flops(
        lambda params, buffers, image: network(params, buffers, image)[0],
        network.trainable,
        network.buffers,
        image,
    )
    return ModelSize(sum(math.prod(array.shape) for array in network.trainable.values()), flops)


def matmul_flops(function: Callable, *args: Any) -> int:
    """Counts 2 per multiplication and addition of every matrix product and convolution.

    Element-wise work is left out, as is usual when a share of the peak is stated; of branches the
    dearest counts. Raises ValueError for a product in a loop whose number of rounds is not known.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(lengths)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    inside = sum(_count(inner) for inner in _inner_jaxprs(params))
    if name == "scan":
        return params["length"] * inside
    if name == "while" and inside:
        raise ValueError("a loop with an unknown number of rounds holds matrix products")
    return inside


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr"):
                yield item.jaxpr
