"""Refuses, before data is read, a training that is far too large for the memory.

The estimate is a lower bound from the config alone: weights, gradients and Adam's moments, and the
images of one step. What else a step takes, only compiling it tells (`configs/compile_check.py`).
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.data.datasets import DatasetSpec
from smallvit_jax.errors import UserError
from smallvit_jax.plans.data_and_model import model_options

_PER_WEIGHT = 16  # bytes: a float32 weight, its gradient and two moments
_PER_PIXEL = 12  # bytes: three float32 channels


def check_memory(config: ConfigDict, spec: DatasetSpec, memory: int, devices: int) -> None:
    """Raises UserError if a training needs more than `memory` bytes on each of its devices.

    Also raises UserError for options of the model that contradict each other.
    """
    options = model_options(config, spec)
    needed = [_weights(options)]
    if JOBS[config.job].pretrains:
        needed += _of_pretraining(config, options["image_size"], devices)
    if JOBS[config.job].finetunes:
        size = options["image_size"]
        pixels = config.finetune.batch_size * size**2
        fields = f"finetune.batch_size={config.finetune.batch_size} and model.image_size={size}"
        needed.append((pixels * _PER_PIXEL // _parts(config, devices), "a step's images", fields))
    for needs, what, fields in needed:
        if needs > memory:
            raise UserError(
                f"{what} would take at least {needs / 1e9:,.0f} GB with {fields}, but a device "
                f"here has {memory / 1e9:,.0f} GB; choose smaller values"
            )


def _weights(options: dict[str, Any]) -> tuple[int, str, str]:
    """Matrices of attention and MLP in all blocks of one width: less than any family has."""
    depth, width = options.get("depth") or 1, options["width"]
    values = depth * (4 + 2 * (options.get("mlp_ratio") or 0)) * width**2
    return int(values * _PER_WEIGHT), "the model", f"model.width={width} and model.depth={depth}"


def _of_pretraining(
    config: ConfigDict, image_size: int, devices: int
) -> Iterator[tuple[int, str, str]]:
    p = config.pretrain
    if p.objective == "dino":
        out, bottleneck = p.head.out_dim, p.head.bottleneck_dim
        fields = f"pretrain.head.out_dim={out} and pretrain.head.bottleneck_dim={bottleneck}"
        yield out * bottleneck * _PER_WEIGHT, "the projection head", fields
    local = 0 if p.objective == "mae" else p.views.local_crops
    views = 1 if p.objective == "mae" else 2
    pixels = p.batch_size * (views + local / 4) * image_size**2  # local crops: half the side
    fields = f"pretrain.batch_size={p.batch_size}, model.image_size={image_size}"
    fields += f" and pretrain.views.local_crops={local}" if local else ""
    yield int(pixels * _PER_PIXEL) // _parts(config, devices), "a step's views", fields


def _parts(config: ConfigDict, devices: int) -> int:
    return devices * config.runtime.accumulate
