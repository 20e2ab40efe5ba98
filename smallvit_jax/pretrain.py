"""Self-supervised pre-training: student, teacher, centre and optimiser in one jitted step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from smallvit_jax import inputs, objective
from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.augment.views import ViewSettings, multi_crop
from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.data.placement import make_source
from smallvit_jax.evaluation.accuracy import knn_accuracy
from smallvit_jax.evaluation.forward import forward_all
from smallvit_jax.models import create_model
from smallvit_jax.models.heads import ProjectionHead, ViewNetwork
from smallvit_jax.models.parameters import Arrays, Functional
from smallvit_jax.training import runtime, schedules, stage
from smallvit_jax.training.optimizers import make_optimizer
from smallvit_jax.training.sharding import make_mesh, replicate


class PretrainState(NamedTuple):
    """Everything that pre-training needs to continue."""

    step: Int[Array, ""]
    student: Arrays
    student_buffers: Arrays
    teacher: Arrays
    teacher_buffers: Arrays
    center: Float[Array, " out_dim"]
    optimizer: Any


def is_last_layer(name: str) -> bool:
    """Chooses the parameters that stand still in the first epochs."""
    return ".last_layer." in name


def initial_state(
    network: Functional, optimizer: optax.GradientTransformation, out_dim: int
) -> PretrainState:
    """The state before the first step: the teacher is a copy of the student, the centre 0."""
    return PretrainState(
        step=jnp.zeros((), jnp.int32),
        student=network.trainable,
        student_buffers=network.buffers,
        teacher=network.trainable,
        teacher_buffers=network.buffers,
        center=jnp.zeros(out_dim),
        optimizer=optimizer.init(network.trainable),
    )


def update(
    state: PretrainState,
    views: Sequence[Float[Array, "batch _ _ _ 3"]],
    key: jax.Array | None,
    schedule: dict[str, Float[Array, ""]],
    *,
    network: Functional,
    optimizer: optax.GradientTransformationExtraArgs,
    student_temperature: float,
    center_momentum: float,
    teacher_drop_path: bool,
) -> tuple[PretrainState, dict[str, Float[Array, ""]]]:
    """One step from ready views: loss, gradients, optimiser, teacher and centre.

    Args:
      state: where training stands.
      views: the two global views of each image, then the local ones if there are any.
      key: of the drop path; None switches it off.
      schedule: this step's `learning_rate`, `weight_decay`, `teacher_momentum`,
        `teacher_temperature` and `frozen` (the last layer stands still).

    Returns the new state and the step's metrics. Order as in train_ssl.py:360-430: the loss sees
    the old centre; the teacher moves towards the student as it is after its update.
    """
    student_key, teacher_key = (None, None) if key is None else jax.random.split(key)
    teacher_out, teacher_buffers = network(
        state.teacher,
        state.teacher_buffers,
        views[:1],
        train=True,
        rngs=_rngs(teacher_key) if teacher_drop_path else None,
    )
    targets = objective.teacher_probabilities(
        teacher_out, state.center, schedule["teacher_temperature"]
    )

    def loss_of(student):
        student_out, buffers = network(
            student, state.student_buffers, views, train=True, rngs=_rngs(student_key)
        )
        loss = objective.view_prediction_loss(student_out, targets, student_temperature)
        return loss, buffers

    (loss, student_buffers), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.student)
    updates, optimizer_state = optimizer.update(
        gradients,
        state.optimizer,
        state.student,
        learning_rate=schedule["learning_rate"],
        weight_decay=schedule["weight_decay"],
        frozen=schedule["frozen"],
    )
    student = optax.apply_updates(state.student, updates)
    momentum = schedule["teacher_momentum"]
    teacher = jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, state.teacher, student)
    information = objective.teacher_information(targets)
    metrics = {
        "loss": loss,
        "teacher_entropy": information.entropy,
        "mutual_information": information.mutual_information,
        "gradient_norm": optax.tree.norm(gradients),
    }
    new_state = PretrainState(
        step=state.step + 1,
        student=student,
        student_buffers=student_buffers,
        teacher=teacher,
        teacher_buffers=teacher_buffers,
        center=objective.update_center(state.center, teacher_out, center_momentum),
        optimizer=optimizer_state,
    )
    return new_state, metrics


def _rngs(key: jax.Array | None) -> nnx.Rngs | None:
    return None if key is None else nnx.Rngs(key)


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Pre-trains in `workdir` and returns what is in its `result.json`."""
    used = {k: config[k].to_dict() for k in ("dataset", "model", "pretrain", "runtime")}
    used["seed"] = config.seed
    if done := stage.finished_result(workdir, used):
        print(f"pre-training is done already: {workdir}")
        return done

    dtype = runtime.prepare(config.runtime.precision, config.runtime.compilation_cache)
    mesh = make_mesh()
    data = inputs.load_data(config, data_dir)
    images = data.train.take(data.subsets.unlabelled)
    p = config.pretrain
    order = BatchOrder(len(images.labels), p.batch_size, config.seed, field="pretrain.batch_size")

    options = inputs.model_options(config)
    backbone = create_model(**options, dtype=dtype, seed=config.seed)
    head = ProjectionHead(
        backbone.num_features,
        **p.head,
        init=config.model.init,
        dtype=dtype,
        rngs=nnx.Rngs(config.seed + 1),
    )
    network = Functional(ViewNetwork(backbone, head))
    optimizer = make_optimizer(p.optimizer.name, clip=p.optimizer.clip, freezable=is_last_layer)
    views = view_settings(config, options["image_size"], data)

    def step_function(state, batch, labels, key, schedule):
        del labels
        view_key, drop_key = jax.random.split(key)
        return update(
            state,
            multi_crop(batch, view_key, views),
            drop_key,
            schedule,
            network=network,
            optimizer=optimizer,
            student_temperature=p.student_temperature,
            center_momentum=p.teacher.center_momentum,
            teacher_drop_path=p.teacher.drop_path,
        )

    evaluator = KnnEvaluator(config, data, images, Functional(backbone), views, mesh)
    with make_source(
        *images, order, mesh, config.runtime.data_placement, config.runtime.steps_per_dispatch
    ) as source:
        outcome = stage.run_stage(
            stage.Stage(
                folder=workdir,
                description="pre-training",
                config=used,
                step_function=step_function,
                schedule=make_schedule(config, order.steps_per_epoch),
                steps_per_epoch=order.steps_per_epoch,
                batch_size=p.batch_size,
                params_of=lambda state: backbone_arrays(state.teacher),
                meta={"model": options, **inputs.describe_data(data.info)},
                evaluate=evaluator,
                warn_about=lambda means: objective.describe_collapse(
                    means["mutual_information"], means["teacher_entropy"], p.head.out_dim
                ),
            ),
            replicate(initial_state(network, optimizer, p.head.out_dim), mesh),
            source,
            runtime.stage_key(config.seed, "pretrain"),
            steps_per_dispatch=config.runtime.steps_per_dispatch,
            checkpoint_every=config.runtime.checkpoint_every,
            profile_steps=config.runtime.profile,
        )
    return _write_result(workdir, config, data, outcome)


def view_settings(config: ConfigDict, image_size: int, data: inputs.Data) -> ViewSettings:
    """The views that `config.pretrain.views` describes; scales left open are the dataset's."""
    views = dict(config.pretrain.views)
    spec = get_dataset(config.dataset.name)
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


def backbone_arrays(arrays: Arrays) -> Arrays:
    """The backbone's part of the network's arrays, under the backbone's own names."""
    prefix = "backbone."
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


class KnnEvaluator:
    """kNN accuracy of the teacher's features on the test split, every few epochs.

    Before the first step it also measures raw pixels, the figure to beat. Without labels, or
    with `pretrain.knn_every` 0, it measures nothing.
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
        self._bank = images.take(np.flatnonzero(labelled))
        self._queries = data.test
        self._on = bool(self._every and labelled.any() and (data.test.labels >= 0).all())
        self._batch_size, self._mesh = config.evaluate.batch_size, mesh
        self._knn = dict(
            num_classes=data.info.num_classes,
            k=config.evaluate.knn_neighbors,
            temperature=config.evaluate.knn_temperature,
        )

        @jax.jit
        def features(arrays, batch):
            normalised = evaluation_batch(batch, views.image_size, views.mean, views.std)
            return backbone(arrays, backbone.buffers, normalised, method="features")[0]

        self._features = features

    def __call__(self, epochs_done: int, state: PretrainState) -> dict[str, dict[str, float]]:
        if not self._on or (epochs_done % self._every and epochs_done != self._epochs):
            return {}
        arrays = backbone_arrays(state.teacher)
        figures = {"top1": self._accuracy(lambda batch: self._features(arrays, batch))}
        if epochs_done == 0:
            figures["raw_pixels"] = self._accuracy(
                lambda batch: batch.reshape(len(batch), -1) / np.float32(255)
            )
        return {"knn": figures}

    def _accuracy(self, apply) -> float:
        bank, queries = (
            forward_all(apply, split.images, self._batch_size, self._mesh)
            for split in (self._bank, self._queries)
        )
        return knn_accuracy(bank, self._bank.labels, queries, self._queries.labels, **self._knn)


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
        "knn_raw_pixels": knn[0]["raw_pixels"] if knn else None,
        "knn_before": knn[0]["top1"] if knn else None,
        "knn_after": knn[-1]["top1"] if knn else None,
        "loss": last["loss"],
        "teacher_entropy": last["teacher_entropy"],
        "mutual_information": last["mutual_information"],
        "seconds": round(outcome.seconds, 1),
        "images_per_second": outcome.images_per_second,
    }
    stage.write_result(workdir, result)
    return result
