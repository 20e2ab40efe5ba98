"""A model's parameters as a table."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
from clu import parameter_overview

_LAST_NUMBER = re.compile(r"\.\d+\.(?!.*\.\d+\.)")  # of a block in a list of blocks


def parameter_table(params: Mapping[str, Any], most_lines: int | None = None) -> str:
    """The names, shapes and sizes of parameters by dotted path, and their total.

    Equal arrays of numbered blocks share a row: `blocks.*.mlp.fc1.bias` of shape (9, 384) stands
    for those of nine blocks. `params` may be arrays or anything with a shape and a dtype. Beyond
    `most_lines` the table is cut; the total is always of all parameters.
    """
    alike = defaultdict(list)
    for name, array in params.items():
        alike[_LAST_NUMBER.sub(".*.", name)].append((name, tuple(array.shape), array.dtype))
    rows: dict[str, jax.ShapeDtypeStruct] = {}
    for shared, found in alike.items():
        if len(found) > 1 and len({(shape, dtype) for _, shape, dtype in found}) == 1:
            _, shape, dtype = found[0]
            rows[shared] = jax.ShapeDtypeStruct((len(found), *shape), dtype)
        else:
            rows |= {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in found}
    return parameter_overview.get_parameter_overview(
        rows, include_stats=False, max_lines=most_lines
    )
