"""Reads and writes the `.pth` files of the PyTorch reference.

Only this module needs PyTorch (`pip install 'smallvit_jax[torch]'`).
"""

import argparse
import contextlib
import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smallvit_jax.errors import UserError

NETWORKS = ("teacher", "student")


def read_file(path: str | os.PathLike, network: str = "teacher") -> dict[str, np.ndarray]:
    """Reads the weights of one model from a file of the reference.

    Accepts pre-training checkpoints (`network` selects the teacher or the student; returns its
    backbone without the projection head), fine-tuning's `model_state_dict`, and bare state dicts.
    Removes wrapper prefixes (`module.`, `backbone.`).

    Unpickles only tensors, plain containers and the `argparse.Namespace` of pre-training
    checkpoints; a file with any other object is refused (`torch.load(weights_only=True)`). Weights
    of any precision become float32. Raises `UserError` if the file does not exist, is none of
    these, or has values that are not finite.
    """
    content = _load(Path(path))
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} contains an object of type {type(content).__name__}, not a state dict"
        )
    if any(name in content for name in NETWORKS):
        if network not in content:
            other = next(name for name in NETWORKS if name in content)
            raise UserError(f"{path} has no {network}; give --config.convert.network={other}")
        weights = _without_prefixes(content[network], f"{path}'s {network}")
        weights = {k: v for k, v in weights.items() if not k.startswith("mlphead.")}
    elif "model_state_dict" in content:
        weights = _without_prefixes(content["model_state_dict"], f"{path}'s model_state_dict")
    else:
        weights = _without_prefixes(content, str(path))
    if not weights:
        raise UserError(f"{path} is not a file of the reference: it has no weights")
    return {name: _to_numpy(value, name, path) for name, value in weights.items()}


def write_file(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Writes weights under the reference's names so that the reference's scripts can load them.

    With a classifier, writes fine-tuning's `model_state_dict`, otherwise pre-training's `teacher`,
    which `finetune.py --pretrained_weights` accepts. Entries keep their order, since that script
    pairs them by position.
    """
    torch = _import_torch()
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    if "head.weight" in tensors:
        content = {"model_state_dict": tensors}
    else:
        content = {"teacher": {f"backbone.{name}": value for name, value in tensors.items()}}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    torch.save(content, unfinished)
    unfinished.replace(path)


def infer_model(weights: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    """Infers the model from weight names and shapes; returns arguments of `create_model`.

    Options that shapes do not determine have the reference's values: the ViT's heads (12, unless
    they have temperatures) and the Swin's image size (16 patches per side); a ViT with fixed
    positions is assumed to be for 32 pixels. An option is omitted if its weight is missing or has
    the wrong number of axes, so that loading reports that weight together with all others that do
    not fit.
    """
    for name, signs in _SIGNS.items():
        if all(key in weights for key in signs):
            options = {"name": name, "num_classes": _classes(weights)}
            for option, infer in _INFER[name].items():
                with contextlib.suppress(KeyError, IndexError, ValueError, ZeroDivisionError):
                    options[option] = infer(weights)
            return options
    if "patch_embed.convs.0.weight" in weights:
        raise UserError(
            f"{source} has the weights of a model with a convolutional stem, which the reference "
            "lacks and whose strides cannot be inferred from weights; use the original checkpoint"
        )
    if "patch_embed.project.weight" in weights:
        raise UserError(
            f"{source} has the weights of a model with shifted patches, which the reference lacks; "
            "use the original checkpoint"
        )
    first = ", ".join(list(weights)[:3])
    raise UserError(
        f"{source} does not have the weights of a known model (its first entries are {first}); "
        f"give weights of the reference's {', '.join(_SIGNS)}"
    )


_SIGNS = {
    "vit": ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    "cait": ("cls_token", "pos_embed", "patch_embed.1.weight", "blocks_token_only.0.gamma_1"),
    "swin": ("layers.0.blocks.0.attn.relative_position_bias_table", "patch_embed.proj.weight"),
}


# How to infer each option from the weights.
_INFER: dict[str, dict[str, Callable[[Mapping[str, np.ndarray]], Any]]] = {
    "vit": {
        "pool": lambda w: "cls" if "cls_token" in w else "mean",
        "pos_embed": lambda w: "learned" if w.keys() & {"cls_token", "pos_embed"} else "sincos",
        "image_size": lambda w: (
            math.isqrt(w["pos_embed"].shape[1] - ("cls_token" in w)) * _patch_side(w)
        ),
        "patch_size": lambda w: _patch_side(w),
        "width": lambda w: w["patch_embed.proj.weight"].shape[0],
        "depth": lambda w: _count(w, "blocks."),
        "mlp_ratio": lambda w: _mlp_ratio(w, "blocks.0"),
        "heads": lambda w: len(w["blocks.0.attn.temperature"]),  # else the default
        "lsa": lambda w: "blocks.0.attn.temperature" in w,
    },
    "cait": {
        "image_size": lambda w: math.isqrt(w["pos_embed"].shape[1]) * _flat_patch_side(w),
        "patch_size": lambda w: _flat_patch_side(w),
        "width": lambda w: w["patch_embed.1.weight"].shape[0],
        "depth": lambda w: _count(w, "blocks."),
        "class_depth": lambda w: _count(w, "blocks_token_only."),
        "heads": lambda w: _side(w["blocks.0.attn.proj_l.weight"]),
        "mlp_ratio": lambda w: _mlp_ratio(w, "blocks.0"),
        "lsa": lambda w: "blocks.0.attn.temperature" in w,
    },
    "swin": {
        "image_size": lambda w: 16 * _patch_side(w),
        "patch_size": lambda w: _patch_side(w),
        "width": lambda w: w["patch_embed.proj.weight"].shape[0],
        "depths": lambda w: tuple(
            _count(w, f"layers.{i}.blocks.") for i in range(_count(w, "layers."))
        ),
        "heads": lambda w: w[_SIGNS["swin"][0]].shape[1],
        "mlp_ratio": lambda w: _mlp_ratio(w, "layers.0.blocks.0"),
        "lsa": lambda w: "layers.0.blocks.0.attn.temperature" in w,
    },
}


def _patch_side(weights: Mapping[str, np.ndarray]) -> int:
    return weights["patch_embed.proj.weight"].shape[2]


def _flat_patch_side(weights: Mapping[str, np.ndarray]) -> int:
    return math.isqrt(weights["patch_embed.1.weight"].shape[1] // 3)


def _side(square: np.ndarray) -> int:
    side, _ = square.shape
    return side


def _mlp_ratio(weights: Mapping[str, np.ndarray], block: str) -> float:
    hidden, width = weights[f"{block}.mlp.fc1.weight"].shape
    return hidden / width


def _classes(weights: Mapping[str, np.ndarray]) -> int:
    """The number of classes from either of the classifier's arrays; 0 without a classifier."""
    found = [weights[key] for key in ("head.bias", "head.weight") if key in weights]
    return len(found[0]) if found and found[0].ndim else 0


def _count(weights: Mapping[str, np.ndarray], prefix: str) -> int:
    """The number of numbered modules with this prefix."""
    numbers = {key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix)}
    return len(numbers)


def _without_prefixes(weights: Any, place: str) -> dict[str, Any]:
    """As in the reference's finetune.py:146-148; raises `UserError` if it is not a state dict."""
    if not isinstance(weights, Mapping):
        raise UserError(f"{place} is not a state dict but a {type(weights).__name__}")
    for name, value in weights.items():
        if isinstance(value, Mapping):
            raise UserError(
                f"{place} has its weights inside {name!r}, unlike the reference's files; save only "
                "that entry with torch.save"
            )
        if not isinstance(name, str) or not hasattr(value, "numpy"):
            found = type(value).__name__
            raise UserError(f"{place} is not a state dict: its {name!r} is of type {found}")
    return {k.replace("module.", "").replace("backbone.", ""): v for k, v in weights.items()}


def _to_numpy(tensor: Any, name: str, path: str | os.PathLike) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (RuntimeError, TypeError) as error:  # sparse, quantized, complex, ...
        raise UserError(f"{path}: {name} is not a plain tensor ({tensor.layout})") from error
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {name} has values that are not finite; use an earlier checkpoint")
    return array


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the path of a .pth file")
    torch = _import_torch()
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns about files that it then refuses
            _check_sums(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} is refused because it has objects of type {named[1]}, which could run "
                "code when loaded; save only its state_dict"
            ) from error
        raise UserError(f"{path} was not written by torch.save, or is damaged") from error
    except Exception as error:  # damaged files can raise anything
        raise UserError(f"{path} was not written by torch.save, or is damaged") from error


def _check_sums(path: Path) -> None:
    """Raises `ValueError` if a checksum does not match, which torch.load does not check."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if changed := file.testzip():
                raise ValueError(f"{changed} is damaged")


def _import_torch():
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "reading and writing .pth files needs PyTorch; install it (pip install torch, or "
            "smallvit_jax with its torch extra) and run the same command again"
        ) from error
    return torch
