"""Converts weights from and to the reference's PyTorch key names and layouts.

Arrays may be NumPy arrays or CPU tensors; PyTorch itself is not needed.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from smallvit_jax.errors import UserError
from smallvit_jax.models.convnet import ConvNet
from smallvit_jax.models.heads import ViewNetwork
from smallvit_jax.models.parameters import check_names_and_shapes, get_arrays, set_arrays
from smallvit_jax.models.window_attention import relative_position_index

# Our name → the reference's, applied in this order.
_RENAMES = (
    (r"^projection\.", "mlphead."),
    (r"\bpatch_embed\.linear\.", "patch_embed.1."),  # CaiT: follows a rearrange
    (r"\bkernel$", "weight"),
    (r"\bscale$", "weight"),
    (r"\bmean$", "running_mean"),
    (r"\bvar$", "running_var"),
)

# Entries of a reference state dict that are not weights.
_NOT_WEIGHTS = ("num_batches_tracked", "relative_position_index")
_PATCH_KERNEL = "patch_embed.proj.kernel"  # a convolution in the reference


def load_state_dict(model: nnx.Module, state_dict: Mapping[str, Any]) -> None:
    """Sets the arrays of a model, which may be abstract, from a reference state dict, in place.

    Strict about names and shapes: one `UserError` names all missing, unexpected and misshapen
    entries, and the model is left unchanged. Ignores buffers that are not weights: the batch
    counters of PyTorch's batch norm (`num_batches_tracked`) and Swin's relative position indices
    (`relative_position_index`).
    """
    arrays = get_arrays(model)
    keys = reference_keys(model)
    given = {k: np.asarray(v) for k, v in state_dict.items() if not k.endswith(_NOT_WEIGHTS)}
    empty = {name: np.broadcast_to(np.float32(0), array.shape) for name, array in arrays.items()}
    expected = {keys[name]: _to_torch(array, name).shape for name, array in empty.items()}
    check_names_and_shapes(expected, {k: v.shape for k, v in given.items()}, "The state dict")
    set_arrays(
        model,
        {name: _from_torch(given[keys[name]], name, array.shape) for name, array in arrays.items()},
    )


def state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns the model's arrays with the reference's key names, order and layout, as float32.

    They are contiguous, because safetensors writes other arrays in the wrong order. Includes Swin's
    relative position indices (int64), since the reference does not load without them.
    """
    keys, arrays = reference_keys(model), get_arrays(model)
    result = {}
    for name in sorted(arrays, key=_place):
        array = _to_torch(arrays[name], name)
        result[keys[name]] = np.asarray(array, order="C")
        if name.endswith("relative_position_bias_table"):
            window = (math.isqrt(len(arrays[name])) + 1) // 2
            index = relative_position_index(window).astype(np.int64)
            result[keys[name].replace("_bias_table", "_index")] = index
    return result


def reference_keys(model: nnx.Module) -> dict[str, str]:
    """Maps our dotted path of each array to the reference's key.

    Raises `UserError` for a convolutional network, which the reference does not have.
    """
    if isinstance(model.backbone if isinstance(model, ViewNetwork) else model, ConvNet):
        raise UserError(
            "the reference has no convolutional networks, so their weights have no names there; "
            "use the checkpoint itself with smallvit_jax.load_checkpoint"
        )
    head = model.projection if isinstance(model, ViewNetwork) else model
    # In the reference, the MLP is an nn.Sequential: linear, [batch norm,] GELU, linear, ...
    stride = 3 if getattr(head, "norms", None) else 2
    keys = {}
    for name in get_arrays(model):
        key = re.sub(
            r"^(projection\.)?linears\.(\d)",
            lambda m: f"{m[1] or ''}mlp.{stride * int(m[2])}",
            name,
        )
        key = re.sub(
            r"^(projection\.)?norms\.(\d)",
            lambda m: f"{m[1] or ''}mlp.{stride * int(m[2]) + 1}",
            key,
        )
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        keys[name] = key
    return keys


# Names within a module in the order of the reference's state dicts; NNX sorts alphabetically.
_ORDER = (
    *("backbone", "projection", "cls_token", "pos_embed", "patch_embed", "gamma_1", "gamma_2"),
    *("norm1", "attn", "temperature", "relative_position_bias_table", "qkv", "q", "k", "v"),
    *("convs", "pointwise", "proj", "proj_l", "proj_w", "norm2", "mlp", "fc1", "fc2"),
    *("layers", "blocks", "blocks_token_only", "downsample", "reduction", "linear", "linears"),
    *("norms", "norm", "head", "last_layer", "weight_g", "weight_v", "kernel", "scale", "bias"),
    *("mean", "var"),
)


def _place(name: str) -> list[tuple[int, str]]:
    """Sort key of an array; names that the reference lacks come last."""
    return [
        (int(part), "")
        if part.isdecimal()
        else (_ORDER.index(part) if part in _ORDER else len(_ORDER), part)
        for part in name.split(".")
    ]


def _to_torch(array: Any, name: str) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if name.endswith(_PATCH_KERNEL):  # (row column channel, out) → (out, channel, row, column)
        side = int((array.shape[0] // 3) ** 0.5)
        return array.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
    if array.ndim == 4 and name.endswith("kernel"):  # (row, column, in, out) of a convolution
        return array.transpose(3, 2, 0, 1)
    if name.endswith(("kernel", "weight_v", "weight_g")):
        return array.T
    return array


def _from_torch(array: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(_PATCH_KERNEL):
        return array.transpose(2, 3, 1, 0).reshape(shape)
    if array.ndim == 4 and name.endswith("kernel"):
        return array.transpose(2, 3, 1, 0)
    if name.endswith(("kernel", "weight_v", "weight_g")):
        return array.T
    return array
