"""Names the classes of new images, with probabilities: a row for each in `predictions.csv`.

    python -m smallvit_jax.main --config configs/predict.py --workdir runs/predict \\
        --config.predict.checkpoint=runs/cifar10/finetune --config.predict.input=photos

The input is an image file, or a folder of them, nested or not. `--config.predict.format=json`
writes JSON instead, `--config.predict.top` so many classes per image.

Expected time: a few seconds and the compilation of a forward pass; then as fast as files are read.
Expected accuracy: that of the checkpoint.
"""

from smallvit_jax.config import default_config


def get_config():
    config = default_config()
    config.job = "predict"
    return config
