"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2016)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.config.choices import SHORTCUTS
from smallvit_jax.errors import UserError, check_choice
from smallvit_jax.models.convnet import (
    ConvNet,
    ConvNorm,
    Maps,
    check_init,
    choose_stem,
    he_normal,
    linear_classifier,
)
from smallvit_jax.models.initializers import Initializer, uniform_fan_in
from smallvit_jax.models.layers import Drops, branch_drops, drop_path


class ResNet(ConvNet):
    """Base class: stages of blocks with two 3 x 3 convolutions.

    Each stage has twice the channels and half the size of the previous one.
    """

    def __init__(
        self,
        *,
        image_size: int,
        width: int,
        depths: tuple[int, ...],
        stem: str,
        shortcut: str,
        drop_path: float,
        kernel_init: Initializer,
        remat: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
        self.image_size, self.remat = image_size, remat
        self.num_features = width * 2 ** (len(depths) - 1)
        self.pooled = stem == "imagenet"
        self.stem = ConvNorm(3, width, *((7, 2) if self.pooled else (3, 1)), **shared)
        rates = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        blocks, inputs = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                outputs = width * 2**stage
                blocks.append(BasicBlock(inputs, outputs, stride, shortcut, next(rates), **shared))
                inputs = outputs
        self.blocks = nnx.List(blocks)

    def _begin(self, images: Float[Array, "batch height width 3"], **mode: bool) -> Maps:
        x = jax.nn.relu(self.stem(images, **mode))
        if not self.pooled:
            return x
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class ResNet18(ResNet):
    """Four stages of two blocks, 64 to 512 channels, projection shortcuts where the size changes.

    `stem` "imagenet" is the paper's: a 7 x 7 convolution and max pooling, both with stride 2, so
    that the first stage sees 8 x 8 positions of a 32 x 32 image (11,181,642 parameters with 10
    classes). "cifar" is a 3 x 3 convolution with stride 1 (11,173,962). None chooses by image size,
    see `choose_stem`.

    Kernels are initialized as in torchvision: convolutions N(0, 2 / fan out), the classifier
    U(-1, 1) / sqrt(fan in); its bias is 0. Raises `UserError` if the stem is unknown or `init` is
    not "reference".
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        num_classes: int = 0,
        width: int = 64,
        stem: str | None = None,
        drop_path: float = 0.0,
        init: str = "reference",
        dtype=jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_init(init)
        super().__init__(
            image_size=image_size,
            width=width,
            depths=(2, 2, 2, 2),
            stem=choose_stem(stem, image_size),
            shortcut="projection",
            drop_path=drop_path,
            kernel_init=he_normal("fan_out"),
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )
        kernel_init = uniform_fan_in(self.num_features)
        self.head = linear_classifier(self.num_features, num_classes, kernel_init, rngs=rngs)

    @classmethod
    def complete_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Fills in options that depend on others; raises `UserError` if they do not fit."""
        check_init(options["init"])
        return options | {"stem": choose_stem(options["stem"], options["image_size"])}


class ResNet56(ResNet):
    """The paper's CIFAR network: 6n + 2 layers in three stages of n blocks, 16 to 64 channels.

    `depth` counts layers (None: 56, as in the name, n = 9); 853,018 parameters with 10 classes.
    Where the channels double, the shortcut either takes every other position and adds zero channels
    on both sides (`shortcut` "pad", the paper's option A) or is a 1 x 1 convolution with batch norm
    ("projection", option B: 855,770 parameters).

    All kernels are initialized from N(0, 2 / fan in). Raises `UserError` if the depth is not
    6n + 2, the shortcut is unknown, or `init` is not "reference".
    """

    DEPTH = 56

    def __init__(
        self,
        *,
        image_size: int = 32,
        num_classes: int = 0,
        width: int = 16,
        depth: int | None = None,
        shortcut: str = "pad",
        drop_path: float = 0.0,
        init: str = "reference",
        dtype=jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_init(init)
        depth = depth or self.DEPTH
        _check(depth, shortcut)
        super().__init__(
            image_size=image_size,
            width=width,
            depths=((depth - 2) // 6,) * 3,
            stem="cifar",
            shortcut=shortcut,
            drop_path=drop_path,
            kernel_init=he_normal("fan_in"),
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )
        kernel_init = he_normal("fan_in")
        self.head = linear_classifier(self.num_features, num_classes, kernel_init, rngs=rngs)

    @classmethod
    def complete_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """See `ResNet18.complete_options`."""
        check_init(options["init"])
        depth = options["depth"] or cls.DEPTH
        _check(depth, options["shortcut"])
        return options | {"depth": depth}


class ResNet110(ResNet56):
    """`ResNet56` with n = 18: 1,727,962 parameters with 10 classes."""

    DEPTH = 110


def _check(depth: int, shortcut: str) -> None:
    if depth < 8 or depth % 6 != 2:
        raise UserError(
            f"model.depth is {depth}, but CIFAR resnets have 6n + 2 layers; choose one of "
            "8, 14, 20, ..., 56, ..., 110"
        )
    check_choice("model.shortcut", shortcut, SHORTCUTS)


class BasicBlock(nnx.Module):
    """Two 3 x 3 convolutions, the first with the stride, and a shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        shortcut: str,
        drop_path_rate: float,
        *,
        kernel_init: Initializer,
        dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
        self.stride, self.added, self.drop_path_rate = stride, outputs - inputs, drop_path_rate
        self.conv1 = ConvNorm(inputs, outputs, 3, stride, **shared)
        self.conv2 = ConvNorm(outputs, outputs, 3, **shared)
        changes = stride > 1 or self.added
        projects = changes and shortcut == "projection"
        self.projection = ConvNorm(inputs, outputs, 1, stride, **shared) if projects else None

    def __call__(self, x: Maps, drops: Drops | None = None, **mode: bool) -> Maps:
        branch = self.conv2(jax.nn.relu(self.conv1(x, **mode)), **mode)
        if self.projection is not None:
            x = self.projection(x, **mode)
        elif self.added or self.stride > 1:
            before = self.added // 2
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, self.added - before)))
        return jax.nn.relu(x + drop_path(branch, self.drop_path_rate, branch_drops(drops)[0]))
