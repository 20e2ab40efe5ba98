"""The reference recipe (BMVC'22): pre-train without labels, fine-tune with labels, evaluate.

    python -m smallvit_jax.main --config configs/recipe.py:vit,cifar10 --workdir runs/cifar10

The argument is MODEL,DATASET. All settings are the reference's: 200 epochs of pre-training at batch
size 512, and 100 epochs of fine-tuning with 3 passes each at batch size 256.

Expected time: not measured yet.
Expected accuracy: not measured yet; the paper reports 96.41 % for vit,cifar10 (its best epoch on
the test set), and 93.58 % from scratch.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_model_and_dataset


def get_config(argument: str = "vit,cifar10"):
    config = default_config()
    config.job = "recipe"
    set_model_and_dataset(config, argument)
    return config
