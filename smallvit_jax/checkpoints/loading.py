"""Loads trained models from checkpoints: the whole model, or the backbone for fine-tuning."""

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
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.layers import resize_position_embedding
from smallvit_jax.models.parameters import get_arrays, set_arrays

# Options in which a backbone may differ from its checkpoint: drop path and initialization affect
# only training, and positions are resized to another image size.
FREE_OPTIONS = ("num_classes", "drop_path", "init", "image_size")


def load_checkpoint(path: str | os.PathLike, which: str = "latest") -> ImageModel:
    """Returns the model of a checkpoint, ready to use on any number of devices.

    Args:
      path: a stage folder such as `runs/x/finetune`, its `checkpoints` folder, one step in it (all
        of them also elsewhere, as in gs://bucket/x/finetune), or an exported `.safetensors` file.
      which: the "latest" step in a folder, or the "best" by held-out accuracy.

    A pre-trained backbone (with DINO the teacher's) returns features, a fine-tuned model logits.
    Raises `UserError` if there is no valid checkpoint.
    """
    return load_with_meta(path, which)[0]


def load_with_meta(
    path: str | os.PathLike, which: str = "latest", dtype=jnp.float32
) -> tuple[ImageModel, dict[str, Any]]:
    """Returns the model as `load_checkpoint` does, and the checkpoint's `meta`: dataset, class
    names, mean and std, step, versions. `dtype` is the model's compute dtype."""
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
    """Loads all weights but the classifier's and returns a one-sentence summary.

    `options` are the model's. Position embeddings are resized to the model's grid if the image size
    differs. Raises `UserError` if the checkpoint holds another model, listing the options that
    differ, or if any other array is missing, unexpected or of the wrong shape.
    """
    arrays, meta = _read(path)
    check_same_model(meta["model"], options, f"finetune.init_from={path}")
    own = get_arrays(model)
    fresh = {k: v for k, v in own.items() if k.startswith("head.")}
    backbone = {k: v for k, v in arrays.items() if not k.startswith("head.")}
    resized = ""
    # Convolutional networks have no grid of positions; they take images of any size.
    grids = [o["image_size"] // o.get("patch_size", 1) for o in (meta["model"], options)]
    if "patch_size" in options and grids[0] != grids[1]:
        _check_windows(backbone, own, path, meta["model"]["image_size"])
        resized = _fit_positions(backbone, own, options, *grids)
    set_arrays(model, backbone | fresh, f"The checkpoint {path}")
    return (
        f"loaded {len(backbone)} arrays ({sum(v.size for v in backbone.values()):,} values) from "
        f"{path} at step {meta['step']}; newly initialized: {', '.join(fresh)}{resized}"
    )


def check_same_model(theirs: dict[str, Any], ours: dict[str, Any], source: str) -> None:
    """Raises `UserError` listing the options in which the model of `source` differs from ours.

    An option that was added after the source was written counts as having had its default.
    """
    theirs, ours = (
        json.loads(json.dumps({k: v for k, v in options.items() if k not in FREE_OPTIONS}))
        for options in (resolve_options(**theirs), ours)  # tuples are lists in JSON
    )
    reasons = {"patch_size": ", so the patch embedding does not fit"}
    differing = [
        f"model.{k} is {theirs.get(k)} there but {ours.get(k)} here{reasons.get(k, '')}"
        for k in sorted(theirs.keys() | ours.keys())
        if theirs.get(k) != ours.get(k)
    ]
    if differing:
        raise UserError(
            f"{source} holds a different model ({'; '.join(differing)}); set these options to "
            "the checkpoint's values"
        )


def _check_windows(backbone: dict[str, Any], own: dict[str, Any], path, image_size: int) -> None:
    """A swin's position biases depend on its windows, which shrink if the grid is smaller."""

    def window(arrays, name):
        return (math.isqrt(len(arrays[name])) + 1) // 2  # a table has (2 window - 1)² rows

    tables = [k for k in backbone if k.endswith("relative_position_bias_table") and k in own]
    for name in tables:
        old, new = window(backbone, name), window(own, name)
        if old != new:
            stage = int(name.split(".")[1]) + 1
            raise UserError(
                f"finetune.init_from={path} was trained at {image_size} pixels with windows of "
                f"{old} x {old} patches in stage {stage}, but here the windows are {new} x "
                f"{new} and its position biases do not fit; choose a model.image_size with the "
                "same windows"
            )


def _fit_positions(
    backbone: dict[str, Any],
    own: dict[str, Any],
    options: dict[str, Any],
    old_grid: int,
    new_grid: int,
) -> str:
    """Resizes learned position embeddings in place and returns the end of the summary.

    Scales exactly by the ratio of the grids; the reference's surplus of 0.1 is only for the smaller
    crops of a forward pass.
    """
    grids = f"from {old_grid} x {old_grid} to {new_grid} x {new_grid} patches"
    if options.get("pos_embed") == "sincos":
        return f"; grid changed {grids}, fixed position embeddings recomputed"
    if "pos_embed" not in own:
        return f"; grid changed {grids}, window position biases kept"
    other_tokens = own["pos_embed"].shape[1] - new_grid**2  # the class token's come first
    positions = backbone.get("pos_embed")
    if positions is None or positions.shape[1] != other_tokens + old_grid**2:
        return ""  # set_arrays will report the wrong shape
    grid = positions[0, other_tokens:].reshape(old_grid, old_grid, -1)
    grid = np.asarray(resize_position_embedding(grid, new_grid, new_grid, surplus=0.0))
    backbone["pos_embed"] = np.concatenate(
        [positions[:, :other_tokens], grid.reshape(1, new_grid**2, -1)], axis=1
    )
    return f"; position embeddings resized {grids} (bicubic)"
