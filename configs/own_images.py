"""The whole recipe on a folder of your own images, sized for hundreds or thousands of them.

    python -m smallvit_jax.main --config configs/own_images.py:photos --workdir runs/photos

The argument is the PATH of the folder, or the name of a prepared dataset. With so few images, the
reference's settings would give a handful of steps; these give a thousand and more, with a model
that trains on a laptop.

Expected time: 20 to 40 minutes for 2,000 images of 64 pixels, on one CPU core; `configs/advise.py`
says it for yours.
Expected accuracy: depends on your images; on 20 classes of Tiny-ImageNet with 100 images each, 25
of them labeled, 37.2 % against 31.3 % from scratch (mean of seeds 0 and 1).
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_folder_or_dataset, use_own_images_preset


def get_config(argument: str = ""):
    config = default_config()
    config.job = "recipe"
    set_folder_or_dataset(config, argument, "own_images.py")
    use_own_images_preset(config)
    return config
