"""Predicts the classes of new images, with probabilities: a row per image in `predictions.csv`.

    python -m smallvit_jax.main --config configs/predict.py --workdir runs/predict \\
        --config.predict.checkpoint=runs/cifar10/finetune --config.predict.input=photos

The input is an image file or a folder of them, nested or not. `--config.predict.format=json` writes
JSON instead; `--config.predict.top` is the number of classes per image.

Expected time: a few seconds, plus compiling one forward pass; then limited by reading files.
Expected accuracy: that of the checkpoint.
"""

from smallvit_jax.config import default_config


def get_config():
    config = default_config()
    config.job = "predict"
    return config
