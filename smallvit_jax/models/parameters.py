"""Models as a static graph and flat dicts of arrays keyed by dotted path.

Training steps, checkpoints and weight conversion all use these dicts. NNX's own update functions
silently accept missing keys and wrong shapes, so everything from outside goes through
`check_names_and_shapes`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from smallvit_jax.errors import UserError
from smallvit_jax.process.sharding import on_each_device

Arrays = dict[str, jax.Array]


def _flat(model: nnx.Module) -> dict[str, nnx.Variable]:
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): variable for path, variable in leaves}


def get_arrays(model: nnx.Module) -> Arrays:
    """Returns all arrays of the model (weights, fixed weights, batch statistics) by dotted path."""
    return {name: variable.get_value() for name, variable in _flat(model).items()}


def set_arrays(model: nnx.Module, arrays: Mapping[str, Any], source: str = "weights") -> None:
    """Sets all arrays of the model; raises one `UserError` listing all that do not fit."""
    variables = _flat(model)
    shapes = {name: variable.get_value().shape for name, variable in variables.items()}
    check_names_and_shapes(shapes, {k: np.shape(v) for k, v in arrays.items()}, source)
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    values = [arrays[".".join(map(str, path))] for path, _ in leaves]
    state = nnx.from_flat_state(
        (path, variable.replace(jax.numpy.asarray(value, variable.get_value().dtype)))
        for (path, variable), value in zip(leaves, values, strict=True)
    )
    nnx.update(model, state)


def check_names_and_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raises one `UserError` listing every missing, unexpected or wrongly shaped array."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name])}, but the model has {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if problems:
        raise UserError(
            f"{source} does not fit the model ({len(problems)} problems): {'; '.join(problems)}"
        )


class Functional:
    """A module as a pure function of its arrays.

    `trainable` holds the arrays that get gradients, `buffers` the rest (fixed weights, batch
    statistics). Both start with the module's values.
    """

    def __init__(self, model: nnx.Module):
        self._graph, state = nnx.split(model)
        self._leaves = nnx.to_flat_state(state)
        names = [".".join(map(str, path)) for path, _ in self._leaves]
        self._names = names
        self.trainable: Arrays = {}
        self.buffers: Arrays = {}
        for name, (_, variable) in zip(names, self._leaves, strict=True):
            group = self.trainable if issubclass(variable.type, nnx.Param) else self.buffers
            group[name] = variable.get_value()

    def __call__(
        self,
        trainable: Arrays,
        buffers: Arrays,
        *args,
        method: str = "__call__",
        rngs: nnx.Rngs | None = None,
        **kwargs,
    ) -> tuple[Any, Arrays]:
        """Calls the module (or one of its methods); returns the result and the updated buffers.

        Arrays among `args` have the batch as their leading axis, as all arrays in the result; on
        several devices, each computes its part (see `on_each_device`). `rngs` stays as it is: a
        second call with it draws the same numbers.
        """
        streams = None if rngs is None else nnx.split(rngs)
        fixed = [isinstance(argument, str | int) for argument in args]
        batch = [None if fix else arg for fix, arg in zip(fixed, args, strict=True)]

        def call(whole, batch):
            trainable, buffers, state = whole
            model = self._bind({**trainable, **buffers})
            options = (
                kwargs if streams is None else {**kwargs, "rngs": nnx.merge(streams[0], state)}
            )
            given = (
                arg if fix else part for fix, arg, part in zip(fixed, args, batch, strict=True)
            )
            result = getattr(model, method)(*given, **options)
            after = _flat(model)
            return result, {name: after[name].get_value() for name in buffers}

        whole = (trainable, buffers, None if streams is None else streams[1])
        return on_each_device(call, whole, batch)

    def _bind(self, arrays: Arrays) -> nnx.Module:
        state = nnx.from_flat_state(
            (path, variable.replace(arrays[name]))
            for name, (path, variable) in zip(self._names, self._leaves, strict=True)
        )
        return nnx.merge(self._graph, state, copy=True)
