"""Pre-training against training from scratch with 25 to 100 % of the labels.

    python -m smallvit_jax.main --config configs/data_efficiency.py:vit,cifar10 \\
        --workdir runs/labels --config.data_efficiency.seeds=0,1,2

The argument is MODEL,DATASET. Each seed pre-trains once, on every image without labels, then
fine-tunes with each fraction of the labels, from there and from scratch. Running the same command
again resumes an interrupted comparison.

Expected time: one pre-training and eight trainings per seed; not measured yet.
Expected accuracy: not measured yet; for swin,cifar10 the paper reports 91.75, 94.26 and 95.40 %
with 25, 50 and 75 % of the labels, and 83.36, 90.83 and 91.73 % from scratch (best epochs on the
test set).
"""

from smallvit_jax.config import default_config
from smallvit_jax.config.presets import set_model_and_dataset


def get_config(argument: str = "vit,cifar10"):
    config = default_config()
    config.job = "data_efficiency"
    set_model_and_dataset(config, argument)
    return config
