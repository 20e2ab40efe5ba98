"""Variants of the model and of training side by side: one table, with deviations over seeds."""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.config.check import validate
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.flops import ModelSize, model_size
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.jobs.variants import Variant, read_variants
from smallvit_jax.plans import data_and_model as inputs
from smallvit_jax.process.terminal import print_table
from smallvit_jax.training.loop import TrainingDivergedError
from smallvit_jax.workdir.files import write_atomically
from smallvit_jax.workdir.metrics import read_metrics
from smallvit_jax.workdir.ownership import FolderInUseError, finished_result, locked
from smallvit_jax.workdir.records import write_config, write_result

Row = dict[str, Any]


class Training(NamedTuple):
    """A training to do: a variant with a seed, and the name that is shown."""

    name: str
    variant: Variant
    seed: int
    config: ConfigDict
    folder: Path


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Trains every variant with every seed and returns what is in `workdir/result.json`.

    Each of `config.compare.variants` is trained with the same labels for the same number of steps
    in `VARIANT/seed-S/finetune`; those with "ssl" are pre-trained first, on all images, in
    `VARIANT/seed-S/pretrain`. Runs that are done are not repeated, one that was interrupted
    continues, and variants and seeds may be added later. Training that diverges counts with the
    accuracy of guessing. The same command given twice at once shares the work: neither takes up
    what the other is at. Writes `comparison.csv` (a row for each variant), `runs.csv` (for each
    training) and `comparison.png` beside the result; the first two also on the way. Raises
    `UserError` before anything runs for a variant that makes no sense.
    """
    c = config.compare
    variants = read_variants(c.variants)
    asked = {
        "variants": [variant.name for variant in variants],
        "seeds": list(c.seeds),
        "targets": list(c.targets),
    }
    used = {k: config[k].to_dict() for k in ("dataset", "model", "pretrain", "finetune", "runtime")}
    done = finished_result(workdir, used)
    if done and all(done[key] == value for key, value in asked.items()):
        print(f"the comparison is done already: {workdir}")
        _show(done, workdir)
        return done
    trainings = [
        Training(
            name=f"{v.name}, seed {seed}",
            variant=v,
            seed=seed,
            config=v.config(config, seed),
            folder=workdir / v.name / f"seed-{seed}",
        )
        for seed in c.seeds  # outside, so that what is there early is comparable
        for v in variants
    ]
    sizes = check_plans(trainings[: len(variants)], data_dir)
    guessing = chance(config, data_dir)
    write_config(workdir, used)
    for rows in run_each(trainings, lambda t: _train(t, data_dir, c.targets, guessing)):
        comparison = summarize(rows, sizes, c.targets)
        if jax.process_index() == 0:
            write_atomically(workdir / "comparison.csv", as_csv(comparison))
            write_atomically(workdir / "runs.csv", as_csv(map(_without_curve, rows)))
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


def check_plans(trainings: Sequence[Training], data_dir: str | None) -> dict[str, ModelSize]:
    """Size of each variant's model; raises `UserError` for what would only fail hours later, and
    for two variants that are the same training."""
    sizes: dict[str, ModelSize] = {}
    same: dict[str, str] = {}
    for training in trainings:
        name = training.variant.name
        try:
            validate(training.config)
            data = inputs.load_data(training.config, data_dir)
            if training.variant.pretrains:
                pretrain.plan(training.config, data)
            options = finetune.plan(training.config, data).options
            sizes[name] = model_size(options)
        except UserError as error:
            raise UserError(f'the variant "{name}": {error}') from error
        stages = ("pretrain", "finetune") if training.variant.pretrains else ("finetune",)
        what = repr(options) + "".join(training.config[stage].to_json() for stage in stages)
        if (other := same.setdefault(what, name)) != name:
            raise UserError(
                f'the variants "{other}" and "{name}" are the same training; leave one of them'
            )
    return sizes


def chance(config: ConfigDict, data_dir: str | None) -> float:
    """The test accuracy in % of guessing."""
    return 100 / inputs.load_data(config, data_dir).info.num_classes


def run_or_diverge(
    stage: Callable[..., Row], config: ConfigDict, folder: Path, *more, **how
) -> Row:
    """The result of a stage; if its training diverges, one with `diverged`, the reason, and no
    accuracy. That is written like any other, so that it is not trained again."""
    started = time.monotonic()
    try:
        return stage(config, folder, *more, **how)
    except TrainingDivergedError as error:
        reason = str(error).partition(";")[0]  # behind it is advice to begin anew
        print(f"{reason}; this training counts as guessing", flush=True)
        seconds = round(time.monotonic() - started, 1)
        return write_result(folder, {"job": folder.name, "diverged": reason, "seconds": seconds})


def run_each(
    trainings: Sequence[Training], train: Callable[[Training], Row]
) -> Iterator[list[Row]]:
    """Runs `train` on every training, in turn, and yields the rows so far after each.

    A training that another process is at is left to it and looked at again later, when it is done.
    """
    rows: dict[int, Row] = {}
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
            yield [rows[number] for number in sorted(rows)]
        if len(rows) == before:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


_SECONDS_BETWEEN_LOOKS = 2.0


def _train(
    training: Training, data_dir: str | None, targets: Sequence[float], guessing: float
) -> Row:
    stages, start = [], None
    if training.variant.pretrains:
        start = training.folder / "pretrain"
        stages.append(run_or_diverge(pretrain.run, training.config, start, data_dir))
    folder = training.folder / "finetune"
    if not any("diverged" in stage for stage in stages):
        stages.append(
            run_or_diverge(finetune.run, training.config, folder, data_dir, init_from=start)
        )
    row = {
        "variant": training.variant.name,
        "seed": training.seed,
        "knn_top1": stages[0].get("knn_after"),
        "seconds": sum(stage["seconds"] for stage in stages),
    }
    if "diverged" in stages[-1]:
        guess = {"test_top1": guessing, "best_on_test_top1": guessing}
        return row | guess | {"diverged": True, "curve": []}
    return row | _figures(training, stages, read_metrics(folder), targets)


def _figures(
    training: Training,
    stages: Sequence[Mapping[str, Any]],
    metrics: Sequence[Row],
    targets: Sequence[float],
) -> Row:
    """What a training gave. Times are steps over the rate of the stage, which leaves out
    evaluations, checkpoints and compiling; those to an accuracy begin with pre-training."""
    tuned = stages[-1]
    f, p = training.config.finetune, training.config.pretrain
    tuning = _training_seconds(tuned, f.batch_size)
    before = sum(_training_seconds(stage, p.batch_size) for stage in stages[:-1])
    curve = [
        (row["epoch"], before + tuning * row["step"] / tuned["steps"], row["top1"])
        for row in metrics
        if row["split"] == "test"
    ]
    figures: Row = {
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
    """A stage too short to have a rate is taken with all that belongs to it."""
    rate = stage["images_per_second"]
    return stage["steps"] * batch_size / rate if rate else stage["seconds"]


def summarize(
    rows: Sequence[Row], sizes: Mapping[str, ModelSize], targets: Sequence[float]
) -> list[Row]:
    """A row for each variant: means over its seeds, and sample deviations (n - 1) of accuracies.

    The deviation is None for a single seed; a figure that not every seed has (an accuracy that was
    not reached, the time of training that diverged) is None.
    """
    found = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        here = [row for row in rows if row["variant"] == variant]
        new: Row = {
            "variant": variant,
            "seeds": len(here),
            "diverged": sum(row["diverged"] for row in here),
        }
        for name in ("test_top1", "best_on_test_top1", "knn_top1"):
            new[name] = _mean(here, name)
            new[f"{name}_sd"] = _deviation(here, name)
        new |= sizes[variant]._asdict()
        for name in _MEANS:
            new[name] = _mean(here, name)
        for target in targets:
            for name in (f"epochs_to_{target:g}", f"seconds_to_{target:g}"):
                new[name] = _mean(here, name)
        found.append(new)
    return found


_MEANS = (
    *("labelled_images", "steps", "images_per_second"),
    *("training_seconds", "pretraining_seconds", "seconds"),
)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row.get(name) for row in rows]
    return None if None in values else float(np.mean(values))


def _deviation(rows: Sequence[Row], name: str) -> float | None:
    values = [row.get(name) for row in rows]
    return None if None in values or len(values) < 2 else float(np.std(values, ddof=1))


def as_csv(rows: Iterator[Row] | Sequence[Row]) -> str:
    """Rows as a table with a column for each key; what a row lacks or has as None is empty."""
    rows = list(rows)
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _without_curve(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "curve"}


def _show(result: Mapping[str, Any], workdir: Path) -> None:
    from smallvit_jax.reporting.compared_variants import comparison_table

    head, rows = comparison_table(result)
    print_table(f"test accuracy on {result['dataset']} in %", [head, *rows])
    print(f"  table: {workdir}/comparison.csv, each run: {workdir}/runs.csv, {workdir}/*.png")
