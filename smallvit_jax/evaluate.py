"""Evaluation of a checkpoint on a dataset's test split, from `params` and `meta` alone."""

import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from smallvit_jax import inputs
from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.accuracy import classification_figures, knn_accuracy
from smallvit_jax.evaluation.forward import forward_all
from smallvit_jax.loading import load_with_meta
from smallvit_jax.models.parameters import Functional
from smallvit_jax.training import runtime
from smallvit_jax.training.logs import print_table
from smallvit_jax.training.sharding import make_mesh
from smallvit_jax.training.stage import claim_folder, write_result


def run(
    config: ConfigDict, workdir: Path, data_dir: str | None, checkpoint: str | None = None
) -> dict[str, Any]:
    """Evaluates `config.evaluate.checkpoint` and returns what is in `workdir/result.json`.

    Figures: kNN accuracy of the features, and with a classifier top-1, top-5 and loss.
    `checkpoint` stands for the config's field where another job chooses it.
    """
    checkpoint = config.evaluate.checkpoint if checkpoint is None else checkpoint
    used = {k: config[k].to_dict() for k in ("dataset", "evaluate", "runtime")}
    used["seed"] = config.seed
    used["evaluate"]["checkpoint"] = checkpoint
    started = time.monotonic()
    dtype = runtime.prepare(config.runtime.precision, config.runtime.compilation_cache)
    model, meta = load_with_meta(checkpoint, dtype=dtype)
    claim_folder(workdir, used)
    data = inputs.load_data(config, data_dir)
    classes = meta["model"].get("num_classes", 0)
    if classes and classes != data.info.num_classes:
        raise UserError(
            f"evaluate.checkpoint={checkpoint} tells {classes} classes of {meta['dataset']} apart, "
            f"and {data.info.name} has {data.info.num_classes}; evaluate it on {meta['dataset']}."
        )

    mesh, network = make_mesh(), Functional(model)

    def forward(method: str, split: inputs.Split):
        @jax.jit
        def apply(arrays, batch):
            images = evaluation_batch(batch, meta["model"]["image_size"], meta["mean"], meta["std"])
            return network(arrays, network.buffers, images, method=method)[0]

        return forward_all(
            lambda batch: apply(network.trainable, batch),
            split.images,
            config.evaluate.batch_size,
            mesh,
        )

    bank = data.train.take(data.subsets.labelled)
    result = {
        "job": "evaluate",
        "dataset": data.info.name,
        "checkpoint": str(checkpoint),
        "checkpoint_step": meta["step"],
        "test_images": len(data.test.labels),
        "knn_top1": knn_accuracy(
            forward("features", bank),
            bank.labels,
            forward("features", data.test),
            data.test.labels,
            num_classes=data.info.num_classes,
            k=config.evaluate.knn_neighbors,
            temperature=config.evaluate.knn_temperature,
        ),
    }
    if classes:
        figures = classification_figures(forward("__call__", data.test), data.test.labels)
        result |= {f"test_{name}": value for name, value in figures.items()}
    result["seconds"] = round(time.monotonic() - started, 1)
    write_result(workdir, result)
    if config.job == "evaluate":
        shown = {k: v for k, v in result.items() if isinstance(v, float)}
        rows = [(name.replace("_", " "), f"{value:.2f}") for name, value in shown.items()]
        print_table(f"{checkpoint} on {data.info.name}", rows)
    return result
