"""Advice for your images on this machine: which preset, image size, epochs and batch.

    python -m smallvit_jax.main --config configs/advise.py:photos

The argument is the PATH of a folder, or the name of a prepared dataset. Reads the images, times a
few training steps, and prints the command to run, with its expected time and memory. Nothing is
written. `--config.advise.minutes=60` gives the run more time; fields of `dataset`, such as
`--config.dataset.labels_per_class=25`, become part of the command.

Expected time: reading the images, and about a minute.
Expected accuracy: none; nothing is trained to the end.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_folder_or_dataset


def get_config(argument: str = ""):
    config = default_config()
    config.job = "advise"
    set_folder_or_dataset(config, argument, "advise.py")
    return config
