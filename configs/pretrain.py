"""Pre-training only: the model learns from the images without their labels.

    python -m smallvit_jax.main --config configs/pretrain.py:vit,cifar10 --workdir runs/pretrain

The argument is MODEL,DATASET. The result is the backbone (with DINO the teacher's), from which
configs/finetune.py starts.

Expected time: not measured yet.
Expected accuracy (kNN on its features): not measured yet.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_model_and_dataset


def get_config(argument: str = "vit,cifar10"):
    config = default_config()
    config.job = "pretrain"
    set_model_and_dataset(config, argument)
    return config
