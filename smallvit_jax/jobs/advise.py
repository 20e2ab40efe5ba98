"""Reads a dataset, measures this machine for some seconds and recommends a command."""

import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.config import default_config
from smallvit_jax.config.jobs import STAGES
from smallvit_jax.config.tree import flatten, get_value, set_value
from smallvit_jax.data.datasets import FOLDER
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.neighbors import knn_accuracy
from smallvit_jax.jobs import pretrain
from smallvit_jax.jobs.steps import StageStep, finetuning_step, pretraining_step
from smallvit_jax.models.parameters import get_arrays
from smallvit_jax.plans.advice import (
    Costs,
    Counts,
    Preset,
    choose_epochs,
    choose_preset,
    estimate,
    fit_batches,
    fit_crops,
)
from smallvit_jax.plans.data_and_model import Data, DatasetReader, model_options
from smallvit_jax.process import runtime
from smallvit_jax.process.sharding import make_mesh, replicate
from smallvit_jax.process.terminal import print_table
from smallvit_jax.training.loop import train
from smallvit_jax.training.placement import make_source

SECONDS = 4.0  # of training steps to measure, after compilation
FEW_PIXELS = 96  # image size to fall back to, if there is too little time for larger ones
SAMPLE = 500  # images whose evaluation is measured
_KEPT = ("dataset", "model.image_size", "seed", "runtime")  # fields that advice leaves as they are


def run(config: ConfigDict, workdir: Path | str | None, reader: DatasetReader) -> dict[str, Any]:
    """Prints the recommended preset, settings and command, and returns them with the estimates.

    Writes nothing; `workdir`, if there is one, is that of the recommended command.
    """
    _refuse_other_fields(config)
    started = time.monotonic()
    data = reader.load(config)
    reading = time.monotonic() - started
    counts = _count(data)
    preset = choose_preset(counts.training)
    seconds = 60 * config.advise.minutes
    for size in _image_sizes(config, data):
        chosen = _settings(config, preset, data, counts, size)
        if size != data.spec.image_size:
            data = reader.load(chosen)
        costs = measure(chosen, data, reading)
        choose_epochs(chosen, preset, counts, costs, seconds)
        parts = estimate(chosen, counts, costs)
        if sum(parts.values()) <= seconds:
            break
    result = {
        "job": "advise",
        "preset": preset.file,
        "image_size": chosen.model.image_size or data.spec.image_size,
        "pretrain_epochs": chosen.pretrain.epochs,
        "pretrain_batch_size": chosen.pretrain.batch_size,
        "finetune_batch_size": chosen.finetune.batch_size,
        "seconds": {name: round(value, 1) for name, value in parts.items()},
        "memory_bytes": peak_memory(),
        "command": command(chosen, preset, reader.data_dir, workdir),
    }
    _show(result, config, data, counts, costs)
    return result


def _refuse_other_fields(config: ConfigDict) -> None:
    """Raises `UserError` for a changed field that advice would not use."""
    defaults = flatten(default_config())
    for path, value in flatten(config).items():
        used = path.startswith((*_KEPT, "advise.")) or path == "job"
        if value != defaults[path] and not used:
            raise UserError(
                f"advice chooses {path} itself, or measures with the preset's; add "
                f"--config.{path} to the command that it prints"
            )


def _count(data: Data) -> Counts:
    labels = data.train.labels[data.subsets.unlabeled]
    bank, test = int((labels >= 0).sum()), int((data.test.labels >= 0).sum())
    return Counts(len(labels), bank, len(data.subsets.labeled), test)


def _image_sizes(config: ConfigDict, data: Data) -> list[int]:
    """Image sizes to try: the dataset's, and for a folder of larger images `FEW_PIXELS`.

    Up to that size the number of patches, and so most of the time, is the same.
    """
    size = config.model.image_size or data.spec.image_size
    fixed = config.dataset.name != FOLDER or config.model.image_size
    return [size] if fixed or size <= FEW_PIXELS else [size, FEW_PIXELS]


def _settings(
    config: ConfigDict, preset: Preset, data: Data, counts: Counts, size: int
) -> ConfigDict:
    """The preset's config for this dataset, with batches that fit."""
    chosen = default_config()
    preset.use(chosen)
    for path in flatten(config):
        if path.startswith(_KEPT):
            set_value(chosen, path, get_value(config, path))
    if size != data.spec.image_size:
        chosen.model.image_size = size
    chosen.job = "recipe" if counts.labeled and counts.test else "pretrain"
    if data.info.num_classes < 2:
        chosen.job = "pretrain"
    fit_batches(chosen, counts, jax.device_count())
    fit_crops(chosen, preset, counts, data.info.num_classes)
    return chosen


def measure(config: ConfigDict, data: Data, reading: float) -> Costs:
    """Runs real steps of pre-training and fine-tuning, and parts of the evaluations."""
    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache, r.fused_attention)
    learning = pretraining_step(config, data, dtype)
    pretrain_rate = _rate(config, "pretrain", learning)
    finetune_rate = 0.0
    if config.job == "recipe":
        finetune_rate = _rate(config, "finetune", finetuning_step(config, data, dtype))

    sample = data.train.images[:SAMPLE]
    backbone, size = learning.model, model_options(config, data.spec)["image_size"]
    forward = pretrain.bind_forward(config, backbone, size, data, make_mesh())
    arrays = get_arrays(backbone)
    forward_seconds = _second_time(lambda: forward(arrays, sample)) / len(sample)
    neighbors = raw = 0.0
    if config.job == "recipe":
        queries = data.test.images[:SAMPLE]
        seen = data.subsets.unlabeled
        bank = data.train.images[seen[data.train.labels[seen] >= 0]]
        width = backbone.num_features
        neighbors = _neighbors(np.ones((len(bank), width)), np.ones((len(queries), width)))
        if bank.size * 4 <= pretrain.MOST_RAW_BYTES:
            raw = _neighbors(bank.reshape(len(bank), -1), queries.reshape(len(queries), -1))
    return Costs(
        reading=reading,
        pretraining=1 / pretrain_rate,
        finetuning=1 / finetune_rate if finetune_rate else 0.0,
        forward=forward_seconds,
        neighbors=neighbors,
        raw_neighbors=raw,
    )


def _neighbors(bank: np.ndarray, queries: np.ndarray) -> float:
    """Seconds of kNN per query."""
    labels = np.zeros(len(bank), np.int32)

    def find():
        known = (
            bank.astype(np.float32),
            labels,
            queries.astype(np.float32),
            labels[: len(queries)],
        )
        return knn_accuracy(*known, num_classes=2)

    return _second_time(find) / len(queries)


def _second_time(call) -> float:
    """Seconds that a call takes once it is compiled."""
    call()
    started = time.monotonic()
    call()
    return time.monotonic() - started


def _rate(config: ConfigDict, stage: str, step: StageStep) -> float:
    """Images per second of the training loop, compilation excluded."""
    print(f"measuring {STAGES[stage]} on this machine", file=sys.stderr, flush=True)
    clock = _Clock(SECONDS)
    r = config.runtime
    mesh, order = make_mesh(), step.order
    with make_source(*step.images, order, mesh, r.data_placement, r.steps_per_dispatch) as source:
        train(
            step.function,
            replicate(step.state, mesh),
            source=source,
            schedule=step.schedule,
            key=runtime.stage_key(config.seed, stage),
            steps_per_epoch=order.steps_per_epoch,
            steps_per_dispatch=r.steps_per_dispatch,
            checkpoint_every=r.checkpoint_every,
            listener=clock,
        )
    return clock.steps_per_second() * order.batch_size


class _Clock:
    """Listens to a training loop and stops it when enough steps are timed."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._marks: list[tuple[int, float]] = []  # finished steps, time

    def on_metrics(self, first: int, rows) -> None:
        self._marks.append((first + len(next(iter(rows.values()))), time.monotonic()))

    def on_epoch_end(self, epochs: int, state: Any) -> None:
        pass

    def save(self, step: int, state: Any) -> None:
        pass

    def should_stop(self) -> bool:
        return len(self._marks) > 2 and self._marks[-1][1] - self._marks[0][1] > self._seconds

    def steps_per_second(self) -> float:
        """The rate after the first block, which compiles."""
        (first, start), (last, end) = self._marks[0], self._marks[-1]
        if last == first:
            raise UserError(
                "the dataset is too small to measure a training step on; use more images"
            )
        return (last - first) / (end - start)


def peak_memory() -> int:
    """Bytes in use at most so far: on the first device, or by this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def command(
    config: ConfigDict, preset: Preset, data_dir: str | Path | None, workdir: Path | str | None
) -> str:
    """The shell command that runs this config."""
    dataset = config.dataset
    folder = dataset.name == FOLDER
    argument = f"{FOLDER}:{dataset.root}" if folder else dataset.name
    base = default_config()
    preset.use(base)
    base.job = "recipe"
    base.dataset.name, base.dataset.root = dataset.name, dataset.root
    workdir = workdir or Path("runs") / (Path(dataset.root).name or dataset.name)
    words = ["python", "-m", "smallvit_jax.main", "--config", f"{preset.file}:{argument}"]
    words += ["--workdir", str(workdir)]
    if data_dir is not None:
        words += ["--data_dir", str(data_dir)]
    ours, theirs = flatten(config), flatten(base)
    words += [f"--config.{path}={_text(ours[path])}" for path in ours if ours[path] != theirs[path]]
    return shlex.join(words)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _show(
    result: dict[str, Any], config: ConfigDict, data: Data, counts: Counts, costs: Costs
) -> None:
    size, classes = result["image_size"], data.info.num_classes
    dataset, minutes = config.dataset, config.advise.minutes
    title = Path(dataset.root).name or dataset.name
    rows = [
        ("training images", f"{counts.training:,} of {size} x {size} pixels"),
        ("test images", f"{counts.test:,}"),
    ]
    if counts.labeled:
        per_class = counts.labeled / max(1, classes)
        rows.append(("classes, labels per class", f"{classes}, {per_class:.0f}"))
    rates = {
        "pre-training": costs.pretraining,
        "fine-tuning": costs.finetuning,
        "evaluation": costs.forward,
    }
    rows += [
        (f"{name} on this machine", f"{1 / cost:,.0f} images/s")
        for name, cost in rates.items()
        if cost
    ]
    rows += [
        ("preset", result["preset"]),
        ("epochs of pre-training", str(result["pretrain_epochs"])),
        (
            "images per batch, pre-training and fine-tuning",
            f"{result['pretrain_batch_size']}, {result['finetune_batch_size']}",
        ),
    ]
    rows += [(f"expected time, {n}", _minutes(value)) for n, value in result["seconds"].items()]
    total = sum(result["seconds"].values())
    rows += [
        ("expected time, all", _minutes(total)),
        ("memory", f"{result['memory_bytes'] / 2**30:.1f} GB"),
    ]
    print_table(f"advice for {title}", rows)
    if total > 60 * minutes:
        print(f"  This is longer than advise.minutes={minutes:g}; fewer epochs would teach little.")
    print(f"  Run:\n\n{result['command']}\n", flush=True)


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
