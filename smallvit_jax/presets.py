"""Sets of fields that several config files share."""

from ml_collections import ConfigDict

from smallvit_jax.config import set_dataset

_SMALL = ",small"


def set_dataset_and_size(config: ConfigDict, argument: str) -> None:
    """Sets what "DATASET" or "DATASET,small" names, the argument of `configs/compare.py`.

    Raises UserError when it names no known dataset.
    """
    set_dataset(config, argument.removesuffix(_SMALL))
    if argument.endswith(_SMALL):
        make_small(config)


def make_small(config: ConfigDict) -> None:
    """Sets a tenth of the images and a vision transformer that learns from them within minutes on
    a CPU, alike in pre-training and in fine-tuning."""
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
