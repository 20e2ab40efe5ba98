"""One mesh over all devices: the batch split along `data`, everything else replicated."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """A mesh of every device with the single axis `data`.

    The axis is `Auto`: under jax.make_mesh's default, `Explicit`, plain model code raises
    ShardingTypeError.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(tree, mesh: Mesh):
    """Puts a copy of every array on every device; the copies are fresh, safe to donate."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(jax.numpy.array(x, copy=True), sharding), tree)


def split_batch(tree, mesh: Mesh):
    """Puts arrays on the devices, their leading axis split over `data`."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))
