"""Shared code of config files: parsing of their arguments, and sets of fields."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from smallvit_jax.config.choices import MODELS
from smallvit_jax.data.datasets import DATASETS, FOLDER
from smallvit_jax.errors import UserError, did_you_mean

DATASET_NAMES = (*DATASETS, FOLDER)
_SMALL = ",small"


def set_model_and_dataset(config: ConfigDict, argument: str) -> None:
    """Sets model and dataset from "MODEL,DATASET", the argument of `configs/recipe.py` and others.

    DATASET is as in `set_dataset`. Raises UserError if the argument has another form or names an
    unknown model or dataset.
    """
    model, _, dataset = (part.strip() for part in argument.partition(","))
    if not dataset or ("," in dataset and not dataset.startswith(f"{FOLDER}:")):
        raise UserError(
            'the argument of the config file must be MODEL,DATASET like "vit,cifar10" or '
            f'"vit,folder:PATH", not "{argument}"'
        )
    _check_name("model", model, MODELS)
    config.model.name = model
    set_dataset(config, dataset)


def set_dataset(config: ConfigDict, argument: str) -> None:
    """Sets the dataset from "DATASET", the argument of `configs/evaluate.py` and others.

    It is a name from the dataset table, or "folder:PATH" for your own images. Raises UserError for
    an unknown dataset.
    """
    name, colon, root = argument.strip().partition(":")
    if name != FOLDER:
        name, root = argument.strip(), ""
    _check_name("dataset", name, DATASET_NAMES)
    if colon and not root:
        raise UserError(f'the argument "{argument}" has no folder; write folder:PATH')
    config.dataset.name, config.dataset.root = name, root


def set_folder_or_dataset(config: ConfigDict, argument: str, file: str) -> None:
    """Sets the dataset from "PATH", a folder, or "DATASET", as in `configs/own_images.py`.

    "folder:PATH" is for a folder whose path is also a dataset's name. Raises UserError if there is
    no argument; `file` is the config file that needs it.
    """
    if not argument:
        raise UserError(
            f"configs/{file} needs the folder of your images, as in --config configs/{file}:photos"
        )
    known = argument in DATASETS or argument.startswith(f"{FOLDER}:")
    set_dataset(config, argument if known else f"{FOLDER}:{argument}")


def set_dataset_and_size(config: ConfigDict, argument: str) -> None:
    """Sets the dataset and size from "DATASET" or "DATASET,small", as in `configs/compare.py`.

    Raises UserError for an unknown dataset.
    """
    set_dataset(config, argument.removesuffix(_SMALL))
    if argument.endswith(_SMALL):
        make_small(config)


def use_lejepa(config: ConfigDict) -> None:
    """Sets LeJEPA with the settings that its runs of minutes share."""
    pretrain = config.pretrain
    pretrain.objective = "lejepa"
    pretrain.batch_size = 64  # many steps from few images
    pretrain.views.local_crops = 4  # half of the reference's: more images in the same time
    _decay_and_clip(config)  # the first steps, far from a Gaussian, have large gradients


def _decay_and_clip(config: ConfigDict) -> None:
    """Sets a constant weight decay and one clip for the whole gradient, for high learning rates."""
    optimizer = config.pretrain.optimizer
    optimizer.weight_decay = 0.05
    optimizer.weight_decay_end = 0.05
    optimizer.clip = 0.0
    optimizer.clip_global = 5.0


def use_mimetic(config: ConfigDict) -> None:
    """Sets mimetic initialization, which needs mean pooling and fixed positions."""
    config.model.pool = "mean"
    config.model.pos_embed = "sincos"
    config.model.init = "mimetic"


def use_own_images_preset(config: ConfigDict) -> None:
    """Sets `configs/own_images.py`: the recipe for hundreds to thousands of images."""
    _use_masked_autoencoding(config)
    pretrain = config.pretrain
    pretrain.epochs = 400
    pretrain.knn_every = 200  # three times in all
    pretrain.optimizer.warmup_epochs = 40  # a tenth

    finetune = config.finetune
    finetune.epochs = 20
    finetune.batch_size = 32  # many steps from few images
    finetune.optimizer.warmup_epochs = 2  # a tenth, as in the reference
    finetune.min_steps_per_epoch = 40  # with any number of labels
    finetune.augment.mix = 0.0  # mixed images hurt with some hundred labels


def use_small_data_preset(config: ConfigDict) -> None:
    """Sets `configs/small_data.py`: the recipe for tens of thousands of images."""
    _use_masked_autoencoding(config)
    pretrain = config.pretrain
    pretrain.epochs = 30
    pretrain.knn_every = 15  # three times in all
    pretrain.optimizer.warmup_epochs = 3  # a tenth
    _tune_in_900_steps(config)
    finetune = config.finetune
    finetune.min_steps_per_epoch = 100  # with any number of labels
    finetune.augment.crop_padding = None  # the dataset's; it helps in many passes


def _use_masked_autoencoding(config: ConfigDict) -> None:
    """A narrow ViT that learns by masked autoencoding, is fine-tuned with few labels, and for
    comparison trained from scratch."""
    make_narrow(config)  # a model that learns within minutes on a laptop
    use_mimetic(config)  # with it, each image teaches more
    config.recipe.from_scratch = True  # shows whether pre-training helped
    pretrain = config.pretrain
    pretrain.objective = "mae"  # cheap per image; fine-tuned, better than LeJEPA in the same time
    pretrain.batch_size = 128
    pretrain.optimizer.base_lr = 16e-3  # 8e-3 at this batch size
    _decay_and_clip(config)
    finetune = config.finetune
    finetune.head_init = "auto"  # a probe with few labels
    finetune.optimizer.lr = 4e-3  # with layer_decay; both together keep more of what was learned
    finetune.optimizer.scratch_lr = 1e-3  # the best from scratch
    finetune.layer_decay = 0.65  # from a probe and from a random classifier alike


def make_narrow(config: ConfigDict) -> None:
    """Sets a ViT that trains in minutes without a GPU, and a projection head to match."""
    config.model.width = 64  # a third of the reference's, a ninth of its parameters per block
    config.model.depth = 4  # the reference has 9 blocks
    config.model.heads = 4  # 16 channels per head, as in the reference
    config.model.init = "fan_in"  # the reference's std of .02 collapses at this width

    pretrain = config.pretrain
    pretrain.teacher.temperature = 0.02  # the reference's .04 to .07 drift into uniform outputs
    pretrain.teacher.warmup_temperature = 0.02  # no warmup
    pretrain.head.out_dim = 256  # prototypes for a few thousand images, not for 50,000
    pretrain.head.hidden_dim = 128  # twice the width of the model
    pretrain.head.bottleneck_dim = 64  # as wide as the model


def make_small(config: ConfigDict) -> None:
    """Sets a tenth of the labels and a narrow model, for runs of a few minutes on a CPU."""
    make_narrow(config)
    config.dataset.label_fraction = 0.1  # 5,000 images of CIFAR-10
    config.compare.targets = (30.0, 40.0, 50.0)  # higher accuracies are out of reach

    use_lejepa(config)  # which any model can use
    pretrain = config.pretrain
    pretrain.epochs = 6  # 300,000 images of CIFAR-10
    pretrain.knn_every = 6  # before the first step and after the last
    pretrain.batch_size = 128
    pretrain.optimizer.base_lr = 8e-3  # 4e-3 at this batch size
    pretrain.optimizer.warmup_epochs = 1
    pretrain.lejepa.directions = 128  # a larger batch needs fewer
    _tune_in_900_steps(config)


def _tune_in_900_steps(config: ConfigDict) -> None:
    """Sets fine-tuning with 5,000 labels in two minutes; others take steps in proportion."""
    finetune = config.finetune
    finetune.epochs = 9  # augmentation would hurt in so few epochs
    finetune.passes_per_epoch = 1
    finetune.batch_size = 50  # 100 steps per epoch
    finetune.evaluate_every = 3  # 10,000 test images take as long as an epoch
    finetune.optimizer.warmup_epochs = 1
    finetune.augment.crop_padding = 0
    finetune.augment.policy = "none"
    finetune.augment.mix = 0.0
    finetune.augment.erase = 0.0


def _check_name(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        swapped = kind == "model" and name in DATASETS
        hint = " (the model comes first, as in vit,cifar10)" if swapped else ""
        raise UserError(
            f'there is no {kind} "{name}"{hint or did_you_mean(name, known)}; known: '
            f"{', '.join(known)}"
        )
