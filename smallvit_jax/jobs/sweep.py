"""How easy variants are to train: errors with random learning rates and weight decays.

The experiment of "Early Convolutions Help Transformers See Better" (arXiv 2106.14881, section 5.3)
at any size: the more random settings come close to the best one, the less their choice matters.
"""

import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.errors import UserError
from smallvit_jax.jobs import finetune
from smallvit_jax.jobs.trainings import (
    Figures,
    Training,
    chance,
    check_plans,
    finished,
    run_each,
    run_or_diverge,
)
from smallvit_jax.jobs.variants import Variant, read_variants
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.files import csv_text, write_atomically
from smallvit_jax.workdir.ownership import CHECKPOINTS
from smallvit_jax.workdir.records import write_config, write_result

OPTIMIZERS = ("adamw", "sgd")
_DRAWN = {f"finetune.optimizer.{name}" for name in ("name", "lr", "weight_decay")}
NEAR = 4.0  # points of error above the best; the paper's text counts these as near


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Trains every variant with random settings and returns the contents of `workdir/result.json`.

    For AdamW and for SGD, `config.sweep.settings` pairs of learning rate and weight decay are
    drawn, log-uniform in the ranges of `config.sweep`. Each of `config.sweep.variants` is trained
    with all of them, in `VARIANT/OPTIMIZER/setting-N/finetune`. Training that diverges is scored at
    chance level. Finished trainings are not repeated, so with more settings or variants only the
    new ones are trained. Processes that run the same command at the same time share the work.
    Weights are not kept. Writes `sweep.csv`, updated after each training, and `sweep.png` next to
    the result.
    """
    s = config.sweep
    variants = read_variants(s.variants)
    asked = {"variants": [variant.name for variant in variants], "settings": s.settings}
    used = part_of(config, JOBS["sweep"].uses)
    if done := finished(workdir, used, asked):
        print(f"the sweep is already done: {workdir}")
        _show(done, workdir)
        return done
    for variant in variants:
        if variant.pretrains:
            raise UserError(
                f'sweep.variants has "{variant.name}", but a sweep only trains with labels; remove '
                "ssl"
            )
        for field in _DRAWN & variant.own.keys():
            raise UserError(
                f'sweep.variants has "{variant.name}", but a sweep draws {field} itself; remove it'
            )
    trainings = [
        _training(config, variant, optimizer, number, workdir)
        for number in range(s.settings)  # the outer loop, so that early results are comparable
        for variant in variants
        for optimizer in OPTIMIZERS
    ]
    check_plans(trainings[: len(variants) * len(OPTIMIZERS)], reader)
    chance_level = chance(config, reader)
    write_config(workdir, used)
    for rows in run_each(trainings, lambda training: [_train(training, reader, chance_level)]):
        if jax.process_index() == 0:
            write_atomically(workdir / "sweep.csv", csv_text(rows))
    result = {
        "job": "sweep",
        "dataset": config.dataset.name,
        "seed": config.seed,
        **asked,
        "about": {variant.name: variant.about for variant in variants},
        "sweep": summarize(rows),
        "runs": rows,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }
    if jax.process_index() == 0:
        from smallvit_jax.reporting.sweep_page import draw_sweep

        draw_sweep(result).savefig(workdir / "sweep.png", dpi=150)
    result = write_result(workdir, result)
    _show(result, workdir)
    return result


def draw_setting(config: ConfigDict, optimizer: str, number: int) -> tuple[float, float]:
    """Returns the learning rate and weight decay of a setting.

    They depend on seed, optimizer and number only, so they are the same for all variants.
    """
    s = config.sweep
    ranges = (s[f"{optimizer}_lr"], s[f"{optimizer}_weight_decay"])
    random = np.random.default_rng([config.seed, zlib.crc32(optimizer.encode()), number])
    low, high = np.log(ranges).T
    lr, decay = np.exp(random.uniform(low, high))
    return float(lr), float(decay)


def _training(
    config: ConfigDict, variant: Variant, optimizer: str, number: int, workdir: Path
) -> Training:
    own = variant.config(config, config.seed)
    lr, decay = draw_setting(config, optimizer, number)
    o = own.finetune.optimizer
    o.scratch_lr = None  # lr is what is drawn
    o.name, o.lr, o.weight_decay = optimizer, lr, decay
    return Training(
        name=f"{variant.name}, {optimizer}, learning rate {lr:.2g}, weight decay {decay:.2g}",
        config=own,
        folder=workdir / variant.name / optimizer / f"setting-{number:03}",
        variant=variant,
    )


def _train(training: Training, reader: DatasetReader, chance_level: float) -> Figures:
    assert training.variant is not None  # `_training` always gives one
    o = training.config.finetune.optimizer
    stage = training.folder / "finetune"
    result = run_or_diverge(finetune.run, training.config, stage, reader)
    shutil.rmtree(stage / CHECKPOINTS, ignore_errors=True)
    return {
        "variant": training.variant.name,
        "optimizer": o.name,
        "setting": int(training.folder.name.removeprefix("setting-")),
        "lr": o.lr,
        "weight_decay": o.weight_decay,
        "error": 100 - result.get("test_top1", chance_level),
        "diverged": "diverged" in result,
        "seconds": result["seconds"],
    }


def summarize(rows: Sequence[Figures]) -> list[Figures]:
    """Returns a row per variant and optimizer: lowest and median error in %, the best setting, and
    the share in % of settings with an error at most `NEAR` points above the lowest."""
    found = []
    for variant, optimizer in dict.fromkeys((row["variant"], row["optimizer"]) for row in rows):
        here = [r for r in rows if (r["variant"], r["optimizer"]) == (variant, optimizer)]
        errors = np.array([row["error"] for row in here])
        best = here[int(np.argmin(errors))]
        found.append(
            {
                "variant": variant,
                "optimizer": optimizer,
                "settings": len(here),
                "best_error": best["error"],
                "median_error": float(np.median(errors)),
                "near_best": float(np.mean(errors <= best["error"] + NEAR) * 100),
                "diverged": sum(row["diverged"] for row in here),
                "best_lr": best["lr"],
                "best_weight_decay": best["weight_decay"],
            }
        )
    return found


def _show(result: Mapping[str, Any], workdir: Path) -> None:
    from smallvit_jax.reporting.sweep_page import sweep_table

    head, rows = sweep_table(result)
    print_table(f"test error on {result['dataset']} in %", [head, *rows])
    print(f"  each setting: {workdir}/sweep.csv, distribution of errors: {workdir}/sweep.png")
