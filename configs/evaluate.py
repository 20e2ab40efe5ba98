"""Evaluates a checkpoint on a dataset's test split.

    python -m smallvit_jax.main --config configs/evaluate.py:cifar10 --workdir runs/evaluate \\
        --config.evaluate.checkpoint=runs/cifar10/finetune

The argument is DATASET; the model is the checkpoint's.

Expected time: not measured yet.
Expected accuracy: as in the checkpoint's own `result.json`.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "evaluate"
    set_dataset(config, argument)
    return config
