"""Files that the PyTorch reference writes and reads: `.pth` in and out.

PyTorch is needed only here (`pip install 'smallvit_jax[torch]'`).
"""

import argparse
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smallvit_jax.errors import UserError

NETWORKS = ("teacher", "student")


def read_file(path: str | os.PathLike, network: str = "teacher") -> dict[str, np.ndarray]:
    """Reads the weights of one model from a file of the reference.

    Takes pre-training's checkpoints (`network` chooses the teacher or the student; its backbone
    is returned, without the projection head), fine-tuning's `model_state_dict`, and bare state
    dicts. Prefixes of wrappers (`module.`, `backbone.`) are removed.

    Only tensors, plain containers and the `argparse.Namespace` of pre-training's checkpoints are
    unpickled; a file that holds any other object is refused (`torch.load(weights_only=True)`).
    Raises `UserError` for a path or file that is none of these.
    """
    content = _load(Path(path))
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not weights by name")
    if any(name in content for name in NETWORKS):
        if network not in content:
            raise UserError(f"{path} has no {network}; choose the other network")
        weights = _without_prefixes(content[network])
        weights = {k: v for k, v in weights.items() if not k.startswith("mlphead.")}
    else:
        weights = _without_prefixes(content.get("model_state_dict", content))
    wrong = [k for k, v in weights.items() if not hasattr(v, "numpy")]
    if wrong or not weights:
        found = f"{wrong[0]!r} among its weights" if wrong else "no weights"
        raise UserError(f"{path} is not a file of the reference: it holds {found}")
    return {k: v.detach().cpu().numpy() for k, v in weights.items()}


def write_file(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Writes weights under the reference's names so that the reference's scripts load them.

    With a classifier among them as fine-tuning's `model_state_dict`, else as the `teacher` of
    pre-training, which `finetune.py --pretrained_weights` takes. Entries keep their order: that
    script pairs them by position.
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
    """Finds out from the weights' names and shapes which model they are of.

    Returns arguments of `create_model`. What shapes do not tell is the reference's: the ViT's
    heads (12), and the Swin's image size (16 patches per side).
    """
    for name, signs in _SIGNS.items():
        if all(key in weights for key in signs):
            options = _INFER[name](weights)
            classes = len(weights["head.bias"]) if "head.bias" in weights else 0
            return {"name": name, "num_classes": classes, **options}
    first = ", ".join(list(weights)[:3])
    raise UserError(
        f"{source} is of no model known here (its first entries are {first}); "
        f"{', '.join(_SIGNS)} of the reference can be read"
    )


_SIGNS = {
    "vit": ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    "cait": ("cls_token", "pos_embed", "patch_embed.1.weight", "blocks_token_only.0.gamma_1"),
    "swin": ("layers.0.blocks.0.attn.relative_position_bias_table", "patch_embed.proj.weight"),
}


def _infer_vit(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
    grid = math.isqrt(weights["pos_embed"].shape[1] - 1)
    return {
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "width": width,
        "depth": _count(weights, "blocks."),
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
    }


def _infer_cait(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width, patch_values = weights["patch_embed.1.weight"].shape
    patch_size = math.isqrt(patch_values // 3)
    grid = math.isqrt(weights["pos_embed"].shape[1])
    return {
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "width": width,
        "depth": _count(weights, "blocks."),
        "heads": weights["blocks.0.attn.proj_l.weight"].shape[0],
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
    }


def _infer_swin(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
    return {
        "image_size": 16 * patch_size,
        "patch_size": patch_size,
        "width": width,
        "mlp_ratio": weights["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width,
    }


_INFER = {"vit": _infer_vit, "cait": _infer_cait, "swin": _infer_swin}


def _count(weights: Mapping[str, np.ndarray], prefix: str) -> int:
    """How many numbered modules share the prefix."""
    numbers = {key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix)}
    return len(numbers)


def _without_prefixes(weights: Mapping[str, Any]) -> dict[str, Any]:
    """As the reference's finetune.py:146-148 does."""
    return {k.replace("module.", "").replace("backbone.", ""): v for k, v in weights.items()}


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the path of a .pth file")
    torch = _import_torch()
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error):
            raise UserError(
                f"{path} holds objects other than weights, which could run code when read, and is "
                "refused; save its state_dict alone"
            ) from error
        raise UserError(f"{path} is not a file that torch.save wrote") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a file that torch.save wrote, or is damaged") from error


def _import_torch():
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "reading and writing .pth files needs PyTorch; install it (pip install torch, or "
            "smallvit_jax with its torch extra) and run the same command again"
        ) from error
    return torch
