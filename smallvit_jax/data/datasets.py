"""The table of datasets: one entry for each, and nothing about them elsewhere."""

from dataclasses import dataclass

from smallvit_jax.errors import UserError, did_you_mean

Scale = tuple[float, float]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class DatasetSpec:
    """What the package knows about a dataset before it reads it.

    `mean` and `std` are per channel on a scale of 0 to 1, over the training split. `global_scale`
    and `local_scale` are the area ranges of the crops of self-supervised training, as parts of the
    image.
    """

    name: str
    num_classes: int
    image_size: int  # pixels per side
    mean: Color
    std: Color
    global_scale: Scale
    local_scale: Scale
    builder: str = ""  # TFDS builder, or builder/config; empty: not read from TFDS
    train_split: str = "train"  # what the source calls its splits
    test_split: str = "test"


_ROWS = (
    DatasetSpec(  # normalisation and scales: the reference's train_ssl.py and utils
        name="cifar10",
        builder="cifar10",
        num_classes=10,
        image_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        global_scale=(0.7, 1.0),
        local_scale=(0.2, 0.5),
    ),
    DatasetSpec(  # bundled with scikit-learn; mean and std measured on its training split
        name="digits",
        num_classes=10,
        image_size=16,
        mean=(0.3094, 0.3094, 0.3094),
        std=(0.3475, 0.3475, 0.3475),
        # Our choice, not tuned: a fifth of a digit is one stroke that many digits share.
        global_scale=(0.7, 1.0),
        local_scale=(0.3, 0.6),
    ),
)

DATASETS: dict[str, DatasetSpec] = {row.name: row for row in _ROWS}


def get_dataset(name: str) -> DatasetSpec:
    """Returns the table's entry; raises UserError for a name it does not hold."""
    if name not in DATASETS:
        raise UserError(
            f'dataset.name="{name}" is not in the dataset table{did_you_mean(name, DATASETS)}; '
            f"choose one of {', '.join(DATASETS)}"
        )
    return DATASETS[name]
