"""The training step of each stage as the stage runs it, to be measured or compiled elsewhere."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.models import create_model
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives.supervised import initial_state
from smallvit_jax.plans import finetuning, pretraining
from smallvit_jax.plans.data_and_model import Data, LabeledImages
from smallvit_jax.training.loop import Schedule, StepFunction


class StageStep(NamedTuple):
    """A stage's step function, and what it is called with."""

    function: StepFunction
    state: Any
    model: ImageModel
    images: LabeledImages
    order: BatchOrder
    schedule: Schedule


def pretraining_step(config: ConfigDict, data: Data, dtype: Any) -> StageStep:
    """The step of pre-training; raises `UserError` if config and dataset do not fit together."""
    images, order, options, views, schedule = pretraining.make_plan(config, data)
    backbone = create_model(**options, dtype=dtype, remat=config.runtime.remat, seed=config.seed)
    objective = pretrain.build_objective(config, backbone, views, dtype)
    step = pretrain.make_step(objective)
    return StageStep(step, objective.initial_state(), backbone, images, order, schedule)


def finetuning_step(config: ConfigDict, data: Data, dtype: Any) -> StageStep:
    """The step of fine-tuning, without drloc; raises `UserError` as `pretraining_step`."""
    images, order, options, augment, schedule, _ = finetuning.make_plan(config, data)
    classifier = create_model(**options, dtype=dtype, remat=config.runtime.remat, seed=config.seed)
    model, optimizer = Functional(classifier), finetune.bind_optimizer(config)
    step = finetune.make_step(config, model, optimizer, augment)
    averaged = bool(config.finetune.ema_decay)
    state = initial_state(model, optimizer, averaged=averaged)
    return StageStep(step, state, classifier, images, order, schedule)


STEPS = {"pretrain": pretraining_step, "finetune": finetuning_step}
