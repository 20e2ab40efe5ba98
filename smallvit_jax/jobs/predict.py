"""Predicts class names and probabilities for a folder of images, as a table."""

import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.evaluation.predictor import Prediction, load_predictor
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process import runtime
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.files import csv_text, make_folder, strict_json, write_atomically
from smallvit_jax.workdir.ownership import check_folder
from smallvit_jax.workdir.records import write_config, write_result

_SHOWN = 5  # images in the printed table


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Writes `predictions.csv` or `.json` to `workdir` and returns the contents of `result.json`.

    The file has a row per readable image: `file`, `class`, `probability`, then `class_2`,
    `probability_2` and so on, up to `config.predict.top`.
    """
    del reader  # the checkpoint has the class names
    p = config.predict
    used = part_of(config, JOBS["predict"].uses)
    check_folder(workdir, used)
    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache, r.fused_attention)
    predictor = load_predictor(p.checkpoint, batch_size=p.batch_size, dtype=dtype)
    started = time.monotonic()
    found = predictor.predict(p.input, p.top)
    seconds = time.monotonic() - started
    target = workdir / f"predictions.{p.format}"
    if jax.process_index() == 0:
        rows = [_row(prediction) for prediction in found]
        text = csv_text(rows) if p.format == "csv" else strict_json(rows, indent=1) + "\n"
        write_atomically(make_folder(workdir) / target.name, text)
    write_config(workdir, used)
    result = {
        "job": "predict",
        "checkpoint": p.checkpoint,
        "checkpoint_step": predictor.meta["step"],
        "input": p.input,
        "images": len(found),
        "file": target.name,
        "seconds": round(seconds, 1),
        "images_per_second": round(len(found) / seconds, 1),
    }
    shown = [(f.name, f"{f.classes[0]}", f"{f.probabilities[0]:.1%}") for f in found[:_SHOWN]]
    more = [("...", "", "")] if len(found) > _SHOWN else []
    print_table(f"{len(found):,} images: {target}", [*shown, *more])
    return write_result(workdir, result)


def _row(prediction: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {"file": prediction.name}
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    for number, (name, probability) in enumerate(pairs, 1):
        suffix = f"_{number}" if number > 1 else ""
        row |= {f"class{suffix}": name, f"probability{suffix}": round(probability, 6)}
    return row
