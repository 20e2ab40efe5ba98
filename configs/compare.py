"""Variants of the model and of training side by side, in one table.

    python -m smallvit_jax.main --config configs/compare.py:cifar10,small \\
        --workdir runs/compared --config.compare.seeds=0,1,2

The argument is DATASET, or DATASET,small for a tenth of its images and a model that learns from
them within minutes on a CPU. Each variant is trained with every seed on the same labels for the
same number of steps; those with "ssl" are pre-trained first. The same command again continues an
interrupted comparison, with more variants or seeds it trains what is new, and given twice at once
(on two cores, say) it shares the work.

Expected time: not measured yet.
Expected accuracy: not measured yet.
"""

from smallvit_jax.config import default_config, set_dataset

SMALL = ",small"


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "compare"
    set_dataset(config, argument.removesuffix(SMALL))
    config.compare.variants = "scratch,mean,impulse3,mimetic,conv,ssl,ssl+conv"
    if argument.endswith(SMALL):
        _make_small(config)
    return config


def _make_small(config):
    config.dataset.train_fraction = 0.1  # 5,000 images of CIFAR-10
    config.compare.targets = (30.0, 40.0, 50.0)  # more is out of reach here

    config.model.width = 64  # a third of the reference's
    config.model.depth = 4  # the reference has 9 blocks
    config.model.heads = 4  # 16 channels each, as in the reference
    config.model.init = "fan_in"  # the reference's std of .02 is too small for this width

    pretrain = config.pretrain
    pretrain.epochs = 5  # half of the time of an "ssl" variant
    pretrain.batch_size = 50  # 100 steps an epoch
    pretrain.knn_every = 5  # before the first step and after the last
    pretrain.optimizer.base_lr = 5e-3  # 1e-3 at this batch size
    pretrain.optimizer.warmup_epochs = 1
    pretrain.teacher.momentum = 0.99  # the reference's .996 averages over half of so short a run
    pretrain.teacher.temperature = 0.02  # the reference's .04 to .07 drift into uniform outputs
    pretrain.teacher.warmup_temperature = 0.02  # no rise
    pretrain.head.out_dim = 256
    pretrain.head.hidden_dim = 128  # twice the width of the model
    pretrain.head.bottleneck_dim = 64  # as wide as the model
    pretrain.views.local_crops = 4  # half of the reference's

    finetune = config.finetune
    finetune.epochs = 9  # few passes: weak augmentation is enough, and strong would be in the way
    finetune.passes_per_epoch = 1
    finetune.batch_size = 50  # 100 steps an epoch
    finetune.evaluate_every = 3  # 10,000 test images take as long as an epoch
    finetune.optimizer.warmup_epochs = 1
    finetune.augment.policy = "none"
    finetune.augment.mix = 0.0
    finetune.augment.erase = 0.0
