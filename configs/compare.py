"""Compares variants of the model and of training in one table.

    python -m smallvit_jax.main --config configs/compare.py:cifar10,small \\
        --workdir runs/compared --config.compare.seeds=0,1,2

The argument is DATASET, or DATASET,small for a tenth of its labels and a model that trains on them
within minutes on a CPU. Each variant is trained with every seed on the same labels for the same
number of steps; those with "ssl" are pre-trained first, on all images. Running the same command
again resumes an interrupted comparison; with more variants or seeds, it trains only the new ones.
Running it twice at the same time, for example on two cores, shares the work.

Expected time, small: a minute per training on one CPU core, 17 with pre-training.
Expected accuracy, small: 45.6 % (scratch), 53.3 % (ssl), 52.9 % (mimetic) and 58.1 % (ssl+mimetic);
see docs/results.md.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset_and_size


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "compare"
    set_dataset_and_size(config, argument)
    config.compare.variants = "scratch,mean,impulse3,mimetic,conv,ssl,ssl+conv"
    return config
