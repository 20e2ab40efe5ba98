"""Convolutional networks trained from scratch with their original recipe.

    python -m smallvit_jax.main --config configs/convnets.py:resnet56,cifar10 \\
        --workdir runs/resnet56

The argument is MODEL,DATASET; MODEL is resnet18, resnet56, resnet110 or efficientnet_b0. The recipe
is that of He et al. (2016), with a cosine schedule instead of two drops: SGD, random crops and
flips. `configs/finetune.py:resnet56,cifar10` trains the same network with the transformers' recipe.

Expected time: not measured yet.
Expected accuracy: not measured yet; for such recipes on cifar10 others report 93.0 to 93.4 %
(resnet56), 93.6 % (resnet110) and 93.0 to 95 % (resnet18).
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.choices import CONVNETS
from smallvit_jax.config.presets import set_model_and_dataset
from smallvit_jax.errors import UserError


def get_config(argument: str = "resnet56,cifar10"):
    config = default_config()
    config.job = "finetune"
    set_model_and_dataset(config, argument)
    if config.model.name not in CONVNETS:
        raise UserError(
            f"configs/convnets.py is for {', '.join(CONVNETS)}, not for {config.model.name}; use "
            "configs/finetune.py"
        )

    finetune = config.finetune
    finetune.epochs = 200
    finetune.passes_per_epoch = 1
    finetune.batch_size = 128
    finetune.label_smoothing = 0.0

    finetune.augment.policy = "none"  # only random crops and flips
    finetune.augment.erase = 0.0
    finetune.augment.mix = 0.0

    finetune.optimizer.name = "sgd"  # with momentum 0.9
    finetune.optimizer.lr = 0.1
    finetune.optimizer.min_lr = 0.0
    # The deepest network does not start to converge at the full rate; the paper warms it up, too.
    finetune.optimizer.warmup_epochs = 1 if config.model.name == "resnet110" else 0
    thin = config.model.name in ("resnet56", "resnet110")
    finetune.optimizer.weight_decay = 1e-4 if thin else 5e-4  # more for ten times the weights
    return config
