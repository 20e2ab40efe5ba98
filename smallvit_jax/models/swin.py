"""The reference's Swin transformer: shifted-window attention, three stages, mean pooling."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.config.choices import WINDOW_PADDINGS
from smallvit_jax.errors import UserError, check_choice
from smallvit_jax.models.image_model import ImageModel, Images
from smallvit_jax.models.initializers import Scheme, get_scheme
from smallvit_jax.models.layers import (
    Drops,
    Linear,
    Mlp,
    PatchEmbed,
    Tokens,
    branch_drops,
    classifier,
    classify,
    draw_drops,
    drop_path,
    layer_norm,
)
from smallvit_jax.models.shifted_patches import ShiftedMerging, ShiftedPatches
from smallvit_jax.models.stems import MakeStem
from smallvit_jax.models.window_attention import Grid, WindowAttention

WINDOW = 4  # tokens per side of a window, in all settings of the reference


class Swin(ImageModel):
    """Swin transformer for small images (Liu et al., 2021).

    Defaults follow the reference (models/swin.py, train_ssl.py:228-236): width 96, doubled after
    each stage, stages of 2, 6 and 4 blocks with 3, 6 and 12 heads, windows of 4 x 4, MLP ratio 2,
    drop path rising linearly to 0.1 over all blocks. With `patch_size` 2 at 32 pixels it has
    7,044,762 parameters without the classifier; features are 384 wide.

    `image_size` determines windows and shifts, which stay the same at other sizes. A grid that is
    not a multiple of its window is padded with zeros after the first norm. In the reference, the
    padding takes part in the attention; `window_padding="masked"` masks it.

    With `stem="spt"`, patch merging also includes shifted copies, as in SPT_LSA_ViT.
    """

    PATCHES_PER_SIDE = 16  # for small images
    PHOTOGRAPH_PATCH = 4  # patch size in pixels for larger images; our choice

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int,
        num_classes: int = 0,
        width: int = 96,
        depths: tuple[int, ...] = (2, 6, 4),
        heads: int = 3,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        window_padding: str = "unmasked",
        make_stem: MakeStem,
        lsa: bool = False,
        init: str = "reference",
        dtype=jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        grid = image_size // patch_size
        _check(grid, depths, window_padding)
        shared = {"scheme": get_scheme(init), "dtype": dtype, "rngs": rngs}
        self.patch_size = patch_size
        self.num_features = width * 2 ** (len(depths) - 1)
        self.remat = remat
        self.patch_embed = make_stem(
            lambda: NormedPatchEmbed(patch_size, width, dtype=dtype, rngs=rngs),
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            normed=True,
            dtype=dtype,
            rngs=rngs,
        )
        merging: Callable[[int], nnx.Module] = functools.partial(PatchMerging, **shared)
        if isinstance(self.patch_embed, ShiftedPatches):
            start = {"kernel_init": shared["scheme"].kernel, "dtype": dtype, "rngs": rngs}
            directions = self.patch_embed.directions
            merging = functools.partial(ShiftedMerging, directions=directions, **start)
        rates = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        self.layers = nnx.List(
            SwinStage(
                width * 2**i,
                heads * 2**i,
                grid // 2**i,
                mlp_ratio,
                [next(rates) for _ in range(depth)],
                merge=merging if i + 1 < len(depths) else None,
                mask_padding=window_padding == "masked",
                lsa=lsa,
                **shared,
            )
            for i, depth in enumerate(depths)
        )
        self.norm = layer_norm(self.num_features, dtype=dtype, rngs=rngs)
        self.head = classifier(self.num_features, num_classes, rngs=rngs)

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

        Features are the mean over all tokens. As there is no class token, an attention map is the
        mean over the attention of all tokens within their windows; it sums to 1, minus the share of
        the padding. Only block features of the last stage pass through the final norm, which has
        the same width.
        """
        count = sum(len(stage.blocks) for stage in self.layers)
        index, number = range(count)[attention_block], 0
        x = self._embed(images, train)
        drops = draw_drops(rngs, count, images.shape[0])
        found: dict[str, Any] = {}
        pooled: list[Array] = []
        layers: dict[str, Array] = {}

        def note(name: str, x: Grid) -> Grid:
            if "layers" in wanted:
                layers[name] = x.reshape(x.shape[0], -1, x.shape[-1])
            return x

        note("patch_embed", x)
        note("block_input", x)
        for i, stage in enumerate(self.layers):
            for j, layer in enumerate(stage.blocks):
                if number == index and "attention" in wanted:
                    found["attention"] = layer.attn.received(layer.norm1(x))
                x = note(f"layers.{i}.blocks.{j}", _apply(layer, x, drops[number], self.remat))
                if "block_features" in wanted:
                    normed = self.norm(x) if stage.downsample is None else x
                    pooled.append(normed.astype(jnp.float32).mean(axis=(1, 2)))
                number += 1
            if stage.downsample is not None:
                x = note(f"layers.{i}.downsample", stage.downsample(x))
        features = self._pooled(x)
        if "layers" in wanted:
            note("norm", self.norm(x))
        if "block_features" in wanted:
            found["block_features"] = jnp.concatenate(pooled[-last_blocks:], axis=1)
        if "logits" in wanted:
            found["logits"] = classify(self.head, features)
        found |= {"grid": x, "layers": layers, "features": features}
        return {name: found[name] for name in wanted}

    def _pooled(self, x: Grid) -> Float[Array, "batch features"]:
        return self.norm(x).astype(jnp.float32).mean(axis=(1, 2))

    def _embed(self, images: Float[Array, "batch height width 3"], train: bool = False) -> Grid:
        batch, height, width, _ = images.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        return self.patch_embed(images, train=train).reshape(batch, rows, columns, -1)


def _apply(block: nnx.Module, x: Grid, drops: Drops | None, remat: bool) -> Grid:
    """Applies a block; with `remat`, only its input is kept for the backward pass."""
    graph, weights = nnx.split(block)

    def apply(weights, x, drops):
        return nnx.merge(graph, weights)(x, drops)

    return (jax.checkpoint(apply) if remat else apply)(weights, x, drops)


def _check(grid: int, depths: tuple[int, ...], window_padding: str) -> None:
    if grid < 2 ** (len(depths) - 1):
        raise UserError(
            f"swin halves its grid of {grid} x {grid} patches {len(depths) - 1} times, which "
            "leaves nothing; choose a smaller model.patch_size or a larger model.image_size"
        )
    check_choice("model.window_padding", window_padding, WINDOW_PADDINGS)


class NormedPatchEmbed(PatchEmbed):
    """Linear patch embedding followed by a LayerNorm."""

    def __init__(self, patch_size: int, width: int, *, dtype, rngs: nnx.Rngs):
        super().__init__(patch_size, width, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Tokens:
        """Returns one token per patch, row by row."""
        return self.norm(super().__call__(images, train=train))


class SwinStage(nnx.Module):
    """Blocks at one grid size, every other one with shifted windows, then optional merging."""

    def __init__(
        self,
        width: int,
        heads: int,
        grid: int,
        mlp_ratio: float,
        drop_path_rates: list[float],
        *,
        merge: Callable[[int], nnx.Module] | None,
        mask_padding: bool,
        lsa: bool,
        scheme: Scheme,
        dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"scheme": scheme, "dtype": dtype, "rngs": rngs}
        # A single window covering the whole grid needs no shift.
        window = min(grid, WINDOW)
        self.blocks = nnx.List(
            SwinBlock(
                width,
                heads,
                window,
                window // 2 if i % 2 and grid > window else 0,
                mlp_ratio,
                rate,
                mask_padding=mask_padding,
                lsa=lsa,
                **shared,
            )
            for i, rate in enumerate(drop_path_rates)
        )
        self.downsample = None if merge is None else merge(width)


class SwinBlock(nnx.Module):
    """Pre-norm block: window attention and MLP, each a residual branch with drop path."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        drop_path_rate: float,
        *,
        mask_padding: bool,
        lsa: bool = False,
        scheme: Scheme,
        dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"scheme": scheme, "dtype": dtype, "rngs": rngs}
        self.norm1 = layer_norm(width, dtype=dtype, rngs=rngs)
        self.attn = WindowAttention(width, heads, window, shift, mask_padding, lsa=lsa, **shared)
        self.norm2 = layer_norm(width, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, int(width * mlp_ratio), **shared)
        self.drop_path_rate = drop_path_rate

    def __call__(self, x: Grid, drops: Drops | None = None) -> Grid:
        first, second = branch_drops(drops)
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_path_rate, first)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, second)


class PatchMerging(nnx.Module):
    """Merges 2 x 2 tokens into one of twice the width; odd sides are padded with zeros."""

    def __init__(self, width: int, *, scheme: Scheme, dtype, rngs: nnx.Rngs):
        self.norm = layer_norm(4 * width, dtype=dtype, rngs=rngs)
        self.reduction = Linear(
            4 * width, 2 * width, use_bias=False, kernel_init=scheme.kernel, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Grid) -> Float[Array, "batch half_rows half_columns double_width"]:
        """Concatenates neighbors (row, column) in the order (0,0), (1,0), (0,1), (1,1)."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows // 2, 2, columns // 2, 2, width).transpose(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, rows // 2, columns // 2, 4 * width)))
