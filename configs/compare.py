"""Variants of the model and of training side by side, in one table.

    python -m smallvit_jax.main --config configs/compare.py:cifar10 \\
        --workdir runs/compared --config.compare.variants=scratch,ssl,ssl+conv

The argument is DATASET. Each variant is trained with every seed on the same labels for the same
number of steps; those with "ssl" are pre-trained first. The same command again continues an
interrupted comparison, and with more variants or seeds it trains what is new.

Expected time: not measured yet.
Expected accuracy: not measured yet.
"""

from smallvit_jax.config import default_config, set_dataset


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "compare"
    set_dataset(config, argument)
    return config
