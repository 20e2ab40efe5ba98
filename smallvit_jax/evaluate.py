"""Evaluation of a checkpoint on a dataset's test split, from `params` and `meta` alone."""

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from smallvit_jax import inputs
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.accuracy import classification_figures, knn_accuracy
from smallvit_jax.evaluation.forward import Forward
from smallvit_jax.loading import load_with_meta
from smallvit_jax.models.parameters import Functional, get_arrays
from smallvit_jax.training import runtime
from smallvit_jax.training.logs import print_table, write_config, write_result
from smallvit_jax.training.sharding import make_mesh
from smallvit_jax.training.stage_folder import check_folder


def run(
    config: ConfigDict, workdir: Path, data_dir: str | None, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Evaluates `config.evaluate.checkpoint` and returns what is in `workdir/result.json`.

    Figures: accuracy of a kNN classifier on the features, whose bank is all training images with
    a label; with a classifier also top-1, top-5 and loss. `checkpoint` is the stage that a recipe
    evaluates, in place of the config's field.
    """
    started = time.monotonic()
    used = {k: config[k].to_dict() for k in ("dataset", "evaluate", "runtime")}
    used["seed"] = config.seed
    if checkpoint is not None:
        used["evaluate"]["checkpoint"] = f"../{checkpoint.name}"  # wherever the recipe's folder is
    check_folder(workdir, used)
    dtype = runtime.prepare(config.runtime.precision, config.runtime.compilation_cache)
    source = checkpoint or config.evaluate.checkpoint
    model, meta = load_with_meta(source, dtype=dtype)
    if meta["dataset"] != config.dataset.name:
        raise UserError(
            f"evaluate.checkpoint={source} is of a model of {meta['dataset']}, and this run "
            f"evaluates on {config.dataset.name}; set --config.dataset.name={meta['dataset']}"
        )
    data = inputs.load_data(config, data_dir)
    result = {
        "job": "evaluate",
        "dataset": data.info.name,
        "seed": config.seed,
        "checkpoint": str(source),
        "checkpoint_step": meta["step"],
        "test_images": len(data.test.labels),
        **_figures(config, model, meta, data),
    }
    result["seconds"] = round(time.monotonic() - started, 1)
    write_config(workdir, used)
    result = write_result(workdir, result)
    if config.job == "evaluate":
        shown = {k: v for k, v in result.items() if isinstance(v, float)}
        rows = [(name.replace("_", " "), f"{value:.2f}") for name, value in shown.items()]
        print_table(f"{source} on {data.info.name}", rows)
    return result


def _figures(config: ConfigDict, model, meta: dict[str, Any], data: inputs.Data) -> dict[str, Any]:
    network, arrays = Functional(model), get_arrays(model)
    settings = {
        "image_size": meta["model"]["image_size"],
        "mean": meta["mean"],
        "std": meta["std"],
        "batch_size": config.evaluate.batch_size,
        "mesh": make_mesh(),
    }
    features = Forward(network, "features", **settings)
    bank = data.train.take(data.subsets.unlabelled)
    bank = bank.take((bank.labels >= 0).nonzero()[0])
    figures = {
        "knn_images": len(bank.labels),
        "knn_top1": knn_accuracy(
            features(arrays, bank.images),
            bank.labels,
            features(arrays, data.test.images),
            data.test.labels,
            num_classes=data.info.num_classes,
            k=config.evaluate.knn_neighbors,
            temperature=config.evaluate.knn_temperature,
        ),
    }
    if meta["model"]["num_classes"]:
        logits = Forward(network, "__call__", **settings)(arrays, data.test.images)
        named = classification_figures(logits, data.test.labels)
        figures |= {f"test_{name}": value for name, value in named.items()}
    return figures
