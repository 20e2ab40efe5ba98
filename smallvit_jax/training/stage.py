"""Runs one training stage in its folder: config, logs, checkpoints, and resuming after a stop."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smallvit_jax.checkpoints.format import flatten, read_meta
from smallvit_jax.checkpoints.store import CheckpointStore
from smallvit_jax.checkpoints.summary import parameter_table, trainable_shapes
from smallvit_jax.errors import UserError
from smallvit_jax.process.others import all_processes_agree
from smallvit_jax.process.signals import Interrupted, StopRequest
from smallvit_jax.training.loop import Metrics, Schedule, StepFunction, diverged, train
from smallvit_jax.training.placement import Source
from smallvit_jax.training.progress import Progress
from smallvit_jax.workdir.files import StorageError
from smallvit_jax.workdir.metrics import RunLog
from smallvit_jax.workdir.ownership import CHECKPOINTS, check_folder, locked
from smallvit_jax.workdir.records import write_config

_PARAMETER_LINES = 30  # printed of the parameter table; the report has the whole table

Evaluations = Mapping[str, Mapping[str, float]]
"""Metrics by split, for example {"test": {"top1": 97.1}}."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Everything that defines a training stage except its state.

    Attributes:
      folder: the stage folder.
      description: name of the stage in the progress bar.
      config: the part of the config that the stage depends on; resuming requires the same one.
      step_function: (state, images uint8, labels, key, schedule row) → (state, metrics).
      schedule: values per step; their length is the length of training.
      steps_per_epoch: training steps per epoch.
      batch_size: images per step.
      params_of: returns the arrays of a state that are needed to use the model.
      meta: describes model and data, ready for JSON.
      evaluate: called with the number of finished epochs (0 before the first step) and the state;
        an empty result is not logged.
      warn_about: called with an epoch's mean metrics; returns a warning or None.
      best_split: split whose "top1" decides which checkpoint is best; None keeps only the newest.
    """

    folder: Path
    description: str
    config: Mapping[str, Any]
    step_function: StepFunction
    schedule: Schedule
    steps_per_epoch: int
    batch_size: int
    params_of: Callable[[Any], Mapping[str, jax.Array]]
    meta: Mapping[str, Any]
    evaluate: Callable[[int, Any], Evaluations]
    warn_about: Callable[[Mapping[str, float]], str | None] = lambda means: None
    best_split: str | None = None

    @property
    def total_steps(self) -> int:
        """The length of training."""
        return len(next(iter(self.schedule.values())))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a finished stage."""

    state: Any
    evaluations: list[dict[str, Any]]
    """All evaluations of the stage, oldest first, including those before an interruption."""
    last_metrics: dict[str, Any]
    """Metrics of the last training step."""
    seconds: float
    """Wall time of the stage, without work that an interruption lost."""
    images_per_second: float | None
    """Training rate since the last start, without evaluations and checkpoints."""


def run_stage(
    stage: Stage,
    state: Any,
    source: Source,
    key: jax.Array,
    *,
    steps_per_dispatch: int,
    checkpoint_every: int,
    profile_steps: int = 0,
) -> Outcome:
    """Trains the stage from its newest checkpoint, or from `state` if there is none.

    Metrics and evaluations are on disk before the checkpoint that follows them, so a resumed run
    repeats only later steps and writes no line twice. On SIGINT or SIGTERM, saves a checkpoint and
    raises `Interrupted`. Raises `UserError` if another run uses the folder, or if the folder holds
    a run with another config.
    """
    traced = profile_steps if jax.process_index() == 0 else 0
    train_stage = functools.partial(
        train,
        stage.step_function,
        source=source,
        schedule=stage.schedule,
        key=key,
        steps_per_epoch=stage.steps_per_epoch,
        steps_per_dispatch=steps_per_dispatch,
        checkpoint_every=checkpoint_every,
        profile=(stage.folder / "profile", traced) if traced else None,
    )
    with locked(stage.folder):
        check_folder(stage.folder, stage.config)
        keep_best = stage.best_split is not None
        with CheckpointStore(stage.folder / CHECKPOINTS, keep_best=keep_best) as store:
            try:
                write_config(stage.folder, stage.config)
                return _continue(stage, store, state, source, train_stage)
            except StorageError as error:
                raise UserError(f"{error}; {store.last_good()}") from error


def _continue(
    stage: Stage,
    store: CheckpointStore,
    state: Any,
    source: Source,
    train_stage: Callable[..., Any],
) -> Outcome:
    """Trains from the newest checkpoint to the end.

    `train_stage` is `train` with all arguments bound that do not depend on the checkpoint.
    """
    started = time.monotonic()
    active = jax.process_index() == 0
    restored = store.restore(state)
    start, state = restored or (0, state)
    if restored:
        started -= read_meta(store.directory / str(start)).get("seconds", 0.0)
    restored_step = start if restored else None
    progress = Progress(
        stage.total_steps,
        stage.steps_per_epoch,
        stage.batch_size,
        stage.description,
        start,
        active=active,
    )
    with (
        RunLog(stage.folder, restored_step=restored_step, active=active) as log,
        progress,
        StopRequest(progress.note) as stop,
    ):
        progress.note(_summary(stage, source, start))
        if not restored:
            progress.note(_parameters(stage))
        recorder = _Recorder(stage, store, log, progress, stop, started)
        lost = active and recorder.evaluation_is_lost(start)  # the others have no log
        if not restored or not all_processes_agree(not lost):
            recorder.on_epoch_end(start // stage.steps_per_epoch, state)
        state = train_stage(state, listener=recorder)
        store.wait()
        if recorder.stopped_by:
            raise Interrupted(recorder.stopped_by, _stopped(int(state.step), stage.total_steps))
        rows = log.read()
        steps = [row for row in rows if row["split"] == "train"]
        if not steps:
            raise UserError(
                f"{stage.folder}/metrics.jsonl has lost every step of this run; restore it, or "
                "repeat the run in a new --workdir"
            )
    return Outcome(
        state=state,
        evaluations=[row for row in rows if row["split"] != "train"],
        last_metrics=steps[-1],
        seconds=time.monotonic() - started,
        images_per_second=progress.images_per_second,
    )


def _stopped(step: int, total: int) -> str:
    return (
        f"stopped after step {step} of {total}, which is saved" if step else "no step was finished"
    )


class _Recorder:
    """The training loop's listener: logs, evaluates, saves and shows progress."""

    def __init__(
        self,
        stage: Stage,
        store: CheckpointStore,
        log: RunLog,
        progress: Progress,
        stop: StopRequest,
        started: float,
    ):
        self._stage, self._store, self._log, self._progress = stage, store, log, progress
        self._stop = stop
        self.stopped_by = 0  # the signal that stopped training early
        self._started = started
        self._means = _EpochMeans(stage, progress)
        self._epochs = np.arange(1, stage.total_steps + 1) / stage.steps_per_epoch
        self._held_out: dict[int, float] = {}  # step → accuracy that ranks its checkpoint
        before = log.read(stage.best_split) if stage.best_split else []
        self._best = max((row["top1"] for row in before), default=-np.inf)

    def on_metrics(self, first: int, rows: Metrics) -> None:
        """Logs the metrics and schedule values of the steps from `first` on."""
        count = len(next(iter(rows.values())))
        values = {k: v[first : first + count] for k, v in self._stage.schedule.items()} | rows
        self._log.write_many(
            (first + i + 1, self._epochs[first + i], "train", {k: v[i] for k, v in values.items()})
            for i in range(count)
        )
        self._means.add(first, rows)
        self._progress.update(first + count, float(rows["loss"][-1]))

    def evaluation_is_lost(self, step: int) -> bool:
        """Whether `step` ends an epoch whose evaluations are missing from the log."""
        if step % self._stage.steps_per_epoch:
            return False
        return not any(r["step"] == step and r["split"] != "train" for r in self._log.read())

    def on_epoch_end(self, epochs_done: int, state: Any) -> None:
        """Evaluates, logs and shows the metrics; saves the state if it is the best so far."""
        step = epochs_done * self._stage.steps_per_epoch
        with self._progress.pause():
            figures = self._stage.evaluate(epochs_done, state)
        for split, values in figures.items():
            self._log.write(step, epochs_done, split, values)
            self._progress.note(_line(self._stage.description, epochs_done, split, values))
        best = self._stage.best_split
        if best is not None and best in figures:
            self._held_out[step] = figures[best]["top1"]
            if self._held_out[step] >= self._best:
                self._best = self._held_out[step]
                self.save(step, state)

    def save(self, step: int, state: Any) -> None:
        """Flushes the log, then saves a checkpoint.

        Raises `TrainingDivergedError` if the state is not finite, which can follow a step with a
        finite loss, so that training can always resume from the newest checkpoint.
        """
        with self._progress.pause():
            self._save(step, state)

    def _save(self, step: int, state: Any) -> None:
        if not _all_finite(state):
            names = [n for n, leaf in flatten(state).items() if not _all_finite(leaf)]
            what = f"state after the update ({names[0]})"
            raise diverged(what, "infinite or NaN", step, self._stage.steps_per_epoch)
        self._log.flush()
        meta = {**self._stage.meta, "seconds": round(time.monotonic() - self._started, 1)}
        accuracy = self._held_out.get(step)
        metrics = None if accuracy is None else {"accuracy": accuracy}
        self._store.save(step, state, self._stage.params_of(state), meta, metrics)

    def should_stop(self) -> bool:
        """Whether a signal asked training to stop."""
        self.stopped_by = self._stop.agreed()
        return bool(self.stopped_by)


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.array([jnp.isfinite(x).all() for x in leaves]).all()


class _EpochMeans:
    """Averages metrics over each epoch and shows the stage's warning once while it lasts."""

    def __init__(self, stage: Stage, progress: Progress):
        self._stage, self._progress = stage, progress
        self._rows: dict[str, list[float]] = {}
        self._warned = False

    def add(self, first_step: int, rows: Metrics) -> None:
        for name, values in rows.items():
            self._rows.setdefault(name, []).extend(values.tolist())
        count = len(next(iter(rows.values())))
        if (first_step + count) % self._stage.steps_per_epoch == 0:
            means = {name: float(np.mean(values)) for name, values in self._rows.items()}
            self._rows = {}
            warning = self._stage.warn_about(means)
            if warning and not self._warned:
                self._progress.note(f"warning: {warning}")
            self._warned = warning is not None


def _summary(stage: Stage, source: Source, start: int) -> str:
    options = stage.meta["model"]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    resumed = f", resuming after step {start}" if start else ""
    return (
        f"{stage.description}: {options['name']} for {options['image_size']} px images, "
        f"{source.order.num_examples:,} images in {source.placement} memory, {stage.total_steps:,} "
        f"steps of {stage.batch_size} on {devices}{resumed}; compiling the first step"
    )


def _parameters(stage: Stage) -> str:
    options = stage.meta["model"]
    what = "model" if options["num_classes"] else "backbone"
    table = parameter_table(trainable_shapes(options), _PARAMETER_LINES)
    return f"Parameters of the {what}:\n{table}"


def _line(description: str, epoch: int, split: str, values: Mapping[str, float]) -> str:
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in values.items())
    when = f"after epoch {epoch}" if epoch else "before the first step"
    return f"{description}: {split} {when}: {figures}"
