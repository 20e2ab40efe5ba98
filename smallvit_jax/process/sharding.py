"""Data parallelism: one mesh, the batch split over axis `data`, everything else replicated."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
_SPLIT_OVER: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


def make_mesh() -> Mesh:
    """Returns a mesh of all devices of all processes with the single axis `data`.

    The axis is `Auto`; with the default of jax.make_mesh, `Explicit`, plain model code raises
    ShardingTypeError.
    """
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree, mesh: Mesh):
    """Copies every array to every device; the copies are safe to donate."""
    return jax.tree.map(lambda x: place(x, NamedSharding(mesh, PartitionSpec())), tree)


def split_batch(tree, mesh: Mesh):
    """Puts arrays on the devices with their leading axis split over `data`."""
    return jax.tree.map(lambda x: place(x, NamedSharding(mesh, PartitionSpec(AXIS))), tree)


def place(array, sharding: NamedSharding) -> jax.Array:
    """Copies an array that is the same in every process to the devices of all processes.

    Each process copies only its own part; `jax.device_put` would first compare values across
    processes.
    """
    host = np.asarray(array)
    return jax.make_array_from_callback(
        host.shape, sharding, lambda index: np.array(host[index], copy=True)
    )


@contextlib.contextmanager
def split_over(mesh: Mesh) -> Iterator[None]:
    """Makes `on_each_device` split what is traced inside over this mesh."""
    token = _SPLIT_OVER.set(mesh)
    try:
        yield
    finally:
        _SPLIT_OVER.reset(token)


def on_each_device(function: Callable[..., Any], whole: Any, batch: Any) -> Any:
    """Returns function(whole, batch), computed by each device on its part of the batch.

    In a program for several devices (see `split_over`), gradients of `whole` are summed once,
    after the backward pass, in its own dtype. XLA would by itself sum the gradients of each layer
    where they arise, in the precision of the products. Elsewhere, it is just called.

    Args:
      function: (whole, part of the batch) → (pytree with one row for each of the batch's, pytree
        that is the same on all devices). It must use `mean_over_devices` and `draw_rows` for
        whatever depends on the whole batch.
      whole: a pytree of arrays that every device gets.
      batch: a pytree of arrays whose leading axis is the batch.
    """
    mesh = _SPLIT_OVER.get()
    if mesh is None or mesh.size == 1:
        return function(whole, batch)
    every, split = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(
        function, mesh=mesh, in_specs=(every, split), out_specs=(split, every), check_vma=False
    )(whole, batch)


def is_split() -> bool:
    """Whether this is traced for one device's part of a batch, by `on_each_device`."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes


def mean_over_devices(x: jax.Array) -> jax.Array:
    """The mean of this array on all devices, each of which has an equal part of the batch."""
    return jax.lax.pmean(x, AXIS) if is_split() else x


def device_count() -> int:
    """The number of devices that the batch is split over."""
    return jax.lax.axis_size(AXIS) if is_split() else 1


def draw_rows(draw: Callable[[int], jax.Array], rows: int) -> jax.Array:
    """Draws random rows for a batch, `draw(number)`, the same ones for any number of devices.

    Each device draws all and keeps its own `rows`; what is drawn should be small.
    """
    if not is_split():
        return draw(rows)
    first = jax.lax.axis_index(AXIS) * rows
    return jax.lax.dynamic_slice_in_dim(draw(rows * device_count()), first, rows)
