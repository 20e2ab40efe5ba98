"""Fine-tuning only: supervised training, from a pre-trained model or from scratch.

    python -m smallvit_jax.main --config configs/finetune.py:vit,cifar10 --workdir runs/finetune \\
        --config.finetune.init_from=runs/pretrain

The argument is MODEL,DATASET. Without `finetune.init_from` the model is trained from scratch.

Expected time: not measured yet.
Expected accuracy: not measured yet; the paper reports 96.41 % for vit,cifar10 from a pre-trained
model and 93.58 % from scratch (the best epoch on the test set).
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_model_and_dataset


def get_config(argument: str = "vit,cifar10"):
    config = default_config()
    config.job = "finetune"
    set_model_and_dataset(config, argument)
    return config
