"""How much the choice of learning rate and weight decay matters, with and without conv stem.

    python -m smallvit_jax.main --config configs/sweep.py:cifar10,small \\
        --workdir runs/sweep --config.sweep.settings=8

The argument is DATASET, or DATASET,small for a CPU, as in configs/compare.py. Random settings of
AdamW and of SGD, the same for both models, trained for a few epochs each; the table and the picture
tell how many of them come close to the best. The experiment of "Early Convolutions Help
Transformers See Better" (arXiv 2106.14881) at small size. The same command again continues, and
with more settings trains only the new ones.

Expected time: that of 4 short trainings per setting; not measured yet.
Expected accuracy: not measured yet; the paper finds more settings near the best with the stem.
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_dataset_and_size


def get_config(argument: str = "cifar10"):
    config = default_config()
    config.job = "sweep"
    set_dataset_and_size(config, argument)
    config.sweep.variants = "scratch,conv"
    config.finetune.epochs = 5
    config.finetune.optimizer.warmup_epochs = 1
    config.finetune.evaluate_every = 5  # the last error is all that counts
    return config
