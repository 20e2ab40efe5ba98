"""Compares variants of the model and of training in one table.

    python -m smallvit_jax.main --config configs/compare.py:cifar10,small \\
        --workdir runs/compared --config.compare.seeds=0,1,2

The argument is DATASET, or DATASET,small for a tenth of its images and a model that trains on them
within minutes on a CPU. Each variant is trained with every seed on the same labels for the same
number of steps; those with "ssl" are pre-trained first. Running the same command again resumes an
interrupted comparison; with more variants or seeds, it trains only the new ones. Running it twice
at the same time, for example on two cores, shares the work.

Expected time, small: 2 minutes per training on one CPU core, 5 with pre-training; 38 minutes for
three seeds of eight variants in two processes on two cores.
Expected accuracy, small: 42 % (scratch, ssl) to 50 % (mimetic, ResNet-8); see docs/results.md. Five
epochs of pre-training are too few to help; 40 give 46 % (--config.pretrain.epochs=40).
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset_and_size


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "compare"
    set_dataset_and_size(config, argument)
    config.compare.variants = "scratch,mean,impulse3,mimetic,conv,ssl,ssl+conv"
    return config
