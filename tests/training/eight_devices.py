"""Run by test_placement.py in a process with eight simulated devices; prints what it checked."""

import re

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.errors import UserError
from smallvit_jax.training.placement import fetch, make_source
from tests.data.tiny_tfds import tiny_images

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")


def main():
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    images, labels = tiny_images(50, size=8)
    order = BatchOrder(len(images), 16, seed=1, field="pretrain.batch_size")
    fetch_jitted = jax.jit(fetch)
    for kind in ("device", "host"):
        with make_source(images, labels, order, mesh, kind, block_size=4) as source:
            for step in (0, 4, 9):
                block = source.block(step, 4)
                for i, indices in enumerate(order.block(step, 4)):
                    got_images, got_labels = fetch_jitted(block, i)
                    assert np.array_equal(got_images, images[indices])
                    assert np.array_equal(got_labels, labels[indices])
                    for array in (got_images, got_labels):
                        split = NamedSharding(mesh, P("data"))
                        assert array.sharding.is_equivalent_to(split, array.ndim), array.sharding
            program = fetch_jitted.lower(block, 0).compile().as_text()
            assert not COLLECTIVE.search(program), program
        print(kind)
    try:
        odd = BatchOrder(len(images), 12, seed=1, field="pretrain.batch_size")
        make_source(images, labels, odd, mesh, "device", block_size=4)
    except UserError as error:
        assert "pretrain.batch_size=12 does not split evenly over 8 devices" in str(error)
        print("uneven")


if __name__ == "__main__":
    main()
