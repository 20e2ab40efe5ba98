"""Accuracy by number of labels: the recipe against training from scratch."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.jobs.trainings import Figures, Training, deviation, mean, run_each
from smallvit_jax.plans import finetuning, pretraining
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.files import csv_text, write_atomically
from smallvit_jax.workdir.ownership import finished_result
from smallvit_jax.workdir.records import write_config, write_result

WAYS = {"pretrained": "pre-trained and fine-tuned", "scratch": "from scratch"}


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Trains on every fraction of the labels and returns the contents of `workdir/result.json`.

    Each seed pre-trains once, on all images, in `seed-S/pretrain`. From there and from scratch, it
    fine-tunes for the same number of epochs on each of `config.data_efficiency.fractions` of the
    labels, in `seed-S/finetune-F` and `seed-S/scratch-F` (F in percent). Smaller fractions are
    subsets of larger ones. Finished trainings are not repeated, interrupted ones resume, and
    processes that run the same command at the same time share the seeds. Writes
    `data_efficiency.csv` (a row per training, updated after each seed) and `data_efficiency.png`
    next to the result.
    """
    used = part_of(config, JOBS["data_efficiency"].uses)
    if done := finished_result(workdir, used):
        print(f"the comparison is already done: {workdir}")
        _show(done, workdir)
        return done
    _check_plans(config, reader)
    trainings = [
        Training(f"seed {seed}", _variant(config, seed, 1.0), workdir / f"seed-{seed}")
        for seed in config.data_efficiency.seeds
    ]
    write_config(workdir, used)
    for rows in run_each(trainings, lambda training: _run_seed(training, reader)):
        if jax.process_index() == 0:
            write_atomically(workdir / "data_efficiency.csv", csv_text(rows))
    result = {
        "job": "data_efficiency",
        "dataset": config.dataset.name,
        "curve": summarize(rows),
        "runs": rows,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }
    if jax.process_index() == 0:
        title = f"{config.dataset.name}, {config.model.name}"
        draw_curve(result["curve"], title).savefig(workdir / "data_efficiency.png", dpi=150)
    result = write_result(workdir, result)
    _show(result, workdir)
    return result


def summarize(rows: list[Figures]) -> list[Figures]:
    """Mean and standard deviation of the test accuracy over seeds, by fraction and way of training.

    The deviation is that of the sample (n - 1); None for a single seed.
    """
    curve = []
    for fraction in sorted({row["fraction"] for row in rows}):
        here = [row for row in rows if row["fraction"] == fraction]
        point: Figures = {"fraction": fraction, "labels": here[0]["labels"]}
        for way in WAYS:
            these = [row for row in here if row["way"] == way]
            point[way] = mean(these, "test_top1")
            point[f"{way}_sd"] = deviation(these, "test_top1")
        curve.append(point)
    return curve


def draw_curve(curve: list[dict[str, Any]], title: str):
    """Plots test accuracy over the number of labels; bars are one standard deviation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = [point["labels"] for point in curve]
    for (way, name), color, marker in zip(
        WAYS.items(), ("#0072b2", "#d55e00"), ("o", "s"), strict=True
    ):
        deviations = [point[f"{way}_sd"] or 0.0 for point in curve]
        axes.errorbar(
            labels,
            [point[way] for point in curve],
            deviations if any(deviations) else None,
            label=name,
            color=color,
            marker=marker,
            capsize=3,
        )
    ticks = [f"{point['labels']:,}\n{point['fraction']:.0%}" for point in curve]
    axes.set_xticks(labels, ticks)
    axes.set_xlim(left=0)
    axes.set_xlabel("labeled images")
    axes.set_ylabel("test accuracy in %")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _variant(config: ConfigDict, seed: int, fraction: float) -> ConfigDict:
    """The config of one training."""
    variant = config.copy_and_resolve_references()
    variant.seed, variant.dataset.label_fraction = seed, fraction
    return variant


def _check_plans(config: ConfigDict, reader: DatasetReader) -> None:
    """Raises `UserError` for mistakes that would otherwise show only hours later."""
    for seed in config.data_efficiency.seeds:
        for fraction in config.data_efficiency.fractions:
            variant = _variant(config, seed, fraction)
            data = reader.load(variant)
            finetuning.make_plan(variant, data)
        pretraining.make_plan(variant, data)


def _run_seed(training: Training, reader: DatasetReader) -> list[Figures]:
    """The results of one seed, a row per training."""
    config, folder, rows = training.config, training.folder, []
    pretrained = pretrain.run(config, folder / "pretrain", reader)
    for fraction in config.data_efficiency.fractions:
        variant = _variant(config, config.seed, fraction)
        for way, name in (("pretrained", "finetune"), ("scratch", "scratch")):
            result = finetune.run(
                variant,
                folder / f"{name}-{100 * fraction:g}",
                reader,
                init_from=folder / "pretrain" if way == "pretrained" else None,
            )
            rows.append(
                {
                    "seed": config.seed,
                    "fraction": fraction,
                    "labels": result["labelled_images"],
                    "way": way,
                    "test_top1": result["test_top1"],
                    "best_on_test_top1": result["best_on_test_top1"],
                    "steps": result["steps"],
                    "seconds": result["seconds"],
                }
            )
    rows[0]["seconds"] = round(rows[0]["seconds"] + pretrained["seconds"], 1)
    return rows


def _show(result: dict[str, Any], workdir: Path) -> None:
    table = [("labels", *WAYS.values())]
    for point in result["curve"]:
        cells = [_with_deviation(point[way], point[f"{way}_sd"]) for way in WAYS]
        table.append((f"{point['labels']:,} ({point['fraction']:.0%})", *cells))
    print_table(f"test accuracy on {result['dataset']} in %", table)
    print(f"  curve: {workdir}/data_efficiency.png, each run: {workdir}/data_efficiency.csv")


def _with_deviation(mean: float, deviation: float | None) -> str:
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
