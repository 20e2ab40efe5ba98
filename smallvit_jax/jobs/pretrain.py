"""Pre-training without labels as a job, from the config to a trained stage in its folder."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.augment.views import ViewSettings
from smallvit_jax.checkpoints.format import check_fits, flatten
from smallvit_jax.checkpoints.loading import check_same_model
from smallvit_jax.checkpoints.store import read_params_and_meta
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.data.subsets import spread_out
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.forward import Forward
from smallvit_jax.evaluation.neighbors import knn_accuracy
from smallvit_jax.evaluation.rank import rankme
from smallvit_jax.evaluation.verdict import pretraining_advice
from smallvit_jax.models import create_model
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.parameters import Functional
from smallvit_jax.objectives import create_objective
from smallvit_jax.objectives.objective import Objective
from smallvit_jax.plans.data_and_model import Data, DatasetReader, LabeledImages, describe_data
from smallvit_jax.plans.pretraining import make_plan
from smallvit_jax.process import runtime
from smallvit_jax.process.sharding import make_mesh, replicate
from smallvit_jax.training import stage
from smallvit_jax.training.placement import make_source
from smallvit_jax.workdir.ownership import finished_result, holds_checkpoint
from smallvit_jax.workdir.records import write_result

MOST_RAW_BYTES = 2**30  # of float32 pixels that kNN on raw pixels may use
RANKED_IMAGES = 5000  # whose features RankMe is computed from


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Pre-trains in `workdir` and returns the contents of its `result.json`."""
    used = part_of(config, JOBS["pretrain"].uses)
    if done := finished_result(workdir, used):
        print(f"pre-training is already done: {workdir}")
        return done

    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache, r.fused_attention)
    mesh = make_mesh()
    data = reader.load(config)
    images, order, options, views, schedule = make_plan(config, data)
    backbone = create_model(**options, dtype=dtype, remat=r.remat, seed=config.seed)
    objective = build_objective(config, backbone, views, dtype)
    state = objective.initial_state()
    start = config.pretrain.init_from
    resumed = bool(start) and holds_checkpoint(workdir)  # from its own checkpoint
    if start and not resumed:
        state = load_networks(state, start, options, config.pretrain.objective)
        print(f"restored the networks from {start}; optimizer state reset")
    before = None if resumed else jax.device_get(objective.backbone(state))
    with make_source(*images, order, mesh, r.data_placement, r.steps_per_dispatch) as source:
        outcome = stage.run_stage(
            stage.Stage(
                folder=workdir,
                description="pre-training",
                config=used,
                step_function=make_step(objective),
                schedule=schedule,
                steps_per_epoch=order.steps_per_epoch,
                batch_size=order.batch_size,
                params_of=objective.backbone,
                meta={
                    "model": options,
                    "objective": config.pretrain.objective,
                    **describe_data(data.info),
                },
                evaluate=FeatureEvaluator(config, data, images, backbone, objective, mesh),
                warn_about=objective.describe_collapse,
            ),
            replicate(state, mesh),
            source,
            runtime.stage_key(config.seed, "pretrain"),
            steps_per_dispatch=r.steps_per_dispatch,
            checkpoint_every=r.checkpoint_every,
            profile_steps=r.profile,
        )
    after = jax.device_get(objective.backbone(outcome.state))
    moved = None if before is None else relative_change(before, after)
    result = _write_result(workdir, config, data, objective, outcome, moved)
    for sentence in pretraining_advice(result):
        print(sentence)
    return result


def build_objective(
    config: ConfigDict, backbone: ImageModel, views: ViewSettings, dtype
) -> Objective:
    """Builds the config's objective with a newly initialized head."""
    key = runtime.stage_key(config.seed, "projection head")
    return create_objective(config, backbone, views, dtype, key)


def load_networks(state: Any, path: str | Path, options: dict[str, Any], objective: str) -> Any:
    """Returns `state` with everything but the step and the optimizer of an earlier pre-training.

    `options` are the model's. Raises `UserError` if there is no valid checkpoint, or if it has
    another objective, another model or other arrays, listing the options or arrays that differ.
    """
    arrays, meta = read_params_and_meta(path, item="state")
    source = f"pretrain.init_from={path}"
    theirs = meta.get("objective", "dino")
    if not meta["model"]["num_classes"] and theirs != objective:
        raise UserError(
            f"{source} was pre-trained with the objective {theirs}, but pretrain.objective is "
            f"{objective}; choose the same one"
        )
    check_same_model(meta["model"], options, source)
    loaded = state._asdict()
    del loaded["step"], loaded["optimizer"]
    leaves = flatten(loaded)
    table = {
        name: row
        for name, row in meta["arrays"]["state"].items()
        if name.split(".")[0] not in ("step", "optimizer")
    }
    check_fits(table, leaves, source)
    values = [jnp.asarray(arrays[name]) for name in leaves]
    return state._replace(**jax.tree.unflatten(jax.tree.structure(loaded), values))


def make_step(objective: Objective) -> stage.StepFunction:
    """Returns the training step to compile: from uint8 images to the next state."""

    def step_function(state, batch, labels, key, schedule):
        del labels
        view_key, update_key = jax.random.split(key)
        return objective.update(state, objective.views(batch, view_key), update_key, schedule)

    return step_function


def relative_change(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """How far all matrices moved together, in percent of their norm."""
    matrices = [name for name, array in before.items() if array.ndim > 1]
    moved = sum(np.sum(np.square(after[name] - before[name])) for name in matrices)
    norm = sum(np.sum(np.square(before[name])) for name in matrices)
    return float(100 * np.sqrt(moved / norm))


def bind_forward(
    config: ConfigDict,
    backbone: ImageModel,
    image_size: int,
    data: Data,
    mesh: jax.sharding.Mesh,
) -> Forward:
    """The backbone's features for whole splits, on images scaled as in training."""
    return Forward(
        Functional(backbone),
        ("features",),
        image_size=image_size,
        mean=data.info.mean,
        std=data.info.std,
        batch_size=config.evaluate.batch_size,
        mesh=mesh,
    )


class FeatureEvaluator:
    """Judges the backbone's features every few epochs, before the first step and after the last.

    kNN accuracy on the test split, if there are labels; before the first step, also that of raw
    pixels, the baseline, if they fit in memory. RankMe of the features of training images, which
    needs no labels. Nothing is measured if `pretrain.knn_every` is 0.
    """

    def __init__(
        self,
        config: ConfigDict,
        data: Data,
        images: LabeledImages,
        backbone: ImageModel,
        objective: Objective,
        mesh: jax.sharding.Mesh,
    ):
        self._every, self._epochs = config.pretrain.knn_every, config.pretrain.epochs
        self._images, self._test = images, data.test
        self._labeled = np.flatnonzero(images.labels >= 0)
        tested = len(data.test.labels) and (data.test.labels >= 0).all()
        self._has_labels = bool(len(self._labeled) and tested)
        self._objective = objective
        self._features = bind_forward(
            config, backbone, objective.view_settings.image_size, data, mesh
        )
        self._knn = functools.partial(
            knn_accuracy,
            num_classes=data.info.num_classes,
            k=config.evaluate.knn_neighbors,
            temperature=config.evaluate.knn_temperature,
        )

    def __call__(self, epochs_done: int, state: Any) -> dict[str, dict[str, float]]:
        if not self._every or (epochs_done % self._every and epochs_done != self._epochs):
            return {}
        arrays = self._objective.backbone(state)

        def features(images):
            return self._features(arrays, images)["features"]

        everything = np.arange(len(self._images.labels))
        sample = features(self._images.images[spread_out(everything, RANKED_IMAGES)])
        ranked = {"features": {"rankme": rankme(sample)}}
        if not self._has_labels:
            return ranked
        bank = self._images.images[self._labeled]
        figures = {"top1": self._accuracy(features(bank), features(self._test.images))}
        if epochs_done == 0 and bank.size * 4 <= MOST_RAW_BYTES:
            raw = (
                images.reshape(len(images), -1).astype(np.float32) / 255
                for images in (bank, self._test.images)
            )
            figures["raw_pixels"] = self._accuracy(*raw)
        return {"knn": figures} | ranked

    def _accuracy(self, bank, queries) -> float:
        labels = self._images.labels[self._labeled]
        return self._knn(bank, labels, queries, self._test.labels)


def _write_result(
    workdir: Path,
    config: ConfigDict,
    data: Data,
    objective: Objective,
    outcome: stage.Outcome,
    moved: float | None,
) -> dict[str, Any]:
    knn = [row for row in outcome.evaluations if row["split"] == "knn"]
    ranks = [row["rankme"] for row in outcome.evaluations if row["split"] == "features"]
    last = outcome.last_metrics
    result = {
        "job": "pretrain",
        "objective": config.pretrain.objective,
        "dataset": data.info.name,
        "images": len(data.subsets.unlabeled),
        "seed": config.seed,
        "epochs": config.pretrain.epochs,
        "steps": last["step"],
        "knn_raw_pixels": knn[0].get("raw_pixels") if knn else None,
        "knn_before": knn[0]["top1"] if knn else None,
        "knn_after": knn[-1]["top1"] if knn else None,
        "rankme_before": ranks[0] if ranks else None,
        "rankme_after": ranks[-1] if ranks else None,
        "weights_moved": moved,
        **{name: last[name] for name in objective.reported},
        "seconds": round(outcome.seconds, 1),
        "images_per_second": outcome.images_per_second,
    }
    return write_result(workdir, result)
