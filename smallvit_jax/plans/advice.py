"""Which preset, batch sizes and number of epochs suit a dataset and a machine, as plain values."""

import math
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from smallvit_jax.config.presets import use_own_images_preset, use_small_data_preset
from smallvit_jax.plans.finetuning import passes_per_epoch

MANY_IMAGES = 10_000  # from which on an epoch is long enough for configs/small_data.py
BATCHES_PER_EPOCH = 8  # at least
SMALLEST_BATCH = 16

# Parts of a run that are not measured; seconds on one core of a current processor.
STARTING = 8.0  # imports, and setting up the devices
LOADING_PROGRAMS = 3.0  # for each part; they are compiled already when advice was measured
REPORT = 10.0
PROBE_STEP = 1.5e-3  # of the linear probe of the evaluation


class Preset(NamedTuple):
    """A config file to recommend.

    Attributes:
      file: the config file.
      use: sets its fields.
      fewest_epochs, most_epochs: of pre-training, that are sensible.
      uncropped_from: labels per class from which random crops cost accuracy, as an epoch is then
        one pass over them.
    """

    file: str
    use: Callable[[ConfigDict], None]
    fewest_epochs: int
    most_epochs: int
    uncropped_from: float = math.inf


PRESETS = (
    Preset("configs/own_images.py", use_own_images_preset, 60, 800),
    Preset("configs/small_data.py", use_small_data_preset, 6, 120, uncropped_from=500),
)


class Counts(NamedTuple):
    """The images of a dataset, as one run uses them."""

    training: int  # without labels
    bank: int  # training images that have a label, for kNN and the linear probe
    labeled: int  # for fine-tuning
    test: int


class Costs(NamedTuple):
    """What was measured, in seconds."""

    reading: float  # the dataset
    pretraining: float  # per image
    finetuning: float  # per image
    forward: float  # per image
    neighbors: float  # kNN, per query
    raw_neighbors: float  # kNN on raw pixels, per query


def choose_preset(images: int) -> Preset:
    """The preset for a number of training images."""
    return PRESETS[images >= MANY_IMAGES]


def fit_batches(config: ConfigDict, counts: Counts, devices: int = 1) -> None:
    """Lowers batch sizes, in place, so that an epoch has several batches of images and of labels.

    A batch stays a power of two, or the preset's size, and a multiple of the number of devices.
    """
    for group, images in (("pretrain", counts.training), ("finetune", counts.labeled)):
        largest = max(images // BATCHES_PER_EPOCH, min(images, SMALLEST_BATCH))
        if images and config[group].batch_size > largest:
            config[group].batch_size = 2 ** int(math.log2(largest))
        if config[group].batch_size % devices:
            config[group].batch_size = -(-config[group].batch_size // devices) * devices


def fit_crops(config: ConfigDict, preset: Preset, counts: Counts, classes: int) -> None:
    """Leaves out random crops in fine-tuning, in place, if there are labels enough."""
    if counts.labeled >= preset.uncropped_from * max(1, classes):
        config.finetune.augment.crop_padding = 0


def choose_epochs(config: ConfigDict, preset: Preset, counts: Counts, costs: Costs, seconds: float):
    """Sets the epochs of pre-training, in place, to as many as fit into `seconds` for the run.

    At least the preset's fewest and at most its most; warmup and evaluations keep their share.
    """
    p = config.pretrain
    tenth = p.optimizer.warmup_epochs / p.epochs
    evaluations = p.epochs / p.knn_every
    one = sum(estimate(config, counts, costs).values())
    per_epoch = counts.training // p.batch_size * p.batch_size * costs.pretraining
    epochs = p.epochs + (seconds - one) / per_epoch
    p.epochs = max(preset.fewest_epochs, min(preset.most_epochs, int(epochs)))
    p.optimizer.warmup_epochs = max(1, round(tenth * p.epochs))
    p.knn_every = math.ceil(p.epochs / evaluations)


def estimate(config: ConfigDict, counts: Counts, costs: Costs) -> dict[str, float]:
    """The expected seconds of each part of a recipe, or of pre-training alone without labels."""
    p, f, e = config.pretrain, config.finetune, config.evaluate
    seen = p.epochs * (counts.training // p.batch_size) * p.batch_size
    evaluations = 1 + math.ceil(p.epochs / p.knn_every)
    ranked = min(5000, counts.training)
    tested = bool(counts.bank and counts.test)
    features = ranked + (counts.bank + counts.test) * tested
    parts = {
        "starting and reading": STARTING + costs.reading,
        "pre-training": LOADING_PROGRAMS
        + seen * costs.pretraining
        + evaluations * (features * costs.forward + counts.test * tested * costs.neighbors)
        + counts.test * tested * costs.raw_neighbors,
    }
    if config.job != "recipe":
        return parts | {"report": REPORT}
    steps = f.epochs * (counts.labeled * passes_per_epoch(config, counts.labeled) // f.batch_size)
    evaluations = math.ceil(f.epochs / f.evaluate_every)
    training = (
        LOADING_PROGRAMS
        + steps * f.batch_size * costs.finetuning
        + evaluations * counts.test * costs.forward
    )
    parts["fine-tuning"] = training + (ranked + counts.labeled + counts.test) * costs.forward
    if config.recipe.from_scratch:
        parts["training from scratch"] = training
    sweeps = 2 * counts.test * costs.neighbors
    passes = 2 * (counts.bank + counts.test) * costs.forward  # features, and those of all blocks
    probe = e.probe_epochs * counts.bank / 256 * PROBE_STEP
    parts["evaluation"] = LOADING_PROGRAMS + passes + sweeps + probe
    return parts | {"report": REPORT}
