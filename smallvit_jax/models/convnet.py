"""Layers and the forward pass shared by the convolutional networks."""

import abc
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.config.choices import CONVNET_STEMS
from smallvit_jax.errors import UserError, check_choice
from smallvit_jax.models.batch_norm import BatchNorm
from smallvit_jax.models.convolve import Maps, convolve
from smallvit_jax.models.image_model import ImageModel, Images
from smallvit_jax.models.initializers import Initializer
from smallvit_jax.models.layers import (
    LARGEST_SMALL_IMAGE,
    Drops,
    Linear,
    classify,
    draw_drops,
    dropout,
)


def he_normal(mode: str) -> Initializer:
    """N(0, 2 / fan) (He et al., "Delving Deep into Rectifiers", 2015).

    The fan is the kernel's area times its inputs ("fan_in") or outputs ("fan_out").
    """

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        fan = math.prod(shape[:-2]) * shape[-2 if mode == "fan_in" else -1]
        # Drawn flat, because XLA on CPU takes seconds to compile the same draw in four dimensions.
        flat = jax.random.normal(key, (math.prod(shape),), dtype)
        return (flat * (2 / fan) ** 0.5).reshape(shape)

    return init


class ConvNorm(nnx.Module):
    """Convolution without bias, padded to keep the size at stride 1, followed by batch norm.

    A 1 x 1 convolution is computed as a matrix product over the strided positions. With `groups`
    equal to `inputs` the convolution is depthwise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int,
        stride: int = 1,
        *,
        groups: int = 1,
        kernel_init: Initializer,
        dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"use_bias": False, "kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
        self.stride = stride
        self.pointwise = side == 1
        self.conv: Linear | nnx.Conv
        if self.pointwise:
            self.conv = Linear(inputs, outputs, **shared)
        else:
            self.conv = nnx.Conv(
                *(inputs, outputs, (side, side), stride),
                padding=side // 2,
                feature_group_count=groups,
                conv_general_dilated=convolve,
                **shared,
            )
        self.norm = BatchNorm(outputs, dtype=dtype)

    def __call__(self, x: Maps, *, train: bool, record: bool) -> Maps:
        if self.pointwise and self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
        return self.norm(self.conv(x), train=train, record=record)


class ConvNet(ImageModel):
    """Base class of the families: stem, blocks, last layers, pooling, classifier.

    A family sets the attributes and `num_features`, and implements the layers before and after the
    blocks in `_begin` and `_end`. Only images of `image_size` update the running statistics.
    """

    DROPOUT = 0.0  # rate before the classifier
    image_size: int
    remat: bool
    blocks: nnx.List
    head: nnx.Linear | None

    @classmethod
    @abc.abstractmethod
    def complete_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Fills in options that depend on others; raises `UserError` if they do not fit."""

    def outputs(
        self,
        images: Images,
        *wanted: str,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
        last_blocks: int = 4,
        attention_block: int = -1,
    ) -> dict[str, Any]:
        """Runs the model once and returns the wanted outputs; see `ImageModel.outputs`.

        Images may have any size. Features are the mean over all positions; block features of the
        last block are taken after the last layers. There is no grid and no attention.
        """
        del attention_block
        if missing := {"attention", "grid", "layers"} & set(wanted):
            raise UserError(
                f"a convolutional network has no {min(missing)} to return; choose a vit, swin or "
                "cait checkpoint"
            )
        mode = {"train": train, "record": images.shape[1:3] == (self.image_size,) * 2}
        x, maps = self._begin(images, **mode), []
        drops = draw_drops(rngs, len(self.blocks), images.shape[0])
        for layer, drawn in zip(self.blocks, drops, strict=True):
            x = _apply(layer, x, drawn, self.remat, **mode)
            maps.append(x)
        maps[-1] = self._end(x, **mode)
        features = _pool(maps[-1])
        found = {"features": features}
        if "block_features" in wanted:
            found["block_features"] = jnp.concatenate(
                [_pool(m) for m in maps[-last_blocks:]], axis=1
            )
        if "logits" in wanted:
            dropped = features if self.head is None else dropout(features, self.DROPOUT, rngs)
            found["logits"] = classify(self.head, dropped)
        return {name: found[name] for name in wanted}

    @abc.abstractmethod
    def _begin(self, images: Float[Array, "batch height width 3"], *, train, record) -> Maps:
        """The layers before the blocks."""

    def _end(self, x: Maps, *, train: bool, record: bool) -> Maps:
        return x


def _pool(x: Maps) -> Float[Array, "batch channels"]:
    return x.astype(jnp.float32).mean(axis=(1, 2))


def _apply(block: nnx.Module, x: Maps, drops: Drops | None, remat: bool, **mode) -> Maps:
    """Applies a block; with `remat`, only its input is kept for the backward pass."""

    def apply(block, x, drops):
        return block(x, drops, **mode)

    return (nnx.remat(apply) if remat else apply)(block, x, drops)


def linear_classifier(
    features: int, num_classes: int, kernel_init: Initializer, *, rngs: nnx.Rngs
) -> nnx.Linear | None:
    """Linear layer from features to float32 logits, or None if there are no classes."""
    if not num_classes:
        return None
    return nnx.Linear(features, num_classes, kernel_init=kernel_init, rngs=rngs)


def choose_stem(stem: str | None, image_size: int) -> str:
    """Returns the given stem; by default "cifar" up to 96 pixels and "imagenet" above.

    Raises `UserError` if it is unknown.
    """
    if stem is None:
        return "cifar" if image_size <= LARGEST_SMALL_IMAGE else "imagenet"
    check_choice("model.stem", stem, CONVNET_STEMS)
    return stem


def check_init(init: str) -> None:
    """Raises `UserError` if `init` is not "reference", the architecture's own initialization."""
    if init != "reference":
        raise UserError(
            f'model.init is "{init}", which is for transformers; set model.init=reference for a '
            "convolutional network"
        )
