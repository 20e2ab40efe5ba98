"""Table of a model's parameters."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
from clu import parameter_overview

from smallvit_jax.models import abstract_model
from smallvit_jax.models.parameters import Functional

_LAST_NUMBER = re.compile(r"\.\d+\.(?!.*\.\d+\.)")  # the index in a list of blocks


def trainable_shapes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the shapes of a model's trainable arrays by dotted path, without batch statistics."""
    return Functional(abstract_model(**options)).trainable


def parameter_table(params: Mapping[str, Any], most_lines: int | None = None) -> str:
    """Returns a table with the names, shapes and sizes of parameters, and their total.

    Arrays of the same shape in numbered blocks share a row: `blocks.*.mlp.fc1.bias` of shape
    (9, 384) covers nine blocks. `params` maps dotted paths to arrays or anything with a shape and a
    dtype. The table is cut after `most_lines`; the total always covers all parameters.
    """
    groups = defaultdict(list)
    for name, array in params.items():
        groups[_LAST_NUMBER.sub(".*.", name)].append((name, tuple(array.shape), array.dtype))
    rows: dict[str, jax.ShapeDtypeStruct] = {}
    for shared, found in groups.items():
        if len(found) > 1 and len({(shape, dtype) for _, shape, dtype in found}) == 1:
            _, shape, dtype = found[0]
            rows[shared] = jax.ShapeDtypeStruct((len(found), *shape), dtype)
        else:
            rows |= {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in found}
    return parameter_overview.get_parameter_overview(
        rows, include_stats=False, max_lines=most_lines
    )
