"""Trained models back from their checkpoints: whole, or the backbone for a new task."""

import json
import math
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from smallvit_jax.checkpoints.store import read_params_and_meta
from smallvit_jax.errors import UserError
from smallvit_jax.interop import safetensors_files
from smallvit_jax.models import abstract_model, resolve_options
from smallvit_jax.models.layers import resize_position_embedding
from smallvit_jax.models.parameters import get_arrays, set_arrays

# Options in which a backbone may differ from its checkpoint: drop path and initialisation shape how
# it trains, and to another image size it is fitted.
FREE_OPTIONS = ("num_classes", "drop_path", "init", "image_size")


def load_checkpoint(path: str | os.PathLike, which: str = "latest") -> nnx.Module:
    """Returns the model of a checkpoint, ready to use on any number of devices.

    Args:
      path: a stage folder such as `runs/x/finetune`, its `checkpoints`, one step in that, or an
        exported `.safetensors` file.
      which: of a folder's steps the "latest", or the "best" by held-out accuracy.

    After pre-training the model gives features (the teacher's backbone), after fine-tuning
    logits. Raises `UserError` where there is no sound checkpoint.
    """
    return load_with_meta(path, which)[0]


def load_with_meta(
    path: str | os.PathLike, which: str = "latest", dtype=jnp.float32
) -> tuple[nnx.Module, dict[str, Any]]:
    """As `load_checkpoint`, with the checkpoint's `meta` beside: dataset, class names, mean and
    std, step, versions. `dtype` is what the model computes in."""
    arrays, meta = _read(path, which)
    model = abstract_model(**meta["model"], dtype=dtype)
    set_arrays(model, arrays, f"The checkpoint {path}")
    return model, meta


def _read(
    path: str | os.PathLike, which: str = "latest"
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if str(path).endswith(safetensors_files.SUFFIX) and os.path.isfile(path):
        return safetensors_files.read_model(path)
    return read_params_and_meta(path, which)


def load_backbone(model: nnx.Module, path: str | os.PathLike, options: dict[str, Any]) -> str:
    """Sets all but the classifier from a checkpoint and returns a sentence that says so.

    `options` are the model's. Position embeddings of another image size are resized to the model's
    grid, which the sentence says too. Raises `UserError` where the checkpoint is of another model,
    listing the options that differ, or where any other array is missing, unexpected or misshapen.
    """
    arrays, meta = _read(path)
    check_same_model(meta["model"], options, f"finetune.init_from={path}")
    own = get_arrays(model)
    fresh = {k: v for k, v in own.items() if k.startswith("head.")}
    backbone = {k: v for k, v in arrays.items() if not k.startswith("head.")}
    resized = ""
    # A convolutional network has no grid to fit: it takes images of any size.
    grids = [o["image_size"] // o.get("patch_size", 1) for o in (meta["model"], options)]
    if "patch_size" in options and grids[0] != grids[1]:
        _check_windows(backbone, own, path, meta["model"]["image_size"])
        resized = _fit_positions(backbone, own, options, *grids)
    set_arrays(model, backbone | fresh, f"The checkpoint {path}")
    return (
        f"loaded {len(backbone)} arrays ({sum(v.size for v in backbone.values()):,} values) from "
        f"{path} at step {meta['step']}; freshly initialised: {', '.join(fresh)}{resized}"
    )


def check_same_model(theirs: dict[str, Any], ours: dict[str, Any], source: str) -> None:
    """Raises `UserError` with the options in which the source's model is another one.

    An option that is younger than the source has its default there: the model as it was before.
    """
    theirs, ours = (
        json.loads(json.dumps({k: v for k, v in options.items() if k not in FREE_OPTIONS}))
        for options in (resolve_options(**theirs), ours)  # tuples are lists in JSON
    )
    reasons = {"patch_size": ", so the patch embedding does not fit"}
    differing = [
        f"model.{k} = {theirs.get(k)} there and {ours.get(k)} here{reasons.get(k, '')}"
        for k in sorted(theirs.keys() | ours.keys())
        if theirs.get(k) != ours.get(k)
    ]
    if differing:
        raise UserError(
            f"{source} holds another model ({'; '.join(differing)}); give this "
            "run the checkpoint's values"
        )


def _check_windows(backbone: dict[str, Any], own: dict[str, Any], path, image_size: int) -> None:
    """A swin's positions belong to its windows, which shrink where the grid is smaller."""

    def window(arrays, name):
        return (math.isqrt(len(arrays[name])) + 1) // 2  # a table has (2 window - 1)² rows

    tables = [k for k in backbone if k.endswith("relative_position_bias_table") and k in own]
    for name in tables:
        theirs, ours = window(backbone, name), window(own, name)
        if theirs != ours:
            stage = int(name.split(".")[1]) + 1
            raise UserError(
                f"finetune.init_from={path} was trained at {image_size} pixels, where the windows "
                f"of stage {stage} are {theirs} x {theirs} patches; here they are {ours} x {ours}, "
                "which its position biases do not fit; choose a model.image_size with the same "
                "windows"
            )


def _fit_positions(
    backbone: dict[str, Any],
    own: dict[str, Any],
    options: dict[str, Any],
    old_grid: int,
    new_grid: int,
) -> str:
    """Resizes the position embeddings of the patches, where they are weights, and says so.

    Exactly by the sizes: the surplus of 0.1 is for the smaller crops of a forward pass.
    """
    grids = f"from {old_grid} x {old_grid} to {new_grid} x {new_grid} patches"
    if options.get("pos_embed") == "sincos":
        return f"; the grid goes {grids}, fixed positions are made for that"
    if "pos_embed" not in own:
        return f"; the grid goes {grids}, positions by window stay as they are"
    other_tokens = own["pos_embed"].shape[1] - new_grid**2  # the class token's comes first
    positions = backbone.get("pos_embed")
    if positions is None or positions.shape[1] != other_tokens + old_grid**2:
        return ""  # a damaged checkpoint, refused below with all that is wrong
    grid = positions[0, other_tokens:].reshape(old_grid, old_grid, -1)
    grid = np.asarray(resize_position_embedding(grid, new_grid, new_grid, surplus=0.0))
    backbone["pos_embed"] = np.concatenate(
        [positions[:, :other_tokens], grid.reshape(1, new_grid**2, -1)], axis=1
    )
    return f"; position embeddings resized {grids} (bicubic)"
