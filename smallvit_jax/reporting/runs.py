"""Reads workdirs for reports: stages with their configs, metrics and results."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Float, Int

from smallvit_jax.config import default_config
from smallvit_jax.config.jobs import STAGES
from smallvit_jax.config.tree import DEFAULTS, flatten, set_value
from smallvit_jax.errors import UserError
from smallvit_jax.workdir import metrics, records

COMMAND = "command.txt"


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """A stage with its result and its logged metrics, oldest first."""

    name: str
    folder: Path
    result: dict[str, Any]
    rows: list[dict[str, Any]]

    def series(self, split: str, value: str) -> tuple[np.ndarray, np.ndarray]:
        """Epochs and values of one metric; both empty if it was not logged."""
        rows = [row for row in self.rows if row["split"] == split and value in row]
        epochs = np.array([row["epoch"] for row in rows], np.float64)
        return epochs, np.array([float(row[value]) for row in rows], np.float64)

    @property
    def quantities(self) -> set[str]:
        """Names of the metrics logged during training."""
        return {key for row in self.rows if row["split"] == "train" for key in row}


@dataclasses.dataclass(frozen=True)
class Run:
    """A workdir: a recipe with its stages, or a single stage."""

    folder: Path
    config: ml_collections.ConfigDict
    result: dict[str, Any]
    stages: dict[str, StageRecord]
    command: str | None

    @property
    def classifier(self) -> StageRecord | None:
        """The stage that trained a classifier, if there is one."""
        return self.stages.get("finetune") or self.stages.get("scratch")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's outputs for the test images; a backbone has no `probabilities`."""

    labels: Int[np.ndarray, " images"]
    features: Float[np.ndarray, "images width"]
    probabilities: Float[np.ndarray, "images classes"] | None


def read_run(folder: Path) -> Run:
    """Reads a workdir; raises UserError if it has no finished stage."""
    folder = Path(folder)
    result, config = records.read_result(folder) or {}, records.read_config(folder)
    job = result.get("job")
    folders = {job: folder} if job in STAGES else {name: folder / name for name in STAGES}
    found = {name: _read_stage(name, place) for name, place in folders.items()}
    stages = {name: stage for name, stage in found.items() if stage is not None}
    if not stages or config is None:
        raise UserError(
            f"{folder} contains no finished pre-training, fine-tuning, recipe or evaluation to "
            "report on; give the --workdir of one"
        )
    return Run(
        folder=folder,
        config=_with_defaults(config),
        result=result,
        stages=stages,
        command=read_command(folder),
    )


def read_command(folder: Path) -> str | None:
    """The command line that started a run, if known."""
    file = folder / COMMAND
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def describe_environment(environment: Mapping[str, Any]) -> str:
    """The versions and the hardware that a result depends on, as a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return f"{versions}; {environment['platform']}, {environment['threads']} threads."


def _read_stage(name: str, folder: Path) -> StageRecord | None:
    result = records.read_result(folder)
    if result is None:
        return None
    return StageRecord(name, folder, result, metrics.read_metrics(folder))


def _with_defaults(fields: dict[str, Any]) -> ml_collections.ConfigDict:
    """A full config from a stage's fields and the defaults; lists in JSON become tuples again."""
    config = default_config()
    for path, value in flatten(fields).items():
        if path in DEFAULTS:
            set_value(config, path, tuple(value) if isinstance(value, list) else value)
    return config


def read_predictions(run: Run) -> Predictions | None:
    """Predictions saved by the run's evaluation; None if missing or unreadable."""
    stage = run.stages.get("evaluate")
    path = stage.folder / "predictions.npz" if stage else None
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return Predictions(file["labels"], file["features"], file.get("probabilities"))
    except (ValueError, OSError, KeyError, EOFError):
        return None


def changed_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields that differ from the defaults, by dotted path."""
    return {path: value for path, value in flatten(config).items() if value != DEFAULTS[path]}


def differing_fields(runs: dict[str, Run]) -> dict[str, list[str]]:
    """The fields in which runs differ, with their values as JSON in the order of the runs."""
    trees = [flatten(run.config) for run in runs.values()]
    rows = {path: [json.dumps(tree[path]) for tree in trees] for path in trees[0]}
    return {path: values for path, values in rows.items() if len(set(values)) > 1}
