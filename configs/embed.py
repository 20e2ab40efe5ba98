"""Writes the features of new images into `embeddings.npz`, with their names.

    python -m smallvit_jax.main --config configs/embed.py --workdir runs/embed \\
        --config.predict.checkpoint=runs/cifar10/finetune --config.predict.input=photos

The input is an image file, or a folder of them, nested or not. Any checkpoint will do, that of a
pre-training too.

Expected time: a few seconds and the compilation of a forward pass; then as fast as files are read.
Expected accuracy: that of the checkpoint.
"""

from smallvit_jax.config import default_config


def get_config():
    config = default_config()
    config.job = "embed"
    return config
