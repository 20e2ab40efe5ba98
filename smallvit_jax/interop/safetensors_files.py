"""Models as single `.safetensors` files: weights by the reference's key names, and metadata.

Any program can read the weights. This one also reads the metadata: the model's options, class
names, mean and std, so that the file alone is enough to restore the model.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from smallvit_jax.errors import UserError
from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.models import abstract_model
from smallvit_jax.models.parameters import get_arrays

SUFFIX = ".safetensors"
VERSION = 1
_ENTRY = "smallvit_jax"  # metadata key of a JSON string
_KEPT = ("model", "dataset", "class_names", "mean", "std", "step")


def write_model(path: Path, model: nnx.Module, meta: Mapping[str, Any]) -> None:
    """Writes a model's weights, with the description from its checkpoint's `meta`.

    The file has the reference's key names and layouts, in float32 (Swin's relative position indices
    in int64).
    """
    from safetensors.numpy import save_file

    weights = state_dict(model)
    described = {"format_version": VERSION, **{name: meta[name] for name in _KEPT}}
    described["digest"] = _digest(weights, described)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    save_file(weights, unfinished, {"format": "pt", _ENTRY: json.dumps(described)})
    unfinished.replace(path)


def read_model(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays of a model by dotted path, and the description from `meta`.

    The arrays are bit-identical to those given to `write_model`. Raises `UserError` for a file that
    is damaged, was changed since, or was not written by `write_model`.
    """
    weights, meta = read_file(path)
    if meta is None:
        raise UserError(
            f"{path} has weights but no description of their model; convert it to a checkpoint "
            f"with configs/convert.py and --config.convert.source={path}"
        )
    model = abstract_model(**meta["model"])
    load_state_dict(model, weights)
    return {name: np.asarray(array) for name, array in get_arrays(model).items()}, meta


def read_file(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Returns the weights in a file by the reference's names, and `meta`, or None if the file is
    not from `write_model`. Floats of any precision become float32."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; give the path of a {SUFFIX} file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a safetensors file, or is damaged ({error})") from error
    meta = _read_description(metadata, weights, path)
    return {name: _to_float32(name, array, path) for name, array in weights.items()}, meta


def _read_description(
    metadata: Mapping[str, str], weights: Mapping[str, np.ndarray], path: str | os.PathLike
) -> dict[str, Any] | None:
    if _ENTRY not in metadata:
        return None
    try:
        described = json.loads(metadata[_ENTRY])
        digest, version = described.pop("digest"), described["format_version"]
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its description of the model is unreadable") from error
    if version != VERSION:
        raise UserError(
            f"{path} has version {version} but this smallvit_jax reads version {VERSION}; use the "
            "version that wrote it"
        )
    if digest != _digest(weights, described):
        raise UserError(f"{path} was damaged or changed after it was written; write it again")
    return {name: described[name] for name in _KEPT}


def _digest(weights: Mapping[str, np.ndarray], described: Mapping[str, Any]) -> str:
    """128 bits of BLAKE2b over names, shapes, bytes and description, in hexadecimal."""
    hashed = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16)
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        hashed.update(f"{name} {array.dtype} {array.shape}".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def _to_float32(name: str, array: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    if array.dtype.kind in "iub":
        return array
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {name} has values that are not finite; use other weights")
    return array
