"""Jobs on a few digits with a model so small that a run takes seconds."""

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from smallvit_jax.checkpoints import format as checkpoint_format
from smallvit_jax.main import main

ROOT = Path(__file__).parents[2]
TINY = {
    "dataset.train_fraction": 0.1,
    "model.patch_size": 4,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "model.init": "fan_in",
    "pretrain.epochs": 2,
    "pretrain.batch_size": 24,
    "pretrain.knn_every": 1,
    "pretrain.views.local_crops": 2,
    "pretrain.head.out_dim": 16,
    "pretrain.head.hidden_dim": 16,
    "pretrain.head.bottleneck_dim": 8,
    "pretrain.optimizer.base_lr": 5e-3,
    "pretrain.optimizer.warmup_epochs": 1,
    "pretrain.teacher.warmup_temperature_epochs": 1,
    "finetune.epochs": 2,
    "finetune.passes_per_epoch": 1,
    "finetune.batch_size": 24,
    "finetune.optimizer.warmup_epochs": 1,
    "report.at_end": False,
    "runtime.compilation_cache": "",
    "runtime.steps_per_dispatch": 4,
}


def command(job: str, workdir: Path, **changes) -> list[str]:
    """The arguments of a tiny job; names of `changes` have `__` instead of a field's dots."""
    argument = "digits" if job == "evaluate" else "vit,digits"
    fields = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return [
        f"--config={ROOT / 'configs' / job}.py:{argument}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


# The smallest model of each family; grids and windows follow from the image size as usual.
SMALLEST = {
    "vit": {"width": 8, "depth": 1, "heads": 2},
    "swin": {"width": 4, "heads": 1},
    "cait": {"width": 8, "depth": 1, "heads": 2},
}
# Fields that depend on the dataset or the model keep the preset's values.
_NOT_TINY = ("dataset.", "model.patch_size", "model.width", "model.depth", "model.heads")


def preset_command(
    job: str, model: str, dataset: str, workdir: Path, data_dir: Path, **changes
) -> list[str]:
    """The arguments of a job with the smallest model on a prepared dataset."""
    fields = {name: value for name, value in TINY.items() if not name.startswith(_NOT_TINY)}
    fields |= {f"model.{name}": value for name, value in SMALLEST[model].items()}
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    return [
        f"--config={ROOT / 'configs' / job}.py:{model},{dataset}",
        f"--workdir={workdir}",
        f"--data_dir={data_dir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


def run_job(job: str, workdir: Path, **changes) -> int:
    """Runs a tiny job in this process and returns its exit code."""
    return main(command(job, workdir, **changes))


class FinishedRun(NamedTuple):
    """A finished run and what it printed."""

    folder: Path
    changes: dict[str, Any]
    stdout: str
    stderr: str
    warnings: list[str]


# 115 training and 29 validation images; a warmup that is too long for 2 epochs.
RECIPE = {
    "recipe__from_scratch": True,
    "dataset__validation_fraction": 0.2,
    "pretrain__optimizer__warmup_epochs": 30,
    "finetune__epochs": 3,
    "finetune__passes_per_epoch": 2,
    "finetune__optimizer__lr": 1e-2,
}


def finish_tiny_recipe(folder: Path) -> FinishedRun:
    """Runs a recipe to completion in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("always")
        code = run_job("recipe", folder, **RECIPE)
    assert code == 0, err.getvalue()
    sentences = [str(warning.message) for warning in caught]
    return FinishedRun(folder, RECIPE, out.getvalue(), err.getvalue(), sentences)


def read_json(path: Path):
    return json.loads(path.read_text())


def read_metrics(stage: Path, split: str | None = None) -> list[dict]:
    """The rows of `metrics.jsonl`, of one split or all."""
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if split in (None, row["split"])]


def checkpoint_steps(stage: Path) -> list[int]:
    """The steps of a stage's checkpoints, oldest first."""
    folder = stage / "checkpoints"
    return sorted(int(e.name) for e in folder.iterdir() if e.name.isdecimal())


def read_checkpoint(stage: Path, item: str = "state"):
    """The arrays of one item of the newest checkpoint, and its metadata."""
    folder = stage / "checkpoints" / str(checkpoint_steps(stage)[-1])
    meta = checkpoint_format.read_meta(folder)
    return checkpoint_format.read_arrays(folder, item, meta), meta


def start_job(
    job: str,
    workdir: Path,
    *,
    devices: int = 1,
    cache: Path | None = None,
    process: tuple[str, int, int] | None = None,
    **changes,
) -> subprocess.Popen[str]:
    """Starts a tiny job in its own process, on simulated devices.

    `cache` replaces this process's folder of compiled programs. `process` makes the job one of
    several processes: the coordinator's address, the number of processes and this one's index.
    """
    environment = dict(os.environ)
    if devices > 1:
        environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    if process:
        names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        environment |= dict(zip(names, map(str, process), strict=True))
    return subprocess.Popen(
        [sys.executable, "-m", "smallvit_jax.main", *command(job, workdir, **changes)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> str:
    """Waits for a process to succeed and returns what it wrote to stderr."""
    try:
        _, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return errors
