"""Pre-training as plain values: images, order, model options, views and schedules."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from smallvit_jax.augment.views import ViewSettings
from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.errors import UserError
from smallvit_jax.objectives import OBJECTIVES
from smallvit_jax.plans.data_and_model import Data, LabeledImages, model_options
from smallvit_jax.process.sharding import make_mesh
from smallvit_jax.training import schedules
from smallvit_jax.training.loop import Schedule
from smallvit_jax.training.placement import check_batch


class Plan(NamedTuple):
    """A config applied to a dataset; building it reports problems before training starts."""

    images: LabeledImages
    order: BatchOrder
    options: dict[str, Any]
    views: ViewSettings
    schedule: Schedule


def make_plan(config: ConfigDict, data: Data) -> Plan:
    """Plans pre-training; raises `UserError` if the config and dataset do not fit together."""
    p = config.pretrain
    images = data.train.take(data.subsets.unlabeled)
    order = BatchOrder(len(images.labels), p.batch_size, config.seed, field="pretrain.batch_size")
    check_batch(order, make_mesh(), config.runtime.accumulate)
    options = model_options(config, data.spec)
    OBJECTIVES[p.objective].check(config, options)
    views = view_settings(config, data, options["image_size"])
    _check_local_crops(views, options)
    return Plan(images, order, options, views, make_schedule(config, order.steps_per_epoch))


def view_settings(config: ConfigDict, data: Data, image_size: int) -> ViewSettings:
    """Returns the settings of the views that the objective uses.

    They are those of `config.pretrain.views`; scales of None mean the dataset's.
    """
    views = dict(config.pretrain.views)
    for scale in ("global_scale", "local_scale"):
        views[scale] = views[scale] or getattr(data.spec, scale)
    settings = ViewSettings(image_size=image_size, mean=data.info.mean, std=data.info.std, **views)
    return OBJECTIVES[config.pretrain.objective].adapt(settings)


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> Schedule:
    """Returns the schedules of pre-training: every value that changes with the step."""
    p = config.pretrain
    steps = p.epochs * steps_per_epoch
    scale = p.batch_size / 256
    warmup = schedules.fit_warmup(
        p.optimizer.warmup_epochs, p.epochs, "pretrain.optimizer.warmup_epochs"
    )
    o = p.optimizer
    return {
        "learning_rate": schedules.cosine(
            o.base_lr * scale, o.min_lr, steps, round(warmup * steps_per_epoch)
        ),
        "weight_decay": schedules.cosine(o.weight_decay, o.weight_decay_end, steps),
        **OBJECTIVES[p.objective].schedule(config, steps_per_epoch),
    }


def _check_local_crops(views: ViewSettings, options: dict[str, Any]) -> None:
    """Raises `UserError` if the model cannot take local crops, which have half the image size."""
    local_size, patch_size = views.image_size / 2, options.get("patch_size")
    if not views.local_crops or local_size % (patch_size or 1) == 0:
        return
    if patch_size:
        problem = f"but model.patch_size={patch_size} does not divide that; choose another one"
    else:
        problem = "but need a whole number; choose an even model.image_size"
    raise UserError(
        f"local crops have {local_size:g} pixels per side, half of model.image_size="
        f"{views.image_size}, {problem}, or set pretrain.views.local_crops=0"
    )
