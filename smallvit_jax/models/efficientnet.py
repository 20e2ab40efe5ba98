"""EfficientNet-B0 (Tan and Le, "EfficientNet: Rethinking Model Scaling", 2019)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.errors import UserError
from smallvit_jax.models.convnet import (
    ConvNet,
    ConvNorm,
    Maps,
    check_init,
    choose_stem,
    he_normal,
    linear_classifier,
)
from smallvit_jax.models.initializers import uniform_fan_in
from smallvit_jax.models.layers import Drops, Linear, branch_drops, drop_path

_WIDTH = 32  # channels of the stem; all other layers scale with it


class BlockGroup(NamedTuple):
    """Blocks of one kind; the first one changes the channels and has the stride."""

    expansion: int
    channels: int
    blocks: int
    side: int
    stride: int


GROUPS = (
    BlockGroup(expansion=1, channels=16, blocks=1, side=3, stride=1),
    BlockGroup(expansion=6, channels=24, blocks=2, side=3, stride=2),
    BlockGroup(expansion=6, channels=40, blocks=2, side=5, stride=2),
    BlockGroup(expansion=6, channels=80, blocks=3, side=3, stride=2),
    BlockGroup(expansion=6, channels=112, blocks=3, side=5, stride=1),
    BlockGroup(expansion=6, channels=192, blocks=4, side=5, stride=2),
    BlockGroup(expansion=6, channels=320, blocks=1, side=3, stride=1),
)


class EfficientNetB0(ConvNet):
    """Sixteen inverted residual blocks with depthwise convolutions and squeeze-and-excitation.

    4,020,358 parameters with 10 classes. The paper's `stem` "imagenet" halves the image, so a
    32 x 32 image ends at a single position; "cifar" keeps its size and ends at 2 x 2. None chooses
    by image size, see `choose_stem`.

    `width` is the number of stem channels, a multiple of 8; all other layers scale with it, rounded
    to multiples of 8. Drop path (the paper's drop connect) rises linearly over the blocks, as in
    the authors' code; dropout 0.2 precedes the classifier.

    Initialized as in the authors' code: convolutions N(0, 2 / fan out), where the fan of a
    depthwise convolution is its kernel area; classifier U(-1, 1) / sqrt(classes). Raises
    `UserError` if the stem is unknown, the width is not a multiple of 8, or `init` is not
    "reference".
    """

    DROPOUT = 0.2

    def __init__(
        self,
        *,
        image_size: int = 32,
        num_classes: int = 0,
        width: int = _WIDTH,
        stem: str | None = None,
        drop_path: float = 0.2,
        init: str = "reference",
        dtype=jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_init(init)
        _check(width)
        shared = {"kernel_init": he_normal("fan_out"), "dtype": dtype, "rngs": rngs}
        halves = choose_stem(stem, image_size) == "imagenet"
        self.image_size, self.remat = image_size, remat
        self.stem = ConvNorm(3, width, 3, 2 if halves else 1, **shared)
        count = sum(group.blocks for group in GROUPS)
        rates = iter((drop_path * np.arange(count) / count).tolist())
        blocks, inputs = [], width
        for group in GROUPS:
            outputs = _scaled(group.channels, width)
            for i in range(group.blocks):
                stride = 1 if i else group.stride
                blocks.append(
                    InvertedBlock(
                        *(inputs, outputs, group.expansion, group.side, stride, next(rates)),
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                inputs = outputs
        self.blocks = nnx.List(blocks)
        self.num_features = 4 * inputs
        self.last = ConvNorm(inputs, self.num_features, 1, **shared)
        kernel_init = uniform_fan_in(max(num_classes, 1))  # by the number of outputs
        self.head = linear_classifier(self.num_features, num_classes, kernel_init, rngs=rngs)

    @classmethod
    def complete_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Fills in options that depend on others; raises `UserError` if they do not fit."""
        check_init(options["init"])
        _check(options["width"])
        return options | {"stem": choose_stem(options["stem"], options["image_size"])}

    def _begin(self, images: Float[Array, "batch height width 3"], **mode: bool) -> Maps:
        return jax.nn.silu(self.stem(images, **mode))

    def _end(self, x: Maps, **mode: bool) -> Maps:
        return jax.nn.silu(self.last(x, **mode))


def _scaled(channels: int, width: int) -> int:
    """Scales channels and rounds to a multiple of 8, at most 10 % down (as in round_filters)."""
    exact = channels * width / _WIDTH
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


def _check(width: int) -> None:
    if width % 8:
        raise UserError(
            f"model.width is {width}, but the channels of an efficientnet_b0 are multiples of 8; "
            "choose one, such as the paper's 32"
        )


class InvertedBlock(nnx.Module):
    """Inverted bottleneck: expansion, depthwise convolution, squeeze-and-excitation, projection.

    A residual branch if neither size nor channels change.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expansion: int,
        side: int,
        stride: int,
        drop_path_rate: float,
        *,
        dtype,
        rngs: nnx.Rngs,
    ):
        hidden = expansion * inputs
        dense = {"kernel_init": he_normal("fan_out"), "dtype": dtype, "rngs": rngs}
        self.expand = ConvNorm(inputs, hidden, 1, **dense) if expansion > 1 else None
        # A depthwise kernel has one input, so its fan in is its area.
        depthwise = dense | {"kernel_init": he_normal("fan_in")}
        self.filter = ConvNorm(hidden, hidden, side, stride, groups=hidden, **depthwise)
        self.excitation = Excitation(hidden, max(1, inputs // 4), **dense)
        self.project = ConvNorm(hidden, outputs, 1, **dense)
        self.residual = stride == 1 and inputs == outputs
        self.drop_path_rate = drop_path_rate

    def __call__(self, x: Maps, drops: Drops | None = None, **mode: bool) -> Maps:
        hidden = x if self.expand is None else jax.nn.silu(self.expand(x, **mode))
        hidden = jax.nn.silu(self.filter(hidden, **mode))
        branch = self.project(self.excitation(hidden), **mode)
        drawn = branch_drops(drops)[0]
        return x + drop_path(branch, self.drop_path_rate, drawn) if self.residual else branch


class Excitation(nnx.Module):
    """Squeeze-and-excitation: gates each channel by the means of all channels (Hu et al., 2018)."""

    def __init__(self, channels: int, squeezed: int, *, kernel_init, dtype, rngs: nnx.Rngs):
        linear = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
        self.reduce = Linear(channels, squeezed, **linear)
        self.expand = Linear(squeezed, channels, **linear)

    def __call__(self, x: Maps) -> Maps:
        mean = x.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        return x * jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(mean))))
