"""Evaluates a checkpoint, using only its `params` and `meta`, on a dataset's test split."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from smallvit_jax.checkpoints.loading import load_with_meta
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.data.datasets import FOLDER
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation import accuracy, robustness
from smallvit_jax.evaluation.calibration import calibration
from smallvit_jax.evaluation.forward import available_outputs, bind_model
from smallvit_jax.evaluation.linear_probe import linear_probe
from smallvit_jax.evaluation.neighbors import knn_accuracy, knn_sweep
from smallvit_jax.plans.data_and_model import (
    Data,
    DatasetReader,
    LabeledImages,
    check_same_classes,
)
from smallvit_jax.process import runtime
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.files import make_folder, write_arrays
from smallvit_jax.workdir.ownership import check_folder
from smallvit_jax.workdir.records import write_config, write_result

SHOWN_CLASSES = 3  # number of best and of worst ones in the printed table


def run(
    config: ConfigDict, workdir: Path, reader: DatasetReader, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Evaluates `config.evaluate.checkpoint` and returns the contents of `workdir/result.json`.

    A classifier is evaluated by its accuracy, calibration, confusions and errors on corrupted
    images; the features of any model by kNN and a linear probe, both fitted to all labeled training
    images. `predictions.npz` next to the result holds the model's outputs for each test image.
    `checkpoint`, the stage that a recipe evaluates, overrides the config's.
    """
    started = time.monotonic()
    used = part_of(config, JOBS["evaluate"].uses)
    if checkpoint is not None:
        used["evaluate"]["checkpoint"] = f"../{checkpoint.name}"  # the recipe's folder may move
    check_folder(workdir, used)
    r = config.runtime
    dtype = runtime.prepare(r.precision, r.compilation_cache, r.fused_attention)
    source = checkpoint or config.evaluate.checkpoint
    model, meta = load_with_meta(source, dtype=dtype)
    data = _load_data(config, reader, meta, source)
    figures, outputs = evaluate_model(config, model, meta, data, reader.data_dir)
    result = {
        "job": "evaluate",
        "dataset": data.info.name,
        "seed": config.seed,
        "checkpoint": str(source),
        "checkpoint_step": meta["step"],
        "test_images": len(data.test.labels),
        **figures,
    }
    result["seconds"] = round(time.monotonic() - started, 1)
    if jax.process_index() == 0:
        write_arrays(make_folder(workdir) / "predictions.npz", outputs)
    write_config(workdir, used)
    result = write_result(workdir, result)
    if config.job == "evaluate":
        _show(result, f"{source} on {data.info.name}")
    return result


def _load_data(
    config: ConfigDict, reader: DatasetReader, meta: dict[str, Any], source: str | Path
) -> Data:
    """Loads the dataset: the one the model was trained on, with test labels."""
    if meta["dataset"] != config.dataset.name:
        root = meta["dataset"] == FOLDER
        more = " and --config.dataset.root to the folder with its images" if root else ""
        raise UserError(
            f"evaluate.checkpoint={source} was trained on {meta['dataset']}, but this run "
            f"evaluates on {config.dataset.name}; set --config.dataset.name={meta['dataset']}{more}"
        )
    data = reader.load(config, meta["model"]["image_size"])
    check_same_classes(meta, data.info, f"evaluate.checkpoint={source}")
    if not len(data.test.labels) or (data.test.labels < 0).any():
        raise UserError(
            f"the test images of {data.info.name} have no labels; choose a dataset that has test "
            "labels"
        )
    return data


def evaluate_model(
    config: ConfigDict,
    model: nnx.Module,
    meta: dict[str, Any],
    data: Data,
    data_dir: str | Path | None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns all figures of a model, and arrays for the test split by name.

    The arrays are `features` [images, width], `labels` [images] and, for a classifier,
    `probabilities` [images, classes].
    """
    corrupted = None
    if config.evaluate.corruptions.kinds and meta["model"]["num_classes"]:
        corrupted = robustness.corrupted_images(  # fails early if files are missing
            config.evaluate.corruptions,
            images=data.test.images,
            labels=data.test.labels,
            dataset=data.info,
            data_dir=data_dir,
        )
    bank = data.train.take(data.subsets.unlabeled)
    bank = bank.take((bank.labels >= 0).nonzero()[0])
    predict = bind_model(
        model, meta, *available_outputs(meta), batch_size=config.evaluate.batch_size
    )
    found = predict(data.test.images)
    outputs = {"features": found["features"], "labels": data.test.labels}
    figures: dict[str, Any] = {}
    if (logits := found.get("logits")) is not None:
        probabilities = np.asarray(jax.nn.softmax(logits, axis=-1))
        outputs["probabilities"] = probabilities
        figures |= _classifier_figures(logits, probabilities, data)
    if len(bank.labels):
        train_features = predict(bank.images)["features"]
        figures |= _feature_figures(
            config, model, meta, data, bank, train_features, found["features"]
        )
    if corrupted is not None:
        figures["corruptions"] = robustness.corruption_errors(
            corrupted, lambda images: predict(images)["logits"]
        )
    return figures, outputs


def _classifier_figures(logits, probabilities, data: Data) -> dict[str, Any]:
    labels = data.test.labels
    named = accuracy.classification_figures(logits, labels)
    confusion = accuracy.confusion_matrix(logits, labels)
    calibrated = calibration(probabilities, labels)
    return {
        **{f"test_{name}": value for name, value in named.items()},
        "ece": calibrated["ece"],
        "calibration": calibrated["bins"],
        "per_class": accuracy.per_class_accuracy(confusion, data.info.class_names),
        "confusion": confusion,
    }


def _feature_figures(
    config: ConfigDict, model, meta, data: Data, bank: LabeledImages, train_features, features
) -> dict[str, Any]:
    """kNN and linear probe."""
    e, classes = config.evaluate, data.info.num_classes
    known = (train_features, bank.labels, features, data.test.labels)
    figures = {
        "knn_images": len(bank.labels),
        "knn_top1": knn_accuracy(
            *known, num_classes=classes, k=e.knn_neighbors, temperature=e.knn_temperature
        ),
        "knn_sweep": knn_sweep(
            *known,
            num_classes=classes,
            neighbors=e.knn_sweep_neighbors,
            temperatures=e.knn_sweep_temperatures,
        ),
    }
    if e.probe_blocks:
        outputs_of = bind_model(
            model, meta, "block_features", batch_size=e.batch_size, last_blocks=e.probe_blocks
        )
        figures["linear_probe"] = linear_probe(
            *(outputs_of(bank.images)["block_features"], bank.labels),
            *(outputs_of(data.test.images)["block_features"], data.test.labels),
            num_classes=classes,
            epochs=e.probe_epochs,
            learning_rates=e.probe_learning_rates,
            seed=config.seed,
        )
    return figures


def _show(result: dict[str, Any], title: str) -> None:
    """Prints a table that fits on a screen; result.json has everything."""
    names = {
        "test_top1": "top-1 accuracy",
        "test_top5": "top-5 accuracy",
        "test_loss": "loss",
        "ece": "calibration error",
        "knn_top1": "kNN accuracy",
    }
    rows = [(text, f"{result[name]:.2f}") for name, text in names.items() if name in result]
    if sweep := result.get("knn_sweep"):
        best = max(sweep, key=lambda row: row["top1"])
        setting = f"k {best['neighbors']}, temperature {best['temperature']:g}"
        rows.append((f"best kNN accuracy of {len(sweep)} ({setting})", f"{best['top1']:.2f}"))
    if probe := result.get("linear_probe"):
        rows.append((f"linear probe (rate {probe['learning_rate']:g})", f"{probe['top1']:.2f}"))
    classes = [entry for entry in result.get("per_class", []) if entry["images"]]
    classes.sort(key=lambda entry: entry["top1"])
    if len(classes) > 2 * SHOWN_CLASSES:
        for kind, some in (("worst", classes[:SHOWN_CLASSES]), ("best", classes[-SHOWN_CLASSES:])):
            text = ", ".join(f"{entry['name']} {entry['top1']:.1f}" for entry in some)
            rows.append((f"{kind} classes: {text}", ""))
    print_table(title, rows)
    if "corruptions" in result:
        print(robustness.error_table(result["corruptions"]))
