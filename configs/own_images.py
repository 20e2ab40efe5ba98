"""The whole recipe on a folder of your own images, sized for hundreds or thousands of them.

    python -m smallvit_jax.main --config configs/own_images.py:photos --workdir runs/photos

The argument is the PATH of the folder. With so few images, the reference's settings would give a
handful of steps; these give a thousand and more, with a model that trains on a laptop.

Expected time: 12 minutes for 2,000 images of 64 pixels, on 2 CPU cores shared with other programs.
Expected accuracy: depends on your images; on 20 classes of Tiny-ImageNet with 100 images each, 25
of them labeled, 32.3 % against 28.0 % from scratch (seed 0).
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset, use_unlabeled_images
from smallvit_jax.errors import UserError


def get_config(argument: str = ""):
    if not argument:
        raise UserError(
            "configs/own_images.py needs the folder of your images, as in "
            "--config configs/own_images.py:photos"
        )
    config = default_config()
    config.job = "recipe"
    set_dataset(config, f"folder:{argument}")
    use_unlabeled_images(config)

    pretrain = config.pretrain
    pretrain.epochs = 60
    pretrain.knn_every = 20
    pretrain.optimizer.base_lr = 16e-3  # 4e-3 at this batch size
    pretrain.optimizer.warmup_epochs = 6  # a tenth

    finetune = config.finetune
    finetune.epochs = 20
    finetune.batch_size = 32  # many steps from few images
    finetune.optimizer.warmup_epochs = 2  # a tenth, as in the reference
    return config
