"""Draws where a checkpoint looks: attention maps of test images or of your own files.

    python -m smallvit_jax.main --config configs/attention.py:cifar10 --workdir runs/attention \\
        --config.attention.checkpoint=runs/cifar10/finetune

The argument is the DATASET whose test images are drawn; `--config.attention.input=photos` draws
that file or folder instead. `--config.attention.beside=runs/cifar10/scratch` draws a second model
next to the first.

Expected time: about ten seconds, plus the compilation of two forward passes.
Expected accuracy: none; `result.json` has the entropy, spread and mass inside boxes.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "attention"
    set_dataset(config, argument)
    return config
