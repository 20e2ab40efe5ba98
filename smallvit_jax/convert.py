"""Weights of the PyTorch reference into a checkpoint, and back."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.errors import UserError
from smallvit_jax.interop import torch_files
from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.loading import load_with_meta
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.parameters import get_arrays
from smallvit_jax.training.checkpoints import CheckpointStore
from smallvit_jax.training.logs import write_config, write_result
from smallvit_jax.training.stage_folder import holds_work

# What weights may not tell; the config's value wins.
_NOT_IN_SHAPES = ("image_size", "heads", "pos_embed")


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Converts `config.convert.source` and returns what is in `workdir/result.json`.

    A file is taken for the reference's and becomes `workdir/checkpoints/0`; a folder is taken for
    a checkpoint and becomes `workdir/model.pth`.
    """
    del data_dir  # the table tells what a checkpoint needs to know of its dataset
    source = Path(config.convert.source).expanduser()
    if not source.exists():
        raise UserError(
            f"convert.source={source} does not exist; give a .pth file or a stage folder"
        )
    if holds_work(workdir):
        raise UserError(f"{workdir} holds a run or a conversion already; choose a new --workdir")
    into = _from_torch if source.is_file() else _to_torch
    result = {"job": "convert", "source": str(source), **into(config, source, workdir)}
    write_config(workdir, {k: config[k].to_dict() for k in ("dataset", "model", "convert")})
    result = write_result(workdir, result)
    print(f"{source} → {result['target']}: {result['model']['name']}, {result['values']:,} values")
    return result


def _from_torch(config: ConfigDict, source: Path, workdir: Path) -> dict[str, Any]:
    weights = torch_files.read_file(source, config.convert.network)
    options = torch_files.infer_model(weights, str(source))
    for name in _NOT_IN_SHAPES:
        if config.model[name] is not None:
            options[name] = config.model[name]
    options = resolve_options(**options)
    model = create_model(**options)
    load_state_dict(model, weights)
    spec = get_dataset(config.dataset.name)
    if options["num_classes"] not in (0, spec.num_classes):
        raise UserError(
            f"{source} tells {options['num_classes']} classes apart and {spec.name} has "
            f"{spec.num_classes}; name its dataset as the config's argument"
        )
    meta = {
        "model": options,
        "dataset": spec.name,
        "class_names": [str(i) for i in range(spec.num_classes)],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "converted_from": str(source),
    }
    arrays = get_arrays(model)
    with CheckpointStore(workdir / "checkpoints", keep_best=False) as store:
        store.save(0, {"step": np.int32(0)}, arrays, meta)
    return _figures(options, arrays, workdir / "checkpoints" / "0")


def _to_torch(config: ConfigDict, source: Path, workdir: Path) -> dict[str, Any]:
    del config
    model, meta = load_with_meta(source)
    target = workdir / "model.pth"
    torch_files.write_file(target, state_dict(model))
    return _figures(meta["model"], get_arrays(model), target)


def _figures(options: dict[str, Any], arrays: dict[str, Any], target: Path) -> dict[str, Any]:
    return {
        "target": str(target),
        "model": options,
        "values": sum(int(a.size) for a in arrays.values()),
    }
