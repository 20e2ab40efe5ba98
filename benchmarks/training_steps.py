"""The real training steps of both stages, split into parts for measurement."""

import contextlib
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.augment.finetune import augment_batch
from smallvit_jax.config import default_config
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives import supervised
from smallvit_jax.plans import finetuning, pretraining
from smallvit_jax.plans.data_and_model import model_options
from smallvit_jax.process import runtime

STAGES = ("pretrain", "finetune")
_STEPS_PER_EPOCH = 10
_MIDDLE = 50 * _STEPS_PER_EPOCH  # a step after every warmup, with the last layer unfrozen


@dataclasses.dataclass(frozen=True)
class TrainingSteps:
    """One stage's step: the complete step on uint8 images, and its two parts.

    Attributes:
      state: a fresh state; pass only copies to functions that donate it.
      images: uint8 batch; `labels` are its labels.
      ready: random inputs for `update`, in place of the output of `augment`.
      schedule: schedule values of a step in the middle of training.
      complete: (state, images, labels, key, schedule) → (state, metrics), as compiled in training.
      augment: (images, key) → views or augmented images.
      update: (state, ready, key, schedule) → (state, metrics); everything except augmentation.
    """

    state: Any
    images: jax.Array
    labels: jax.Array
    ready: Any
    schedule: dict[str, jax.Array]
    complete: Callable
    augment: Callable
    update: Callable


def make_config(
    model: str, stage: str, batch_size: int, objective: str = "dino", **options: Any
) -> ConfigDict:
    """The reference's recipe for CIFAR-10 with the given model and batch size.

    `objective` is pre-training's; `options` are fields of `config.model`, for small models in
    tests.
    """
    config = default_config()
    config.job = stage
    config.model.name, config.dataset.name = model, "cifar10"
    config.pretrain.objective = objective
    config[stage].batch_size = batch_size
    for name, value in options.items():
        config.model[name] = value
    return config


def make_steps(
    model: str, stage: str, batch_size: int, precision: str, **options: Any
) -> TrainingSteps:
    """Builds the stage's step; `precision`, float32 or bfloat16, is set for the whole process."""
    config = make_config(model, stage, batch_size, **options)
    dtype = runtime.prepare(precision, "", True)
    spec = get_dataset("cifar10")
    data = SimpleNamespace(info=spec, spec=spec)
    build = {"pretrain": _pretraining, "finetune": _finetuning}[stage]
    return build(config, model_options(config, spec), dtype, data, _random(batch_size))


def _pretraining(config, options, dtype, data, random) -> TrainingSteps:
    size = options["image_size"]
    views = pretraining.view_settings(config, data, size)
    backbone = create_model(**options, dtype=dtype, seed=config.seed)
    objective = pretrain.build_objective(config, backbone, views, dtype)

    return TrainingSteps(
        state=objective.initial_state(),
        images=random.images(size),
        labels=random.labels(),
        ready=(random.floats(2, size), random.floats(views.local_crops, size // 2)),
        schedule=_row(pretraining.make_schedule(config, _STEPS_PER_EPOCH)),
        complete=pretrain.make_step(objective),
        augment=objective.views,
        update=objective.update,
    )


def _finetuning(config, options, dtype, data, random) -> TrainingSteps:
    size = options["image_size"]
    options = options | {"num_classes": 10}
    model = Functional(create_model(**options, dtype=dtype, seed=config.seed))
    optimizer = finetune.bind_optimizer(config)
    augment = finetuning.augment_settings(config, data, size)

    update = finetune.bind_update(config, model, optimizer)

    return TrainingSteps(
        state=supervised.initial_state(model, optimizer),
        images=random.images(size),
        labels=random.labels(),
        ready=(random.floats(size), random.labels(), random.labels(), jnp.float32(0.7)),
        schedule=_row(finetuning.make_schedule(config, _STEPS_PER_EPOCH)),
        complete=finetune.make_step(config, model, optimizer, augment),
        augment=lambda images, key: augment_batch(images, key, augment),
        update=lambda state, ready, key, schedule: update(state, *ready, key, schedule),
    )


def _row(schedule: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Schedule values of one step in the middle, with the dtypes of the training loop."""
    types = {name: bool if v.dtype == bool else np.float32 for name, v in schedule.items()}
    return {name: jnp.asarray(v[_MIDDLE], types[name]) for name, v in schedule.items()}


def _random(batch_size: int) -> SimpleNamespace:
    """Sources of random batches."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> jax.Array:
        """Normally distributed values of shape [batch, (views,) side, side, 3]."""
        *views, side = shape
        values = rng.standard_normal((batch_size, *views, side, side, 3), np.float32)
        return jnp.asarray(values)

    def images(side: int) -> jax.Array:
        return jnp.asarray(rng.integers(0, 256, (batch_size, side, side, 3), np.uint8))

    def labels() -> jax.Array:
        return jnp.asarray(rng.integers(0, 10, batch_size), jnp.int32)

    return SimpleNamespace(floats=floats, images=images, labels=labels)


@contextlib.contextmanager
def unrolled_loops():
    """Unrolls every `jax.lax.scan` in the models while active.

    Only for measuring what looping over identical blocks costs and saves.
    """

    def scan(body, init, xs=None, length=None, **_):
        length = length or len(jax.tree.leaves(xs)[0])
        outputs, carry = [], init
        for i in range(length):
            carry, output = body(carry, jax.tree.map(lambda x: x[i], xs))  # noqa: B023 called now
            outputs.append(output)
        return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *outputs)

    original, jax.lax.scan = jax.lax.scan, scan
    try:
        yield
    finally:
        jax.lax.scan = original
