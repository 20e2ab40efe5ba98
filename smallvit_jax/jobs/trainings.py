"""Runs many trainings as one job, resumable and shared by processes running the same command."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.config.check import validate
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.flops import ModelSize, model_size
from smallvit_jax.jobs.variants import Variant
from smallvit_jax.plans import finetuning, pretraining
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.training.loop import TrainingDivergedError
from smallvit_jax.workdir.ownership import FolderInUseError, finished_result, locked
from smallvit_jax.workdir.records import write_result

Figures = dict[str, Any]
"""The figures of one training: a row of a table."""

_SECONDS_BETWEEN_LOOKS = 2.0


class Training(NamedTuple):
    """A training to run: display name, full config and folder.

    `variant` is None in jobs that do not compare variants.
    """

    name: str
    config: ConfigDict
    folder: Path
    variant: Variant | None = None


def finished(workdir: Path, used: Figures, asked: Figures) -> Figures | None:
    """Returns the result of a finished job that trained exactly what is asked for, else None.

    `asked` may be extended later; a difference in `used` raises `UserError`.
    """
    done = finished_result(workdir, used)
    same = done and all(done[key] == value for key, value in asked.items())
    return done if same else None


def run_each(
    trainings: Sequence[Training], train: Callable[[Training], list[Figures]]
) -> Iterator[list[Figures]]:
    """Runs `train` on each training in turn, and yields all rows so far after each one.

    `train` resumes interrupted trainings and returns at once for finished ones. Trainings locked by
    another process are skipped and checked again later.
    """
    rows: dict[int, list[Figures]] = {}
    while len(rows) < len(trainings):
        before = len(rows)
        for number, training in enumerate(trainings):
            if number in rows:
                continue
            try:
                with locked(training.folder):
                    print(f"[{number + 1}/{len(trainings)}] {training.name}", flush=True)
                    rows[number] = train(training)
            except FolderInUseError:
                continue
            yield [row for number in sorted(rows) for row in rows[number]]
        if len(rows) == before:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def run_or_diverge(
    stage: Callable[..., Figures], config: ConfigDict, folder: Path, *args: Any, **kwargs: Any
) -> Figures:
    """Runs a stage and returns its result; if it diverges, a result with only the reason.

    That result has the reason as `diverged` and is written like any other, so the training is not
    repeated.
    """
    started = time.monotonic()
    try:
        return stage(config, folder, *args, **kwargs)
    except TrainingDivergedError as error:
        reason = str(error).partition(";")[0]  # the rest is advice on restarting
        print(f"{reason}; this training is scored at chance level", flush=True)
        seconds = round(time.monotonic() - started, 1)
        return write_result(folder, {"job": folder.name, "diverged": reason, "seconds": seconds})


def check_plans(trainings: Sequence[Training], reader: DatasetReader) -> dict[str, ModelSize]:
    """Returns the size of each variant's model, by the variant's name.

    Raises `UserError` for mistakes that would otherwise show only hours later, and if two variants
    are the same training.
    """
    sizes: dict[str, ModelSize] = {}
    same: dict[str, str] = {}
    for training in trainings:
        assert training.variant is not None  # only jobs that compare variants call this
        name = training.variant.name
        try:
            validate(training.config)
            data = reader.load(training.config)
            if training.variant.pretrains:
                pretraining.make_plan(training.config, data)
            options = finetuning.make_plan(training.config, data).options
            sizes[name] = model_size(options)
        except UserError as error:
            raise UserError(f'the variant "{name}": {error}') from error
        stages = ("pretrain", "finetune") if training.variant.pretrains else ("finetune",)
        what = repr(options) + "".join(training.config[stage].to_json() for stage in stages)
        if (other := same.setdefault(what, name)) != name:
            raise UserError(
                f'the variants "{other}" and "{name}" are the same training; remove one of them'
            )
    return sizes


def chance(config: ConfigDict, reader: DatasetReader) -> float:
    """The test accuracy of random guessing, in percent."""
    return 100 / reader.load(config).info.num_classes


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean of a figure over rows; None unless every row has it."""
    values: list[Any] = [row.get(name) for row in rows]
    return None if None in values else float(np.mean(values))


def deviation(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The sample standard deviation (n - 1) of a figure; None for one row or if a row lacks it."""
    values: list[Any] = [row.get(name) for row in rows]
    return None if None in values or len(values) < 2 else float(np.std(values, ddof=1))
