"""Counts the floating-point operations of matrix products in a JAX function.

XLA's own cost analysis counts a loop body once, however often it runs, and the models here loop
over identical blocks. So products are counted in the jaxpr, which has the length of every scan.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from smallvit_jax.models import abstract_model
from smallvit_jax.models.parameters import Functional
from smallvit_jax.process.platform import compiling_for


class ModelSize(NamedTuple):
    """Number of trainable parameters, and FLOPs of one image's forward pass."""

    parameters: int
    flops: int


def model_size(options: dict[str, Any]) -> ModelSize:
    """Returns the size of the model that `create_model` builds from `options`, without building it.

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
    """Counts 2 FLOPs per multiply-add of every matrix product and convolution.

    Elementwise operations are left out, as usual in figures of utilization. Of the branches of a
    conditional, the most expensive one counts. Raises ValueError for a matrix product in a loop
    with an unknown number of iterations.
    """
    return sum(flops_by_dtype(function, *args).values())


def flops_by_dtype(function: Callable, *args: Any) -> Counter[str]:
    """Counts the FLOPs of `matmul_flops` by the dtype of the factors, such as "bfloat16".

    Traces for a CPU, where attention is plain products that can be counted.
    """
    with compiling_for("cpu"):
        return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> Counter[str]:
    return sum((_count_equation(equation) for equation in jaxpr.eqns), Counter())


def _count_equation(equation) -> Counter[str]:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
        return _product(equation, math.prod(lengths))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return _product(equation, math.prod(kernel) // outputs)
    if name == "cond":
        return max((_count(branch.jaxpr) for branch in params["branches"]), key=Counter.total)
    inside = sum((_count(inner) for inner in _inner_jaxprs(params)), Counter())
    if name == "scan":
        return Counter({dtype: params["length"] * count for dtype, count in inside.items()})
    if name == "while" and inside:
        raise ValueError("a loop with an unknown number of iterations contains matrix products")
    return inside


def _product(equation, terms: int) -> Counter[str]:
    """A product with this many terms in each entry of its result."""
    dtype = equation.invars[0].aval.dtype.name
    return Counter({dtype: 2 * math.prod(equation.outvars[0].aval.shape) * terms})


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr"):
                yield item.jaxpr
