"""The recommended recipe without a GPU: tens of thousands of images, some hundreds of them labeled.

    python -m smallvit_jax.main --config configs/small_data.py:cifar10 --workdir runs/cifar10 \\
        --config.dataset.labels_per_class=50

The argument is DATASET, or folder:PATH for your own images.

Expected time: not measured yet.
Expected accuracy: not measured yet.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset, use_unlabeled_images


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "recipe"
    set_dataset(config, argument)
    use_unlabeled_images(config)

    pretrain = config.pretrain
    pretrain.epochs = 8
    pretrain.batch_size = 128
    pretrain.knn_every = 8  # before the first step and after the last
    pretrain.optimizer.base_lr = 8e-3  # 4e-3 at this batch size
    pretrain.optimizer.warmup_epochs = 1
    pretrain.lejepa.directions = 128  # a larger batch needs fewer

    finetune = config.finetune
    finetune.epochs = 9
    finetune.passes_per_epoch = 1
    finetune.batch_size = 50
    finetune.evaluate_every = 3
    finetune.optimizer.warmup_epochs = 1
    finetune.augment.policy = "none"
    finetune.augment.mix = 0.0
    finetune.augment.erase = 0.0
    return config
