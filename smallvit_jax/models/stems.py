"""How a transformer turns an image into tokens: with patches or a few convolutions.

The convolutional stem is ViT_C's (Xiao et al., "Early Convolutions Help Transformers See Better",
2021); `conv_stack` adapts it to small images.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float

from smallvit_jax.config.choices import SPT_DIRECTIONS, STEM_NORMS, TRANSFORMER_STEMS
from smallvit_jax.errors import UserError, check_choice
from smallvit_jax.models.batch_norm import BatchNorm
from smallvit_jax.models.convolve import convolve
from smallvit_jax.models.layers import Linear, Tokens, layer_norm
from smallvit_jax.models.shifted_patches import ShiftedPatches

_CONV_OPTIONS = ("stem_norm", "stem_channels", "stem_strides")


class ConvStack(NamedTuple):
    """The 3 x 3 convolutions of a stem, starting at the image."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


def make_stem(
    patchify: Callable[[], nnx.Module],
    *,
    stem: str,
    stem_norm: str | None = None,
    stem_channels: tuple[int, ...] | None = None,
    stem_strides: tuple[int, ...] | None = None,
    spt_directions: int | None = None,
    image_size: int,
    patch_size: int,
    width: int,
    normed: bool = False,
    dtype,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Builds a module `stem(images, *, train=False) -> tokens`, one per patch, row by row.

    `create_model` binds the stem options and passes the rest to the family as a `MakeStem`.

    Args:
      patchify: creates the family's own patch embedding, for "patchify".
      stem, ..., spt_directions: the options as returned by `resolve_stem`.
      image_size, patch_size, width: those of the model.
      normed: whether the conv stem ends with a LayerNorm, like the family's own embedding.
    """
    shared = {"dtype": dtype, "rngs": rngs}
    if stem == "patchify":
        return patchify()
    if stem == "spt":
        assert spt_directions is not None  # `resolve_stem` sets it for this stem
        return ShiftedPatches(patch_size, 3, width, spt_directions, **shared)
    # `resolve_stem` sets all three for this stem.
    assert stem_norm is not None and stem_channels is not None and stem_strides is not None
    stack = ConvStack(stem_channels, stem_strides)
    return ConvStem(image_size, width, stack, norm=stem_norm, normed=normed, **shared)


MakeStem = Callable[..., nnx.Module]
"""`make_stem` with the stem options bound."""

STEM_DEFAULTS: dict[str, str | None] = {
    "stem": "patchify",
    **dict.fromkeys(("stem_norm", "stem_channels", "stem_strides", "spt_directions")),
}
"""The stem options of every transformer, with their defaults."""


def resolve_stem(stem: str, patch_size: int, width: int, given: dict[str, Any]) -> dict[str, Any]:
    """Returns a stem's options with defaults filled in; raises `UserError` for invalid ones."""
    check_choice("model.stem", stem, TRANSFORMER_STEMS)
    if stem != "conv":
        for option in _CONV_OPTIONS:
            if given.get(option) is not None:
                raise UserError(
                    f'model.{option} is for the convolutional stem, but model.stem is "{stem}"; '
                    "set model.stem=conv or leave the option out"
                )
    directions = given.get("spt_directions")
    if stem != "spt" and directions is not None:
        raise UserError(
            f'model.spt_directions is for shifted patches, but model.stem is "{stem}"; set '
            "model.stem=spt or leave the option out"
        )
    if stem == "spt":
        return {"spt_directions": _check_shifts(patch_size, directions or min(SPT_DIRECTIONS))}
    if stem == "patchify":
        return {}
    norm = given.get("stem_norm") or "batch"
    check_choice("model.stem_norm", norm, STEM_NORMS)
    channels, strides = given.get("stem_channels"), given.get("stem_strides")
    stack = conv_stack(patch_size, width, channels, strides)
    return {
        "stem_norm": norm,
        "stem_channels": stack.channels,
        "stem_strides": stack.strides,
    }


def _check_shifts(patch_size: int, directions: int) -> int:
    if directions not in SPT_DIRECTIONS:
        raise UserError(f"model.spt_directions is {directions}; choose 4 or 8")
    if patch_size < 2:
        raise UserError(
            "model.stem=spt shifts the image by half a patch, but model.patch_size is 1; choose at "
            "least 2"
        )
    return directions


def conv_stack(
    patch_size: int,
    width: int,
    channels: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> ConvStack:
    """Returns the given stack if it fits the patch size, or derives one by rule.

    The paper's rule: each convolution has stride 2 and doubles the channels, up to the width, so
    there are log2(patch size) of them. Our additions for small images: patches of 4 pixels get one
    more at the start, at full resolution with half the channels of the next, as is usual in
    networks for such images; patches of one pixel get a single convolution. Neither depends on the
    image size, so a model keeps its stem when the image size changes.

    Raises `UserError` if the patch size is not a power of two, the width cannot be halved that
    often, or the given lists do not fit the patch size.
    """
    if (channels is None) != (strides is None):
        raise UserError(
            "model.stem_channels and model.stem_strides describe the same convolutions; give both "
            "or neither"
        )
    if channels is not None and strides is not None:
        return _check_stack(patch_size, ConvStack(tuple(channels), tuple(strides)))
    if patch_size & (patch_size - 1):
        raise UserError(
            f"model.stem=conv halves the image repeatedly, which cannot give patches of "
            f"{patch_size} pixels; choose a model.patch_size that is a power of two"
        )
    halvings = patch_size.bit_length() - 1
    strides = {0: (1,), 2: (1, 2, 2)}.get(halvings, (2,) * halvings)
    smallest = 2 ** (len(strides) - 1)
    if width % smallest:
        raise UserError(
            f"model.stem=conv doubles its channels {len(strides) - 1} times up to model.width="
            f"{width}; choose a multiple of {smallest}, or give model.stem_channels and "
            "model.stem_strides"
        )
    return ConvStack(tuple(width >> i for i in reversed(range(len(strides)))), strides)


def _check_stack(patch_size: int, stack: ConvStack) -> ConvStack:
    if len(stack.channels) != len(stack.strides) or not stack.channels:
        raise UserError(
            f"model.stem_channels={list(stack.channels)} and model.stem_strides="
            f"{list(stack.strides)} must have the same length, one entry per convolution"
        )
    step = 1
    for stride in stack.strides:
        step *= stride
    if step != patch_size or not set(stack.strides) <= {1, 2}:
        raise UserError(
            f"model.stem_strides={list(stack.strides)} must be ones and twos whose product is "
            f"model.patch_size={patch_size}, to give one token per patch"
        )
    return stack


class ConvStem(nnx.Module):
    """3 x 3 convolutions, each with norm and ReLU, then a linear layer per position.

    The linear layer is the paper's 1 x 1 convolution with bias. With `norm="batch"`, only images of
    `image_size` update the running statistics; `normed` adds a LayerNorm at the end.
    """

    def __init__(
        self,
        image_size: int,
        width: int,
        stack: ConvStack,
        *,
        norm: str,
        normed: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.image_size = image_size
        self.strides = stack.strides
        inputs = (3, *stack.channels)
        # He et al. without the kernel area: N(0, 2 / channels out); the last layer N(0, 1 / width).
        self.convs = nnx.List(
            nnx.Conv(
                inputs[i],
                channels,
                (3, 3),
                strides=stack.strides[i],
                padding=1,
                use_bias=False,
                kernel_init=initializers.normal((2 / channels) ** 0.5),
                conv_general_dilated=convolve,
                dtype=dtype,
                rngs=rngs,
            )
            for i, channels in enumerate(stack.channels)
        )
        self.norms = nnx.List(
            BatchNorm(channels, dtype=dtype)
            if norm == "batch"
            else layer_norm(channels, dtype=dtype, rngs=rngs)
            for channels in stack.channels
        )
        last = initializers.normal(width**-0.5)
        self.pointwise = Linear(inputs[-1], width, kernel_init=last, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs) if normed else None

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Tokens:
        """Returns one token per patch, row by row; `train` uses the batch statistics."""
        record = images.shape[1:3] == (self.image_size, self.image_size)
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)
            x = norm(x, train=train, record=record) if isinstance(norm, BatchNorm) else norm(x)
            x = jax.nn.relu(x)
        x = self.pointwise(x.reshape(x.shape[0], -1, x.shape[-1]))
        return x if self.norm is None else self.norm(x)
