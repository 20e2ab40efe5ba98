"""Draws what a checkpoint looks at: attention maps of test images, or of files.

    python -m smallvit_jax.main --config configs/attention.py:cifar10 --workdir runs/attention \\
        --config.attention.checkpoint=runs/cifar10/finetune

The argument is the DATASET whose test images are drawn; with `--config.attention.input=photos` they
are that file's or folder's instead. `--config.attention.beside=runs/cifar10/scratch` draws a second
model beside the first.

Expected time: about ten seconds and the compilation of two forward passes.
Expected accuracy: none; the numbers in `result.json` are entropy, spread and mass inside boxes.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "attention"
    set_dataset(config, argument)
    return config
