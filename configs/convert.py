"""Turns weights of the PyTorch reference into a checkpoint, or a checkpoint into such weights.

    python -m smallvit_jax.main --config configs/convert.py:cifar10 --workdir runs/converted \\
        --config.convert.source=best.pth
    python -m smallvit_jax.main --config configs/convert.py --workdir runs/pth \\
        --config.convert.source=runs/cifar10/finetune

`--config.convert.format=safetensors` writes model.safetensors with a model card, not model.pth.

The argument is the DATASET that weights of other programs were trained on: the checkpoint tells its
mean, standard deviation and number of classes. Architecture, sizes and classes are found from the
weights; what they do not tell is the reference's, or given by hand: `model.heads` of a ViT,
`model.image_size` of a Swin. A .pth file needs PyTorch.

Expected time: seconds.
Expected accuracy: that of the weights, which are the same.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "convert"
    set_dataset(config, argument)
    return config
