"""The recommended recipe for 10,000 to 100,000 images of which few have labels, without a GPU.

    python -m smallvit_jax.main --config configs/small_data.py:cifar10 --workdir runs/cifar10 \\
        --config.dataset.labels_per_class=50

The argument is DATASET, or folder:PATH for your own images.

It pre-trains by masked autoencoding, which needs a ViT, and was measured with 50 and 500 labels per
class. With fewer than 10,000 images, use `configs/own_images.py`.

Expected time: 25 to 45 minutes on one CPU core for CIFAR-10; `configs/advise.py` says it for yours.
Expected accuracy: on CIFAR-10 with 50 labels per class 49.4 ± 1.0 % against 37.6 ± 2.3 % from
scratch, with 500 labels (`--config.finetune.augment.crop_padding=0`) 65.1 ± 0.8 % against 52.9 ±
0.4 % (seeds 0 to 2).
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset, use_small_data_preset


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "recipe"
    set_dataset(config, argument)
    use_small_data_preset(config)
    return config
