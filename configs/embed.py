"""Writes the features of new images to `embeddings.npz`, with their names.

    python -m smallvit_jax.main --config configs/embed.py --workdir runs/embed \\
        --config.predict.checkpoint=runs/cifar10/finetune --config.predict.input=photos

The input is an image file or a folder of them, nested or not. Any checkpoint works, including that
of a pre-training.

Expected time: a few seconds, plus compiling one forward pass; then limited by reading files.
Expected accuracy: that of the checkpoint.
"""

from smallvit_jax.config import default_config


def get_config():
    config = default_config()
    config.job = "embed"
    return config
