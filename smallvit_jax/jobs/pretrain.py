"""Self-supervised pre-training as a job: from the config to a trained stage in its folder."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from smallvit_jax.augment.views import ViewSettings, multi_crop
from smallvit_jax.checkpoints.format import check_fits, flatten
from smallvit_jax.checkpoints.loading import check_same_model
from smallvit_jax.checkpoints.store import read_params_and_meta
from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.forward import Forward
from smallvit_jax.evaluation.neighbors import knn_accuracy
from smallvit_jax.models import create_model
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives import dino_loss as objective
from smallvit_jax.objectives.dino import (
    PretrainState,
    initial_state,
    is_last_layer,
    teacher_backbone,
    update,
)
from smallvit_jax.plans import data_and_model as inputs
from smallvit_jax.process import runtime
from smallvit_jax.process.sharding import make_mesh, replicate
from smallvit_jax.training import schedules, stage
from smallvit_jax.training.optimizers import make_optimizer
from smallvit_jax.training.placement import check_batch, make_source
from smallvit_jax.workdir.ownership import finished_result, holds_checkpoint
from smallvit_jax.workdir.records import write_result

MOST_RAW_BYTES = 2**30  # of float32 pixels that the kNN on raw pixels may hold


class Plan(NamedTuple):
    """What a config means for a dataset: all that can be wrong about it, before work begins."""

    images: inputs.Split
    order: BatchOrder
    options: dict[str, Any]
    views: ViewSettings
    schedule: stage.Schedule


def plan(config: ConfigDict, data: inputs.Data) -> Plan:
    """Makes the plan of pre-training; raises `UserError` for what cannot be carried out."""
    p = config.pretrain
    images = data.train.take(data.subsets.unlabelled)
    order = BatchOrder(len(images.labels), p.batch_size, config.seed, field="pretrain.batch_size")
    check_batch(order, make_mesh(), config.runtime.accumulate)
    options = inputs.model_options(config)
    views = view_settings(config, options["image_size"], data)
    _check_local_crops(views, options)
    return Plan(images, order, options, views, make_schedule(config, order.steps_per_epoch))


def _check_local_crops(views: ViewSettings, options: dict[str, Any]) -> None:
    """Raises `UserError` where a model cannot take images of half the size."""
    local_size, patch_size = views.image_size / 2, options.get("patch_size")
    if not views.local_crops or local_size % (patch_size or 1) == 0:
        return
    if patch_size:
        problem = f"which patches of {patch_size} do not fill; choose another model.patch_size"
    else:
        problem = "which is no whole number; choose an even model.image_size"
    raise UserError(
        f"local crops have {local_size:g} pixels per side, half of model.image_size="
        f"{views.image_size}, {problem}, or pretrain.views.local_crops=0"
    )


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Pre-trains in `workdir` and returns what is in its `result.json`."""
    used = {k: config[k].to_dict() for k in ("dataset", "model", "pretrain", "runtime")}
    used["seed"] = config.seed
    used["evaluate"] = {k: config.evaluate[k] for k in ("knn_neighbors", "knn_temperature")}
    if done := finished_result(workdir, used):
        print(f"pre-training is done already: {workdir}")
        return done

    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache)
    mesh = make_mesh()
    data = inputs.load_data(config, data_dir)
    images, order, options, views, schedule = plan(config, data)
    out_dim = config.pretrain.head.out_dim
    network, backbone = build_network(config, options, dtype)
    optimizer = make_optimizer(
        config.pretrain.optimizer.name,
        clip=config.pretrain.optimizer.clip,
        freezable=is_last_layer,
    )
    state = initial_state(network, optimizer, out_dim)
    start = config.pretrain.init_from
    if start and not holds_checkpoint(workdir):  # else the stage's own checkpoint holds more
        state = load_networks(state, start, options)
        print(f"student, teacher and centre are those of {start}; the optimiser begins anew")
    with make_source(*images, order, mesh, r.data_placement, r.steps_per_dispatch) as source:
        outcome = stage.run_stage(
            stage.Stage(
                folder=workdir,
                description="pre-training",
                config=used,
                step_function=make_step(config, network, optimizer, views),
                schedule=schedule,
                steps_per_epoch=order.steps_per_epoch,
                batch_size=order.batch_size,
                params_of=teacher_backbone,
                meta={"model": options, **inputs.describe_data(data.info)},
                evaluate=KnnEvaluator(config, data, images, backbone, views, mesh),
                warn_about=lambda means: objective.describe_collapse(
                    means["mutual_information"], means["teacher_entropy"], out_dim
                ),
            ),
            replicate(state, mesh),
            source,
            runtime.stage_key(config.seed, "pretrain"),
            steps_per_dispatch=r.steps_per_dispatch,
            checkpoint_every=r.checkpoint_every,
            profile_steps=r.profile,
        )
    return _write_result(workdir, config, data, outcome)


def build_network(
    config: ConfigDict, options: dict[str, Any], dtype
) -> tuple[Functional, Functional]:
    """The freshly initialised student, and its backbone alone."""
    backbone = create_model(**options, dtype=dtype, remat=config.runtime.remat, seed=config.seed)
    head = ProjectionHead(
        backbone.num_features,
        **config.pretrain.head,
        init=config.model.init,
        dtype=dtype,
        rngs=nnx.Rngs(runtime.stage_key(config.seed, "projection head")),
    )
    return Functional(ViewNetwork(backbone, head)), Functional(backbone)


def load_networks(state: PretrainState, path: str | Path, options: dict[str, Any]) -> PretrainState:
    """A first state with the student, teacher and centre of an earlier pre-training.

    `options` are the model's. Raises `UserError` where there is no sound checkpoint, or it is of
    another model or does not fit, naming options or arrays.
    """
    arrays, meta = read_params_and_meta(path, item="state")
    check_same_model(meta["model"], options, f"pretrain.init_from={path}")
    loaded = state._asdict()
    del loaded["step"], loaded["optimizer"]
    leaves = flatten(loaded)
    table = {k: row for k, row in meta["arrays"]["state"].items() if k.split(".")[0] in loaded}
    check_fits(table, leaves, f"pretrain.init_from={path}")
    values = [jnp.asarray(arrays[name]) for name in leaves]
    return state._replace(**jax.tree.unflatten(jax.tree.structure(loaded), values))


def make_step(
    config: ConfigDict,
    network: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    views: ViewSettings,
):
    """The step that training compiles: from uint8 images to the next state."""
    from_views = bind_update(config, network, optimizer)

    def step_function(state, batch, labels, key, schedule):
        del labels
        view_key, drop_key = jax.random.split(key)
        return from_views(state, multi_crop(batch, view_key, views), drop_key, schedule)

    return step_function


def bind_update(
    config: ConfigDict, network: Functional, optimizer: optax.GradientTransformationExtraArgs
):
    """`update` as the config has it: (state, views, key, schedule row) → (state, metrics)."""
    p = config.pretrain
    return functools.partial(
        update,
        network=network,
        optimizer=optimizer,
        student_temperature=p.student_temperature,
        center_momentum=p.teacher.center_momentum,
        teacher_drop_path=p.teacher.drop_path,
        accumulate=config.runtime.accumulate,
    )


def view_settings(config: ConfigDict, image_size: int, data: inputs.Data) -> ViewSettings:
    """The views that `config.pretrain.views` describes; scales left open are the dataset's."""
    views = dict(config.pretrain.views)
    spec = inputs.dataset_spec(config)
    for scale in ("global_scale", "local_scale"):
        views[scale] = views[scale] or getattr(spec, scale)
    return ViewSettings(image_size=image_size, mean=data.info.mean, std=data.info.std, **views)


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> stage.Schedule:
    """Every value of pre-training that changes with the step."""
    p = config.pretrain
    steps = p.epochs * steps_per_epoch
    scale = p.batch_size / 256
    warmup = schedules.fit_warmup(
        p.optimizer.warmup_epochs, p.epochs, "pretrain.optimizer.warmup_epochs"
    )
    temperature_epochs = schedules.fit_warmup(
        p.teacher.warmup_temperature_epochs,
        p.epochs,
        "pretrain.teacher.warmup_temperature_epochs",
        whole=True,
    )
    o, t = p.optimizer, p.teacher
    return {
        "learning_rate": schedules.cosine(
            o.base_lr * scale, o.min_lr, steps, round(warmup * steps_per_epoch)
        ),
        "weight_decay": schedules.cosine(o.weight_decay, o.weight_decay_end, steps),
        "teacher_momentum": schedules.cosine(t.momentum, 1.0, steps),
        "teacher_temperature": schedules.teacher_temperature(
            t.warmup_temperature,
            t.temperature,
            int(temperature_epochs),
            p.epochs,
            steps_per_epoch,
        ),
        "frozen": np.arange(steps) < p.freeze_last_layer_epochs * steps_per_epoch,
    }


class KnnEvaluator:
    """kNN accuracy of the teacher's features on the test split, every few epochs.

    Before the first step it also measures raw pixels, the figure to beat, where they fit into
    memory. Without labels, or with `pretrain.knn_every` 0, it measures nothing.
    """

    def __init__(
        self,
        config: ConfigDict,
        data: inputs.Data,
        images: inputs.Split,
        backbone: Functional,
        views: ViewSettings,
        mesh: jax.sharding.Mesh,
    ):
        self._every, self._epochs = config.pretrain.knn_every, config.pretrain.epochs
        labelled = images.labels >= 0
        self._bank, self._queries = images.take(np.flatnonzero(labelled)), data.test
        tested = len(data.test.labels) and (data.test.labels >= 0).all()
        self._on = bool(self._every and labelled.any() and tested)
        self._features = Forward(
            backbone,
            "features",
            image_size=views.image_size,
            mean=views.mean,
            std=views.std,
            batch_size=config.evaluate.batch_size,
            mesh=mesh,
        )
        self._knn = functools.partial(
            knn_accuracy,
            num_classes=data.info.num_classes,
            k=config.evaluate.knn_neighbors,
            temperature=config.evaluate.knn_temperature,
        )

    def __call__(self, epochs_done: int, state: PretrainState) -> dict[str, dict[str, float]]:
        if not self._on or (epochs_done % self._every and epochs_done != self._epochs):
            return {}
        arrays = teacher_backbone(state)
        figures = {"top1": self._accuracy(lambda images: self._features(arrays, images))}
        if epochs_done == 0 and self._bank.images.size * 4 <= MOST_RAW_BYTES:
            figures["raw_pixels"] = self._accuracy(
                lambda images: images.reshape(len(images), -1).astype(np.float32) / 255
            )
        return {"knn": figures}

    def _accuracy(self, features) -> float:
        bank, queries = (features(split.images) for split in (self._bank, self._queries))
        return self._knn(bank, self._bank.labels, queries, self._queries.labels)


def _write_result(
    workdir: Path, config: ConfigDict, data: inputs.Data, outcome: stage.Outcome
) -> dict[str, Any]:
    knn = [row for row in outcome.evaluations if row["split"] == "knn"]
    last = outcome.last_metrics
    result = {
        "job": "pretrain",
        "dataset": data.info.name,
        "images": len(data.subsets.unlabelled),
        "seed": config.seed,
        "epochs": config.pretrain.epochs,
        "steps": last["step"],
        "knn_raw_pixels": knn[0].get("raw_pixels") if knn else None,
        "knn_before": knn[0]["top1"] if knn else None,
        "knn_after": knn[-1]["top1"] if knn else None,
        "loss": last["loss"],
        "teacher_entropy": last["teacher_entropy"],
        "mutual_information": last["mutual_information"],
        "seconds": round(outcome.seconds, 1),
        "images_per_second": outcome.images_per_second,
    }
    return write_result(workdir, result)
