"""The recommended recipe without a GPU: tens of thousands of images, some hundreds of them labeled.

    python -m smallvit_jax.main --config configs/small_data.py:cifar10 --workdir runs/cifar10 \\
        --config.dataset.labels_per_class=50

The argument is DATASET, or folder:PATH for your own images.

Expected time: not measured yet.
Expected accuracy: not measured yet.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset, use_small_data_preset


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "recipe"
    set_dataset(config, argument)
    use_small_data_preset(config)
    return config
