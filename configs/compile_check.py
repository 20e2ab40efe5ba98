"""Compiles the training steps for accelerators that are not here: do they fit, how fast are they?

    python -m smallvit_jax.main --config configs/compile_check.py:vit,cifar10 \\
        --workdir runs/compiled --config.compile_check.targets=v5e-8,h100

The argument is MODEL,DATASET. Prints memory, collectives, arithmetic, the source lines with most
memory traffic and an estimate of images/s for each target and stage, and what to change if a step
is too large. Reads no images. Needs `pip install '.[compile-check-tpu]'` for TPUs and
`'.[compile-check-cuda]'` for GPUs, on any machine.

Expected time: 2 to 12 minutes per target and stage on two CPU cores.
Expected accuracy: none; nothing is trained.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_model_and_dataset


def get_config(argument: str = "vit,cifar10"):
    config = default_config()
    config.job = "compile_check"
    set_model_and_dataset(config, argument)
    return config
