"""How much the choice of learning rate and weight decay matters, with and without conv stem.

    python -m smallvit_jax.main --config configs/sweep.py:cifar10,small \\
        --workdir runs/sweep --config.sweep.settings=8

The argument is DATASET, or DATASET,small for a CPU, as in configs/compare.py. Both models are
trained for a few epochs with the same random settings of AdamW and of SGD; a table and a plot show
how many settings come close to the best. This is the experiment of "Early Convolutions Help
Transformers See Better" (arXiv 2106.14881) at a small size. Running the same command again
resumes it; with more settings, it trains only the new ones.

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
    config.finetune.evaluate_every = 5  # only the final error counts
    return config
