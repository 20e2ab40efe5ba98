"""Pre-training without labels as a job, from the config to a trained stage in its folder."""

import functools
from pathlib import Path
from typing import Any

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
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.evaluation.forward import Forward
from smallvit_jax.evaluation.neighbors import knn_accuracy
from smallvit_jax.models import create_model
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives.dino import (
    PretrainState,
    describe_collapse,
    initial_state,
    is_last_layer,
    teacher_backbone,
    update,
)
from smallvit_jax.plans.data_and_model import Data, DatasetReader, LabeledImages, describe_data
from smallvit_jax.plans.pretraining import make_plan
from smallvit_jax.process import runtime
from smallvit_jax.process.sharding import make_mesh, replicate
from smallvit_jax.training import stage
from smallvit_jax.training.optimizers import make_optimizer
from smallvit_jax.training.placement import make_source
from smallvit_jax.workdir.ownership import finished_result, holds_checkpoint
from smallvit_jax.workdir.records import write_result

MOST_RAW_BYTES = 2**30  # of float32 pixels that kNN on raw pixels may use


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Pre-trains in `workdir` and returns the contents of its `result.json`."""
    used = part_of(config, JOBS["pretrain"].uses)
    if done := finished_result(workdir, used):
        print(f"pre-training is already done: {workdir}")
        return done

    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache)
    mesh = make_mesh()
    data = reader.load(config)
    images, order, options, views, schedule = make_plan(config, data)
    out_dim = config.pretrain.head.out_dim
    network, backbone = build_network(config, options, dtype)
    optimizer = bind_optimizer(config)
    state = initial_state(network, optimizer, out_dim)
    start = config.pretrain.init_from
    if start and not holds_checkpoint(workdir):  # else it resumes from its own checkpoint
        state = load_networks(state, start, options)
        print(f"restored student, teacher and center from {start}; optimizer state reset")
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
                meta={"model": options, **describe_data(data.info)},
                evaluate=KnnEvaluator(config, data, images, backbone, views, mesh),
                warn_about=lambda means: describe_collapse(
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
    """Returns the newly initialized student, and its backbone alone."""
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
    """Returns `state` with the student, teacher and center of an earlier pre-training.

    `options` are the model's. Raises `UserError` if there is no valid checkpoint, or if it has
    another model or does not fit, listing the options or arrays.
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


def bind_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """Builds the optimizer that `config.pretrain.optimizer` describes."""
    o = config.pretrain.optimizer
    return make_optimizer(o.name, clip=o.clip, freezable=is_last_layer)


def make_step(
    config: ConfigDict,
    network: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    views: ViewSettings,
) -> stage.StepFunction:
    """Returns the training step to compile: from uint8 images to the next state."""
    from_views = bind_update(config, network, optimizer)

    def step_function(state, batch, labels, key, schedule):
        del labels
        view_key, drop_key = jax.random.split(key)
        return from_views(state, multi_crop(batch, view_key, views), drop_key, schedule)

    return step_function


def bind_update(
    config: ConfigDict, network: Functional, optimizer: optax.GradientTransformationExtraArgs
):
    """Binds the config's settings to `update`: (state, views, key, schedule) → (state, metrics)."""
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


class KnnEvaluator:
    """kNN accuracy of the teacher's features on the test split, every few epochs.

    Before the first step, also that of raw pixels, the baseline, if they fit in memory. Nothing is
    measured without labels or if `pretrain.knn_every` is 0.
    """

    def __init__(
        self,
        config: ConfigDict,
        data: Data,
        images: LabeledImages,
        backbone: Functional,
        views: ViewSettings,
        mesh: jax.sharding.Mesh,
    ):
        self._every, self._epochs = config.pretrain.knn_every, config.pretrain.epochs
        labeled = images.labels >= 0
        self._bank, self._queries = images.take(np.flatnonzero(labeled)), data.test
        tested = len(data.test.labels) and (data.test.labels >= 0).all()
        self._on = bool(self._every and labeled.any() and tested)
        self._features = Forward(
            backbone,
            ("features",),
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
        figures = {
            "top1": self._accuracy(lambda images: self._features(arrays, images)["features"])
        }
        if epochs_done == 0 and self._bank.images.size * 4 <= MOST_RAW_BYTES:
            figures["raw_pixels"] = self._accuracy(
                lambda images: images.reshape(len(images), -1).astype(np.float32) / 255
            )
        return {"knn": figures}

    def _accuracy(self, features) -> float:
        bank, queries = (features(split.images) for split in (self._bank, self._queries))
        return self._knn(bank, self._bank.labels, queries, self._queries.labels)


def _write_result(
    workdir: Path, config: ConfigDict, data: Data, outcome: stage.Outcome
) -> dict[str, Any]:
    knn = [row for row in outcome.evaluations if row["split"] == "knn"]
    last = outcome.last_metrics
    result = {
        "job": "pretrain",
        "dataset": data.info.name,
        "images": len(data.subsets.unlabeled),
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
