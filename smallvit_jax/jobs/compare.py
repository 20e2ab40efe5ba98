"""Compares variants of the model and of training in one table, with deviations over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.evaluation.flops import ModelSize
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.jobs.trainings import (
    Figures,
    Training,
    chance,
    check_plans,
    deviation,
    finished,
    mean,
    run_each,
    run_or_diverge,
)
from smallvit_jax.jobs.variants import read_variants
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.files import csv_text, write_atomically
from smallvit_jax.workdir.metrics import read_metrics
from smallvit_jax.workdir.records import write_config, write_result


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Trains every variant with every seed and returns the contents of `workdir/result.json`.

    Each of `config.compare.variants` is trained with the same labels for the same number of steps
    in `VARIANT/seed-S/finetune`; those with "ssl" are first pre-trained on all images in
    `VARIANT/seed-S/pretrain`. Finished trainings are not repeated, interrupted ones resume, and
    variants and seeds may be added later. Training that diverges is scored at chance level.
    Processes that run the same command at the same time share the work. Writes `comparison.csv` (a
    row per variant), `runs.csv` (a row per training) and `comparison.png` next to the result; the
    CSV files are updated after each training. Raises `UserError` before any training for an invalid
    variant.
    """
    c = config.compare
    variants = read_variants(c.variants)
    asked = {
        "variants": [variant.name for variant in variants],
        "seeds": list(c.seeds),
        "targets": list(c.targets),
    }
    used = part_of(config, JOBS["compare"].uses)
    if done := finished(workdir, used, asked):
        print(f"the comparison is already done: {workdir}")
        _show(done, workdir)
        return done
    trainings = [
        Training(
            name=f"{v.name}, seed {seed}",
            config=v.config(config, seed),
            folder=workdir / v.name / f"seed-{seed}",
            variant=v,
        )
        for seed in c.seeds  # the outer loop, so that early results are comparable
        for v in variants
    ]
    sizes = check_plans(trainings[: len(variants)], reader)
    chance_level = chance(config, reader)
    write_config(workdir, used)
    for rows in run_each(trainings, lambda t: [_train(t, reader, c.targets, chance_level)]):
        comparison = summarize(rows, sizes, c.targets)
        if jax.process_index() == 0:
            write_atomically(workdir / "comparison.csv", csv_text(comparison))
            write_atomically(workdir / "runs.csv", csv_text(map(_without_curve, rows)))
    result = {
        "job": "compare",
        "dataset": config.dataset.name,
        **asked,
        "about": {variant.name: variant.about for variant in variants},
        "comparison": comparison,
        "runs": rows,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }
    if jax.process_index() == 0:
        from smallvit_jax.reporting.compared_variants import draw_accuracies

        draw_accuracies(result).savefig(workdir / "comparison.png", dpi=150)
    result = write_result(workdir, result)
    _show(result, workdir)
    return result


def _train(
    training: Training, reader: DatasetReader, targets: Sequence[float], chance_level: float
) -> Figures:
    stages, start = [], None
    assert training.variant is not None  # `run` gives one to every training
    if training.variant.pretrains:
        start = training.folder / "pretrain"
        stages.append(run_or_diverge(pretrain.run, training.config, start, reader))
    folder = training.folder / "finetune"
    if not any("diverged" in stage for stage in stages):
        stages.append(
            run_or_diverge(finetune.run, training.config, folder, reader, init_from=start)
        )
    row = {
        "variant": training.variant.name,
        "seed": training.config.seed,
        "knn_top1": stages[0].get("knn_after"),
        "seconds": sum(stage["seconds"] for stage in stages),
    }
    if "diverged" in stages[-1]:
        scores = {"test_top1": chance_level, "best_on_test_top1": chance_level}
        return row | scores | {"diverged": True, "curve": []}
    return row | _figures(training, stages, read_metrics(folder), targets)


def _figures(
    training: Training,
    stages: Sequence[Mapping[str, Any]],
    metrics: Sequence[Figures],
    targets: Sequence[float],
) -> Figures:
    """The figures of a training.

    Times are numbers of images over the stage's images per second, which exclude evaluation,
    checkpoints and compilation; times to an accuracy include pre-training.
    """
    tuned = stages[-1]
    f, p = training.config.finetune, training.config.pretrain
    tuning = _training_seconds(tuned, f.batch_size)
    before = sum(_training_seconds(stage, p.batch_size) for stage in stages[:-1])
    curve = [
        (row["epoch"], before + tuning * row["step"] / tuned["steps"], row["top1"])
        for row in metrics
        if row["split"] == "test"
    ]
    figures: Figures = {
        "test_top1": tuned["test_top1"],
        "best_on_test_top1": tuned["best_on_test_top1"],
        "best_on_test_epoch": tuned["best_on_test_epoch"],
        "labelled_images": tuned["labelled_images"],
        "steps": tuned["steps"],
        "images_per_second": tuned["images_per_second"],
        "training_seconds": tuning,
        "pretraining_seconds": before,
        "diverged": False,
    }
    for target in targets:
        reached = next((point for point in curve if point[2] >= target), None)
        figures[f"epochs_to_{target:g}"] = reached and reached[0]
        figures[f"seconds_to_{target:g}"] = reached and reached[1]
    return figures | {"curve": curve}


def _training_seconds(stage: Mapping[str, Any], batch_size: int) -> float:
    """Seconds of training alone, or of the whole stage if it was too short to have a rate."""
    rate = stage["images_per_second"]
    return stage["steps"] * batch_size / rate if rate else stage["seconds"]


def summarize(
    rows: Sequence[Figures], sizes: Mapping[str, ModelSize], targets: Sequence[float]
) -> list[Figures]:
    """Returns a row per variant: means over its seeds, sample deviations (n - 1) of accuracies.

    The deviation is None for a single seed. A mean is None if a seed lacks the figure, such as an
    accuracy that was not reached or the time of a training that diverged.
    """
    found = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        here = [row for row in rows if row["variant"] == variant]
        new: Figures = {
            "variant": variant,
            "seeds": len(here),
            "diverged": sum(row["diverged"] for row in here),
        }
        for name in ("test_top1", "best_on_test_top1", "knn_top1"):
            new[name] = mean(here, name)
            new[f"{name}_sd"] = deviation(here, name)
        new |= sizes[variant]._asdict()
        for name in _MEANS:
            new[name] = mean(here, name)
        for target in targets:
            for name in (f"epochs_to_{target:g}", f"seconds_to_{target:g}"):
                new[name] = mean(here, name)
        found.append(new)
    return found


_MEANS = (
    *("labelled_images", "steps", "images_per_second"),
    *("training_seconds", "pretraining_seconds", "seconds"),
)


def _without_curve(row: Figures) -> Figures:
    return {name: value for name, value in row.items() if name != "curve"}


def _show(result: Mapping[str, Any], workdir: Path) -> None:
    from smallvit_jax.reporting.compared_variants import comparison_table

    head, rows = comparison_table(result)
    print_table(f"test accuracy on {result['dataset']} in %", [head, *rows])
    print(f"  table: {workdir}/comparison.csv, each run: {workdir}/runs.csv, {workdir}/*.png")
