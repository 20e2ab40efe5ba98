"""A trained model back from its checkpoint."""

import os
from typing import Any

import jax.numpy as jnp
from flax import nnx

from smallvit_jax.models import abstract_model
from smallvit_jax.models.parameters import set_arrays
from smallvit_jax.training.checkpoints import read_params_and_meta


def load_checkpoint(path: str | os.PathLike, which: str = "latest") -> nnx.Module:
    """Returns the model of a checkpoint, ready to use on any number of devices.

    Args:
      path: a stage folder such as `runs/x/finetune`, its `checkpoints`, or one step in that.
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
    arrays, meta = read_params_and_meta(path, which)
    model = abstract_model(**meta["model"], dtype=dtype)
    set_arrays(model, arrays, f"The checkpoint {path}")
    return model, meta
