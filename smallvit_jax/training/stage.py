"""One stage of training in its folder: config, logs, checkpoints and the way back after a stop."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smallvit_jax.errors import UserError
from smallvit_jax.training import logs
from smallvit_jax.training.checkpoints import CheckpointStore
from smallvit_jax.training.logs import write_result
from smallvit_jax.training.loop import Metrics, Schedule, StepFunction, train
from smallvit_jax.training.progress import Progress

__all__ = ["Outcome", "Schedule", "Stage", "finished_result", "run_stage", "write_result"]

Evaluations = Mapping[str, Mapping[str, float]]
"""Figures by split, for example {"test": {"top1": 97.1}}."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage of training consists of, apart from its state.

    Attributes:
      folder: the stage folder.
      description: what is going on, for the progress bar.
      config: the part of the config that the stage depends on; the same folder refuses another.
      step_function: (state, images uint8, labels, key, schedule row) → (state, metrics).
      schedule: values per step; their length is the length of training.
      steps_per_epoch: training steps.
      batch_size: images per step.
      params_of: what of a state is needed to use the model.
      meta: describes model and data, ready for JSON.
      evaluate: called with the epochs done (0 before the first step) and the state; an empty
        result is not logged.
      warn_about: called with an epoch's mean metrics; returns a warning or None.
      best_split: whose "top1" decides which checkpoint is best; None keeps only the newest.
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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A stage that has been trained to its end."""

    state: Any
    evaluations: list[dict[str, Any]]
    """Every evaluation of the stage, oldest first, also those before an interruption."""
    last_metrics: dict[str, Any]
    """Of the last training step."""
    seconds: float
    """Wall time of this process in the stage."""
    images_per_second: float | None


def finished_result(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a stage that is done, None if it is not; refuses a folder of another config."""
    claim_folder(folder, config)
    return logs.read_result(folder)


def claim_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes `config.json`, or raises `UserError` if the folder holds a run that differs.

    Fields under `runtime` may differ: they change how a run is done, not what it is.
    """
    old = logs.read_config(folder)
    if old is not None:
        differences = [
            d for d in logs.config_differences(old, config) if not d[0].startswith("runtime.")
        ]
        if differences:
            field, before, now = differences[0]
            more = f" and {len(differences) - 1} more fields differ" if differences[1:] else ""
            raise UserError(
                f"{folder} holds a run with {field} = {before}, and this one has {now}{more}; "
                "choose a new --workdir, or repeat the old command to continue the old run."
            )
    logs.write_config(folder, config)


def run_stage(
    stage: Stage,
    state: Any,
    source,
    key: jax.Array,
    *,
    steps_per_dispatch: int,
    checkpoint_every: int,
    profile_steps: int = 0,
) -> Outcome:
    """Trains the stage from its newest checkpoint, or from `state` if there is none.

    Evaluations, metrics and checkpoints are written so that whatever a checkpoint follows is on
    disk before it: a run that continues repeats what came later, and no line appears twice.
    """
    started = time.monotonic()
    active = jax.process_index() == 0
    total_steps = len(next(iter(stage.schedule.values())))
    epochs = np.arange(1, total_steps + 1) / stage.steps_per_epoch

    with CheckpointStore(
        stage.folder / "checkpoints", keep_best=stage.best_split is not None
    ) as store:
        restored = store.restore(state)
        start, state = restored or (0, state)
        with (
            logs.RunLog(
                stage.folder, restored_step=start if restored else None, active=active
            ) as log,
            Progress(
                total_steps,
                stage.steps_per_epoch,
                stage.batch_size,
                stage.description,
                start,
                active=active,
            ) as progress,
        ):
            progress.note(_summary(stage, source, total_steps, start))
            means = _EpochMeans(stage, progress)

            def on_metrics(first: int, rows: Metrics) -> None:
                count = len(next(iter(rows.values())))
                steps = range(first, first + count)
                values = {k: v[first : first + count] for k, v in stage.schedule.items()} | rows
                log.write_many(
                    (step + 1, epochs[step], "train", {k: v[i] for k, v in values.items()})
                    for i, step in enumerate(steps)
                )
                means.add(first, rows)
                progress.update(first + count, float(rows["loss"][-1]))

            held_out: dict[int, dict[str, float]] = {}  # step → what its checkpoint is judged by

            def evaluate(epochs_done: int, state: Any) -> None:
                step = epochs_done * stage.steps_per_epoch
                for split, values in stage.evaluate(epochs_done, state).items():
                    log.write(step, epochs_done, split, values)
                    if split == stage.best_split:
                        held_out[step] = {"accuracy": values["top1"]}
                    progress.note(_line(stage.description, epochs_done, split, values))

            def save(step: int, state: Any) -> None:
                log.flush()
                params = stage.params_of(state)
                store.save(step, state, params, stage.meta, held_out.get(step))

            if start == 0:
                evaluate(0, state)
            state = train(
                stage.step_function,
                state,
                source=source,
                schedule=stage.schedule,
                key=key,
                steps_per_epoch=stage.steps_per_epoch,
                steps_per_dispatch=steps_per_dispatch,
                checkpoint_every=checkpoint_every,
                on_metrics=on_metrics,
                on_epoch_end=evaluate,
                save=save,
                profile=(stage.folder / "profile", profile_steps) if profile_steps else None,
            )
            train_rows = log.read("train")
            splits = {"knn", "test", "validation"}
            evaluations = [row for split in splits for row in log.read(split)]
            rate = progress.images_per_second
    return Outcome(
        state=state,
        evaluations=sorted(evaluations, key=lambda row: row["step"]),
        last_metrics=train_rows[-1],
        seconds=time.monotonic() - started,
        images_per_second=rate,
    )


class _EpochMeans:
    """Averages metrics over each epoch and shows the stage's warning about them, once."""

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


def _summary(stage: Stage, source, total_steps: int, start: int) -> str:
    options = stage.meta["model"]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    begin = f", continuing after step {start}" if start else ""
    return (
        f"{stage.description}: {options['name']} for {options['image_size']} px images, "
        f"{source.order.num_examples:,} images in {source.placement} memory, {total_steps:,} steps "
        f"of {stage.batch_size} on {devices}{begin}; the first step compiles"
    )


def _line(description: str, epoch: int, split: str, values: Mapping[str, float]) -> str:
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in values.items())
    when = f"after epoch {epoch}" if epoch else "before the first step"
    return f"{description}: {split} {when}: {figures}"
