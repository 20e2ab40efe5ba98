"""Data parallelism: one mesh, the batch split over axis `data`, everything else replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """Returns a mesh of all devices of all processes with the single axis `data`.

    The axis is `Auto`; with the default of jax.make_mesh, `Explicit`, plain model code raises
    ShardingTypeError.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(tree, mesh: Mesh):
    """Copies every array to every device; the copies are safe to donate."""
    return jax.tree.map(lambda x: place(x, NamedSharding(mesh, PartitionSpec())), tree)


def split_batch(tree, mesh: Mesh):
    """Puts arrays on the devices with their leading axis split over `data`."""
    return jax.tree.map(lambda x: place(x, NamedSharding(mesh, PartitionSpec("data"))), tree)


def place(array, sharding: NamedSharding) -> jax.Array:
    """Copies an array that is the same in every process to the devices of all processes.

    Each process copies only its own part; `jax.device_put` would first compare values across
    processes.
    """
    host = np.asarray(array)
    return jax.make_array_from_callback(
        host.shape, sharding, lambda index: np.array(host[index], copy=True)
    )
