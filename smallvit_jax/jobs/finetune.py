"""Supervised training: from a pre-trained backbone or from scratch."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from smallvit_jax.augment.finetune import AugmentSettings, augment_batch
from smallvit_jax.augment.mixing import mix_batch
from smallvit_jax.checkpoints.loading import load_backbone
from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.evaluation.accuracy import classification_figures
from smallvit_jax.evaluation.forward import Forward
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives.relative_location import (
    Drloc,
    check_drloc,
    weight_schedule,
    without_head,
)
from smallvit_jax.objectives.supervised import FinetuneState, initial_state, update
from smallvit_jax.plans import data_and_model as inputs
from smallvit_jax.process import runtime
from smallvit_jax.process.sharding import make_mesh, replicate
from smallvit_jax.training import schedules, stage
from smallvit_jax.training.optimizers import make_optimizer
from smallvit_jax.training.placement import check_batch, make_source
from smallvit_jax.workdir.ownership import finished_result, holds_checkpoint
from smallvit_jax.workdir.records import write_result


class Plan(NamedTuple):
    """What a config means for a dataset: all that can be wrong about it, before work begins."""

    images: inputs.Split
    order: BatchOrder
    options: dict[str, Any]
    augment: AugmentSettings
    schedule: stage.Schedule


def plan(config: ConfigDict, data: inputs.Data) -> Plan:
    """Makes the plan of fine-tuning; raises `UserError` for what cannot be carried out."""
    f = config.finetune
    images = data.train.take(data.subsets.labelled)
    order = BatchOrder(
        len(images.labels),
        f.batch_size,
        config.seed,
        f.passes_per_epoch,
        field="finetune.batch_size",
    )
    check_batch(order, make_mesh(), config.runtime.accumulate)
    options = inputs.model_options(config) | {"num_classes": data.info.num_classes}
    check_drloc(f.drloc, options)
    augment = augment_settings(config, options["image_size"], data)
    return Plan(images, order, options, augment, make_schedule(config, order.steps_per_epoch))


def run(
    config: ConfigDict, workdir: Path, data_dir: str | None, init_from: Path | None = None
) -> dict[str, Any]:
    """Fine-tunes in `workdir` and returns what is in its `result.json`.

    `init_from` is the stage that a recipe starts from; without it, `config.finetune.init_from`
    says where to start.
    """
    used = {k: config[k].to_dict() for k in ("dataset", "model", "finetune", "runtime")}
    used["seed"] = config.seed
    if init_from is not None:
        used["finetune"]["init_from"] = f"../{init_from.name}"  # wherever the recipe's folder is
    if done := finished_result(workdir, used):
        print(f"fine-tuning is done already: {workdir}")
        return done

    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache)
    mesh = make_mesh()
    data = inputs.load_data(config, data_dir)
    images, order, options, augment, schedule = plan(config, data)
    classifier = create_model(**options, dtype=dtype, remat=config.runtime.remat, seed=config.seed)
    start = init_from or config.finetune.init_from
    if start and not holds_checkpoint(workdir):  # else the stage's own checkpoint holds more
        print(load_backbone(classifier, start, options))
    model, drloc = Functional(classifier), None
    if config.finetune.drloc.weight:
        drloc_key = runtime.stage_key(config.seed, "drloc")
        features = classifier.num_features
        drloc = Drloc(config.finetune.drloc, options, features, dtype=dtype, key=drloc_key)
    optimizer = bind_optimizer(config)
    with make_source(*images, order, mesh, r.data_placement, r.steps_per_dispatch) as source:
        outcome = stage.run_stage(
            stage.Stage(
                folder=workdir,
                description="fine-tuning" if start else "training from scratch",
                config=used,
                step_function=make_step(config, model, optimizer, augment, drloc),
                schedule=schedule,
                steps_per_epoch=order.steps_per_epoch,
                batch_size=order.batch_size,
                params_of=lambda state: without_head(state.params) | state.buffers,
                meta={"model": options, **inputs.describe_data(data.info)},
                evaluate=AccuracyEvaluator(config, model, data, augment, mesh),
                best_split="validation" if len(data.subsets.validation) else None,
            ),
            replicate(initial_state(model, optimizer, drloc), mesh),
            source,
            runtime.stage_key(config.seed, "finetune"),
            steps_per_dispatch=r.steps_per_dispatch,
            checkpoint_every=r.checkpoint_every,
            profile_steps=r.profile,
        )
    return _write_result(workdir, config, data, str(start), outcome)


def make_step(
    config: ConfigDict,
    model: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    augment: AugmentSettings,
    drloc: Drloc | None = None,
):
    """The step that training compiles: from uint8 images to the next state."""
    a = config.finetune.augment
    from_images = bind_update(config, model, optimizer, drloc)

    def step_function(state, batch, labels, key, schedule):
        augment_key, mix_key, drop_key = jax.random.split(key, 3)
        mixed = mix_batch(
            augment_batch(batch, augment_key, augment),
            labels,
            mix_key,
            a.mix,
            a.mixup_alpha,
            a.cutmix_alpha,
        )
        return from_images(state, *mixed, drop_key, schedule)

    return step_function


def bind_update(
    config: ConfigDict,
    model: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    drloc: Drloc | None = None,
):
    """`update` as the config has it, to be called from the state to the schedule row."""
    return functools.partial(
        update,
        model=model,
        optimizer=optimizer,
        label_smoothing=config.finetune.label_smoothing,
        accumulate=config.runtime.accumulate,
        drloc=drloc,
    )


def bind_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """The optimiser that `config.finetune.optimizer` names."""
    o = config.finetune.optimizer
    return make_optimizer(
        o.name,
        clip=o.clip,
        clip_global=o.clip_global,
        eps=o.eps,
        decay_vectors=o.decay_vectors,
    )


MIXING = ("mix", "mixup_alpha", "cutmix_alpha")  # what happens to batches, not to images


def augment_settings(config: ConfigDict, image_size: int, data: inputs.Data) -> AugmentSettings:
    """What `config.finetune.augment` does to single images; the dataset fills what it leaves."""
    augment = {name: value for name, value in config.finetune.augment.items() if name not in MIXING}
    spec = inputs.dataset_spec(config)
    if augment["policy"] == "auto":
        augment["policy"] = spec.policy
    if augment["crop_padding"] is None:
        augment["crop_padding"] = spec.crop_padding
    return AugmentSettings(image_size=image_size, mean=data.info.mean, std=data.info.std, **augment)


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> stage.Schedule:
    """Every value of fine-tuning that changes with the step."""
    f, o = config.finetune, config.finetune.optimizer
    warmup = schedules.fit_warmup(o.warmup_epochs, f.epochs, "finetune.optimizer.warmup_epochs")
    steps = f.epochs * steps_per_epoch
    drloc = {}
    if f.drloc.weight:
        drloc["drloc_weight"] = weight_schedule(f.drloc.weight, f.epochs, steps_per_epoch)
    return {
        "learning_rate": schedules.warmup_cosine(
            o.lr, o.min_lr, steps, round(warmup * steps_per_epoch)
        ),
        "weight_decay": np.full(steps, o.weight_decay),
        **drloc,
    }


class AccuracyEvaluator:
    """Top-1, top-5 and loss on the test split, and on the validation part when there is one.

    It measures after every `finetune.evaluate_every` epochs and after the last one.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: Functional,
        data: inputs.Data,
        settings: AugmentSettings,
        mesh: jax.sharding.Mesh,
    ):
        self._every, self._epochs = config.finetune.evaluate_every, config.finetune.epochs
        self._splits = {"test": data.test}
        if len(data.subsets.validation):
            self._splits["validation"] = data.train.take(data.subsets.validation)
        self._logits = Forward(
            model,
            "__call__",
            image_size=settings.image_size,
            mean=settings.mean,
            std=settings.std,
            batch_size=config.evaluate.batch_size,
            mesh=mesh,
        )

    def __call__(self, epochs_done: int, state: FinetuneState) -> dict[str, dict[str, float]]:
        if epochs_done == 0 or (epochs_done % self._every and epochs_done != self._epochs):
            return {}
        arrays = state.params | state.buffers
        return {
            name: classification_figures(self._logits(arrays, split.images), split.labels)
            for name, split in self._splits.items()
        }


def _write_result(
    workdir: Path,
    config: ConfigDict,
    data: inputs.Data,
    init_from: str,
    outcome: stage.Outcome,
) -> dict[str, Any]:
    """The last epoch is the result; the best epoch on the test set, as papers quote it, stands
    apart."""
    by_split = {
        name: [row for row in outcome.evaluations if row["split"] == name]
        for name in ("test", "validation")
    }
    test, validation = by_split["test"], by_split["validation"]
    best = max(test, key=lambda row: row["top1"])
    result = {
        "job": "finetune",
        "dataset": data.info.name,
        "init_from": init_from,
        "labelled_images": len(data.subsets.labelled),
        "seed": config.seed,
        "epochs": config.finetune.epochs,
        "steps": outcome.last_metrics["step"],
        "test_top1": test[-1]["top1"],
        "test_top5": test[-1]["top5"],
        "test_loss": test[-1]["loss"],
        "best_on_test_top1": best["top1"],
        "best_on_test_epoch": best["epoch"],
    }
    if validation:
        chosen = max(validation, key=lambda row: (row["top1"], row["step"]))
        result |= {
            "validation_top1": validation[-1]["top1"],
            "best_on_validation_epoch": chosen["epoch"],
            "test_top1_at_best_validation": next(
                row["top1"] for row in test if row["step"] == chosen["step"]
            ),
        }
    result |= {
        "seconds": round(outcome.seconds, 1),
        "images_per_second": outcome.images_per_second,
    }
    return write_result(workdir, result)
