"""Run by test_views.py in a process with four simulated devices; prints each passed check."""

import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from smallvit_jax.augment.finetune import AugmentSettings, augment_batch, evaluation_batch
from smallvit_jax.augment.views import ViewSettings, multi_crop
from tests.augment.reference_ops import CIFAR10_MEAN, CIFAR10_STD

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")


def main():
    assert jax.device_count() == 4
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    split = jax.device_put(images, NamedSharding(mesh, P("data")))
    key = jax.random.key(0)
    split_key = jax.device_put(key, NamedSharding(mesh, P()))
    for name, function in {
        "views": lambda x, k: multi_crop(x, k, ViewSettings(local_crops=2)),
        "finetune": lambda x, k: augment_batch(x, k, AugmentSettings(policy="cifar10")),
        "evaluation": lambda x, k: evaluation_batch(x, 48, CIFAR10_MEAN, CIFAR10_STD),
    }.items():
        program = jax.jit(function).lower(split, split_key).compile()
        assert not COLLECTIVE.search(program.as_text()), name
        whole = jax.jit(function)(images, key)
        for one, many in zip(
            jax.tree.leaves(whole), jax.tree.leaves(program(split, split_key)), strict=True
        ):
            np.testing.assert_allclose(one, many, atol=1e-5)
        print(name)


if __name__ == "__main__":
    main()
