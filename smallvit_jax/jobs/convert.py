"""Converts weights with the reference's names to a checkpoint, and a checkpoint to such weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.checkpoints.loading import load_with_meta
from smallvit_jax.checkpoints.store import CheckpointStore
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.errors import UserError
from smallvit_jax.interop import safetensors_files, stablehlo_files, torch_files
from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.parameters import Functional, get_arrays
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.reporting.model_card import read_origin, write_card
from smallvit_jax.workdir.files import make_folder, write_atomically
from smallvit_jax.workdir.ownership import CHECKPOINTS, holds_work
from smallvit_jax.workdir.records import write_config, write_result

# Options that weights may not reveal; the config's value wins.
_NOT_IN_SHAPES = ("image_size", "heads", "lsa_mask", "pos_embed")
_SHOWN_KEYS = 4


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Converts `config.convert.source` and returns the contents of `workdir/result.json`.

    A `.pth` or `.safetensors` file becomes a checkpoint in `workdir`; a folder is read as a
    checkpoint and becomes `workdir/model.pth`, or a file of another `config.convert.format`.
    """
    del reader  # a checkpoint only records what is in the dataset table
    source = Path(config.convert.source).expanduser()
    if not source.exists():
        raise UserError(
            f"convert.source={source} does not exist; give a .pth or .safetensors file or a stage "
            "folder"
        )
    if holds_work(workdir):
        raise UserError(f"{workdir} already contains a run or a conversion; choose a new --workdir")
    if source.is_dir():
        into = _EXPORTS[config.convert.format]
    elif source.suffix == safetensors_files.SUFFIX:
        into = _from_safetensors
    else:
        into = _from_torch
    result = {"job": "convert", "source": str(source), **into(config, source, workdir)}
    write_config(workdir, part_of(config, JOBS["convert"].uses))
    result = write_result(workdir, result)
    print(f"{source} → {result['target']}: {result['model']['name']}, {result['values']:,} values")
    return result


def _from_torch(config: ConfigDict, source: Path, workdir: Path) -> dict[str, Any]:
    weights = torch_files.read_file(source, config.convert.network)
    return _from_reference(config, weights, source, workdir)


def _from_safetensors(config: ConfigDict, source: Path, workdir: Path) -> dict[str, Any]:
    weights, meta = safetensors_files.read_file(source)
    if meta is None:
        return _from_reference(config, weights, source, workdir)
    arrays, meta = safetensors_files.read_model(source)
    return _save(arrays, meta | {"converted_from": str(source)}, workdir)


def _from_reference(
    config: ConfigDict, weights: Mapping[str, np.ndarray], source: Path, workdir: Path
) -> dict[str, Any]:
    """Infers the model from weight names and shapes; the dataset is the config's."""
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
            f"{source} was trained on {options['num_classes']} classes, but {spec.name} has "
            f"{spec.num_classes}; give its dataset as the config file's argument"
        )
    meta = {
        "model": options,
        "dataset": spec.name,
        "class_names": [str(i) for i in range(spec.num_classes)],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "step": 0,
        "converted_from": str(source),
    }
    return _save(get_arrays(model), meta, workdir)


def _save(arrays: Mapping[str, Any], meta: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    step = meta["step"]
    recorded = {name: value for name, value in meta.items() if name != "step"}
    with CheckpointStore(workdir / CHECKPOINTS, keep_best=False) as store:
        store.save(step, {"step": np.int32(step)}, arrays, recorded)
    return _figures(meta["model"], arrays, workdir / CHECKPOINTS / str(step))


def _to_torch(config: ConfigDict, source: Path, workdir: Path) -> dict[str, Any]:
    del config
    model, meta = load_with_meta(source)
    target = workdir / "model.pth"
    torch_files.write_file(target, state_dict(model))
    return _figures(meta["model"], get_arrays(model), target)


def _to_safetensors(config: ConfigDict, source: Path, workdir: Path) -> dict[str, Any]:
    del config
    model, meta = load_with_meta(source)
    arrays = get_arrays(model)
    target = make_folder(workdir) / f"model{safetensors_files.SUFFIX}"
    safetensors_files.write_model(target, model, meta)
    figures = _figures(meta["model"], arrays, target)
    keys = list(state_dict(model))[:_SHOWN_KEYS]
    parameters = sum(array.size for array in Functional(model).trainable.values())
    card = write_card(meta, parameters, target.name, keys, read_origin(source, meta["step"]))
    write_atomically(workdir / "README.md", card)
    return figures


def _to_stablehlo(config: ConfigDict, source: Path, workdir: Path) -> dict[str, Any]:
    """Writes the whole forward pass, normalization included."""
    del config
    model, meta = load_with_meta(source)
    target = make_folder(workdir) / f"model{stablehlo_files.SUFFIX}"
    stablehlo_files.write_model(target, model, meta)
    return _figures(meta["model"], get_arrays(model), target)


_EXPORTS = {
    "pth": _to_torch,
    "safetensors": _to_safetensors,
    "stablehlo": _to_stablehlo,
}


def _figures(options: Mapping[str, Any], arrays: Mapping[str, Any], target: Path) -> dict[str, Any]:
    return {
        "target": str(target),
        "model": options,
        "values": sum(int(a.size) for a in arrays.values()),
    }
