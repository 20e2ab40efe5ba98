"""Converts weights of the PyTorch reference to a checkpoint, or a checkpoint to such weights.

    python -m smallvit_jax.main --config configs/convert.py:cifar10 --workdir runs/converted \\
        --config.convert.source=best.pth
    python -m smallvit_jax.main --config configs/convert.py --workdir runs/pth \\
        --config.convert.source=runs/cifar10/finetune

`--config.convert.format=safetensors` writes model.safetensors with a model card instead of
model.pth, `--config.convert.format=stablehlo` a program that JAX alone can run.

The argument is the DATASET that weights of other programs were trained on; the checkpoint records
its mean, standard deviation and classes. Architecture, sizes and number of classes are inferred
from the weights. The rest is as in the reference unless you set it: `model.heads` of a ViT,
`model.image_size` of a Swin. A .pth file needs PyTorch.

Expected time: seconds.
Expected accuracy: unchanged, as the weights are the same.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "convert"
    set_dataset(config, argument)
    return config
