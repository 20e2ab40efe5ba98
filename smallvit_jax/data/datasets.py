"""The dataset table: the properties of each dataset, defined only here."""

from dataclasses import dataclass

from smallvit_jax.errors import UserError, did_you_mean

FOLDER = "folder"  # the name for your own images; not in the table, see `data.folder`

Scale = tuple[float, float]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class DatasetSpec:
    """What the package knows about a dataset before reading it.

    `mean` and `std` are per channel on a scale of 0 to 1, over the training split. `global_scale`
    and `local_scale` are the area ranges of the crops in self-supervised training, as fractions of
    the image. For fine-tuning, `policy` names the AutoAugment policy and `crop_padding` is the
    number of pixels that the random crop adds on each side.
    """

    name: str
    num_classes: int
    image_size: int  # pixels per side for training
    mean: Color
    std: Color
    global_scale: Scale
    local_scale: Scale
    train_images: int = 0  # in the training split; 0: not known before it is read
    stored_size: int = 0  # pixels per side on disk and in memory; 0 means image_size
    squeezed: bool = False  # whole photographs of any shape, scaled to squares
    policy: str = "none"
    crop_padding: int = 4  # as in the reference at 32 and 64 pixels
    builder: str = ""  # TFDS builder, or builder/config; empty: not read from TFDS
    train_split: str = "train"  # the source's name for this split
    test_split: str = "test"
    original: str = ""  # what to download by hand before preparing, and where; empty: nothing

    def __post_init__(self):
        if not self.stored_size:
            object.__setattr__(self, "stored_size", self.image_size)


@dataclass(frozen=True)
class DatasetInfo:
    """What training, checkpoints and reports need to know about a dataset; mean and std on a scale
    of 0 to 1."""

    name: str
    class_names: tuple[str, ...]  # empty for a folder without labels
    num_classes: int
    image_size: int  # for training; stored images may be larger
    mean: Color
    std: Color


# Classes, normalization, policies and crop scales come from the reference (train_ssl.py,
# finetune.py, utils/dataloader.py) unless a comment says otherwise.
_ROWS = (
    DatasetSpec(
        name="cifar10",
        train_images=50_000,
        builder="cifar10",
        num_classes=10,
        image_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        global_scale=(0.7, 1.0),
        local_scale=(0.2, 0.5),
        policy="cifar10",
    ),
    DatasetSpec(
        name="cifar100",
        train_images=50_000,
        builder="cifar100",
        num_classes=100,
        image_size=32,
        mean=(0.5070, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        global_scale=(0.7, 1.0),
        local_scale=(0.2, 0.5),
        policy="cifar10",
    ),
    DatasetSpec(  # trained on `train` only, without the 531,131 images in `extra`
        name="svhn",
        train_images=73_257,
        builder="svhn_cropped",
        num_classes=10,
        image_size=32,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        global_scale=(0.7, 1.0),  # scales: our choice, as for CIFAR
        local_scale=(0.2, 0.5),
        policy="svhn",
    ),
    # The reference tests on `valid` and never uses `test`. Both are random draws of 90,000 from the
    # same images, so results are comparable; we use the split that the authors meant for testing.
    DatasetSpec(
        name="cinic10",
        train_images=90_000,
        builder="cinic10",
        num_classes=10,
        image_size=32,
        mean=(0.47889522, 0.47227842, 0.43047404),
        std=(0.24205776, 0.23828046, 0.25874835),
        global_scale=(0.7, 1.0),  # scales: our choice, as for CIFAR
        local_scale=(0.2, 0.5),
        policy="imagenet",
        original="CINIC-10.tar.gz from https://datashare.ed.ac.uk/handle/10283/3192",
    ),
    DatasetSpec(  # its test split has no labels, so everyone tests on `validation`
        name="tiny_imagenet",
        train_images=100_000,
        builder="tiny_imagenet",
        num_classes=200,
        image_size=64,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        global_scale=(0.5, 1.0),
        local_scale=(0.2, 0.4),
        policy="imagenet",
        test_split="validation",
        original="tiny-imagenet-200.zip from http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ),
    # The reference publishes no recipe for these two. Our choice, not tuned: ImageNet's mean and
    # std, scales as for Tiny-ImageNet, padding by an eighth as at 32 pixels. Stored larger than the
    # training size, so that a crop of three quarters of the area is not enlarged.
    DatasetSpec(
        name="aircraft",
        train_images=6667,
        builder="fgvc_aircraft",
        num_classes=100,
        image_size=224,
        stored_size=256,
        squeezed=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        global_scale=(0.5, 1.0),
        local_scale=(0.2, 0.4),
        policy="imagenet",
        crop_padding=28,
        train_split="trainval",  # papers train on this split
        original="fgvc-aircraft-2013b.tar.gz from "
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    ),
    DatasetSpec(
        name="cars",
        train_images=8144,
        builder="stanford_cars",
        num_classes=196,
        image_size=224,
        stored_size=256,
        squeezed=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        global_scale=(0.5, 1.0),
        local_scale=(0.2, 0.4),
        policy="imagenet",
        crop_padding=28,
        original="a copy of Stanford Cars with class folders, such as "
        "https://www.kaggle.com/datasets/jutrera/stanford-car-dataset-by-classes-folder, or the "
        "files of https://github.com/pytorch/vision/issues/7545",
    ),
    DatasetSpec(  # bundled with scikit-learn; mean and std measured on its training split
        name="digits",
        train_images=1437,
        num_classes=10,
        image_size=16,
        mean=(0.3094, 0.3094, 0.3094),
        std=(0.3475, 0.3475, 0.3475),
        # Our choice, not tuned: a fifth of a digit is a single stroke that many digits share.
        global_scale=(0.7, 1.0),
        local_scale=(0.3, 0.6),
    ),
)

DATASETS: dict[str, DatasetSpec] = {row.name: row for row in _ROWS}


def get_dataset(name: str) -> DatasetSpec:
    """Returns a dataset's entry in the table; raises UserError for an unknown name."""
    if name == FOLDER:
        raise UserError(
            f'dataset.name="{name}" stands for your own images, which are not in the dataset '
            f"table; choose one of {', '.join(DATASETS)} here"
        )
    if name not in DATASETS:
        raise UserError(
            f'dataset.name="{name}" is not in the dataset table{did_you_mean(name, DATASETS)}; '
            f"choose one of {', '.join(DATASETS)}"
        )
    return DATASETS[name]
