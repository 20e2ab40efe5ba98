"""Fine-tuning as plain values: images, order, model options, augmentation and schedules."""

import math
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.augment.finetune import AugmentSettings
from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.objectives.relative_location import DrlocSettings, check_grid, weight_schedule
from smallvit_jax.plans.data_and_model import Data, LabeledImages, model_options
from smallvit_jax.process.sharding import make_mesh
from smallvit_jax.training import schedules
from smallvit_jax.training.loop import Schedule
from smallvit_jax.training.placement import check_batch

_MIXING = ("mix", "mixup_alpha", "cutmix_alpha")  # applied to batches, not to single images


class Plan(NamedTuple):
    """A config applied to a dataset; building it reports problems before training starts."""

    images: LabeledImages
    order: BatchOrder
    options: dict[str, Any]
    augment: AugmentSettings
    schedule: Schedule
    drloc: DrlocSettings | None


def make_plan(config: ConfigDict, data: Data, *, from_scratch: bool = False) -> Plan:
    """Plans fine-tuning; raises `UserError` if the config and dataset do not fit together."""
    f = config.finetune
    images = data.train.take(data.subsets.labeled)
    order = BatchOrder(
        len(images.labels),
        f.batch_size,
        config.seed,
        passes_per_epoch(config, len(images.labels)),
        field="finetune.batch_size",
    )
    check_batch(order, make_mesh(), config.runtime.accumulate)
    options = model_options(config, data.spec) | {"num_classes": data.info.num_classes}
    drloc = DrlocSettings(**f.drloc) if f.drloc.weight else None
    if drloc:
        check_grid(drloc.weight, options)
    augment = augment_settings(config, data, options["image_size"])
    schedule = make_schedule(config, order.steps_per_epoch, from_scratch=from_scratch)
    return Plan(images, order, options, augment, schedule, drloc)


def passes_per_epoch(config: ConfigDict, labeled: int) -> int:
    """Passes over the labeled images in each epoch."""
    f = config.finetune
    needed = math.ceil(f.min_steps_per_epoch * f.batch_size / max(1, labeled))
    return max(f.passes_per_epoch, needed)


def augment_settings(config: ConfigDict, data: Data, image_size: int) -> AugmentSettings:
    """Returns the per-image augmentation settings; None and "auto" mean the dataset's values."""
    augment = {k: v for k, v in config.finetune.augment.items() if k not in _MIXING}
    if augment["policy"] == "auto":
        augment["policy"] = data.spec.policy
    if augment["crop_padding"] is None:
        augment["crop_padding"] = data.spec.crop_padding
    return AugmentSettings(image_size=image_size, mean=data.info.mean, std=data.info.std, **augment)


def make_schedule(
    config: ConfigDict, steps_per_epoch: int, *, from_scratch: bool = False
) -> Schedule:
    """Returns the schedules of fine-tuning: every value that changes with the step."""
    f, o = config.finetune, config.finetune.optimizer
    warmup = schedules.fit_warmup(o.warmup_epochs, f.epochs, "finetune.optimizer.warmup_epochs")
    steps = f.epochs * steps_per_epoch
    rate = o.scratch_lr if from_scratch and o.scratch_lr is not None else o.lr
    schedule = {
        "learning_rate": schedules.warmup_cosine(
            rate, o.min_lr, steps, round(warmup * steps_per_epoch)
        ),
        "weight_decay": np.full(steps, o.weight_decay),
    }
    if f.drloc.weight:
        schedule["drloc_weight"] = weight_schedule(f.drloc.weight, f.epochs, steps_per_epoch)
    return schedule
