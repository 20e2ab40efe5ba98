"""One mesh over all devices: the batch split along `data`, everything else replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """A mesh of every device of every process, with the single axis `data`.

    The axis is `Auto`: under jax.make_mesh's default, `Explicit`, plain model code raises
    ShardingTypeError.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(tree, mesh: Mesh):
    """Puts a copy of every array on every device; the copies are fresh, safe to donate."""
    return jax.tree.map(lambda x: place(x, NamedSharding(mesh, PartitionSpec())), tree)


def split_batch(tree, mesh: Mesh):
    """Puts arrays on the devices, their leading axis split over `data`."""
    return jax.tree.map(lambda x: place(x, NamedSharding(mesh, PartitionSpec("data"))), tree)


def place(array, sharding: NamedSharding) -> jax.Array:
    """Puts a copy of an array, the same in all processes, on the devices of them all.

    Each process makes its own part: `jax.device_put` would first compare the values everywhere.
    """
    host = np.asarray(array)
    return jax.make_array_from_callback(
        host.shape, sharding, lambda index: np.array(host[index], copy=True)
    )
