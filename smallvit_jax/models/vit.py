"""Vision transformer of pre-norm blocks: the reference's, or with mean pooling, fixed positions."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.config.choices import POOLS, POSITIONS
from smallvit_jax.errors import UserError, check_choice
from smallvit_jax.models.block_loop import apply_blocks
from smallvit_jax.models.initializers import get_scheme
from smallvit_jax.models.layers import (
    EncoderBlock,
    PatchEmbed,
    Tokens,
    classifier,
    layer_norm,
    resize_position_embedding,
)
from smallvit_jax.models.positions import sincos_positions
from smallvit_jax.models.stems import make_stem


class ViT(nnx.Module):
    """Vision transformer for small images.

    The defaults are the reference's (models/vit.py, train_ssl.py:202-205): width 192, 9 blocks,
    12 heads, MLP ratio 2, drop path rising linearly to 0.1, LayerNorm epsilon 1e-6. With a
    `patch_size` of 4 at 32 pixels it has 2,695,680 parameters without the classifier.

    The features are the class token's (`pool` "cls"), or the mean over all patches ("mean"). With
    the mean there is no class token, and the last norm comes behind the mean (timm's `fc_norm`).
    Positions are parameters (`pos_embed` "learned") or fixed (`positions.sincos_positions`).

    Images of another size than `image_size` (a multiple of the patch size) work too: a learned
    position embedding is resized as in `resize_position_embedding`, a fixed one is made anew.

    Raises `UserError` for an unknown `pool` or `pos_embed`, or a width that has no fixed positions.
    """

    PATCHES_PER_SIDE = 8  # of small images
    PHOTOGRAPH_PATCH = 16  # own choice: pixels per side of a patch of large ones

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int | None = None,
        num_classes: int = 0,
        width: int = 192,
        depth: int | None = None,
        heads: int = 12,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        pool: str = "cls",
        pos_embed: str = "learned",
        stem: str = "patchify",
        stem_norm: str | None = None,
        stem_channels: tuple[int, ...] | None = None,
        stem_strides: tuple[int, ...] | None = None,
        spt_directions: int | None = None,
        lsa: bool = False,
        init: str = "reference",
        dtype=jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        patch_size = patch_size or image_size // self.PATCHES_PER_SIDE
        _check(pool, pos_embed, width)
        depth = depth or self.default_depth(stem)
        scheme = get_scheme(init)
        self.pool = pool
        self.grid = image_size // patch_size
        self.patch_size = patch_size
        self.remat = remat
        self.num_features = width
        class_tokens = 1 if pool == "cls" else 0

        def parameter(tokens: int) -> nnx.Param:
            return nnx.Param(scheme.token(rngs.params(), (1, tokens, width)))

        self.cls_token = parameter(1) if class_tokens else None
        learned = pos_embed == "learned"
        self.pos_embed = parameter(class_tokens + self.grid**2) if learned else None
        self.patch_embed = make_stem(
            stem,
            lambda: PatchEmbed(patch_size, width, dtype=dtype, rngs=rngs),
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            stem_norm=stem_norm,
            stem_channels=stem_channels,
            stem_strides=stem_strides,
            spt_directions=spt_directions,
            dtype=dtype,
            rngs=rngs,
        )
        self.blocks = nnx.List(
            EncoderBlock(
                width, heads, mlp_ratio, float(rate), lsa=lsa, scheme=scheme, dtype=dtype, rngs=rngs
            )
            for rate in np.linspace(0.0, drop_path, depth)
        )
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.head = classifier(width, num_classes, scheme=scheme, rngs=rngs)

    @staticmethod
    def default_depth(stem: str) -> int:
        """One block fewer with the convolutional stem, as in its paper: it costs about as much."""
        return 8 if stem == "conv" else 9

    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Logits, or features when the model has no classifier; float32.

        `images` are normalised. Drop path acts only when `rngs` is given; `train` makes a batch
        norm of the stem take the batch's statistics.
        """
        return self._logits(self.features(images, train=train, rngs=rngs))

    def features(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch width"]:
        """The pooled tokens behind the last norm, float32: what classifier and projection head see.

        Where the class token's output is all that is used of the last block, only that is computed.
        """
        x = self._embed(images, train)
        if self.pool == "mean":
            return self._pooled(apply_blocks(self.blocks, x, rngs, self.remat))
        *first_blocks, last_block = self.blocks
        x = apply_blocks(first_blocks, x, rngs, self.remat)
        return self._pooled(last_block(x, rngs, queries=1))

    def logits_and_grid(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch outputs"], Float[Array, "batch rows columns width"]]:
        """What `__call__` returns, and the grid of patch tokens behind the last block and before
        the last norm: one pass for both.
        """
        x = apply_blocks(self.blocks, self._embed(images, train), rngs, self.remat)
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        grid = x[:, -rows * columns :].reshape(len(x), rows, columns, -1)
        return self._logits(self._pooled(x)), grid

    def _logits(self, features: Float[Array, "batch features"]) -> Float[Array, "batch outputs"]:
        return features if self.head is None else self.head(features).astype(jnp.float32)

    def block_features(
        self, images: Float[Array, "batch height width 3"], blocks: int
    ) -> Float[Array, "batch features"]:
        """The pooled tokens of the last `blocks` blocks (all, if there are fewer), each behind the
        last norm, side by side; float32, in evaluation mode (DINO's eval_linear.py).
        """
        first = max(0, len(self.blocks) - blocks)
        x = apply_blocks(list(self.blocks)[:first], self._embed(images), None)
        pooled = []
        for block in self.blocks[first:]:
            x = block(x)
            pooled.append(self._pooled(x))
        return jnp.concatenate(pooled, axis=1)

    def attention(
        self, images: Float[Array, "batch height width 3"], block: int = -1
    ) -> Float[Array, "batch heads rows columns"]:
        """How the class token spreads its attention over the patches in a block, or what each patch
        receives where there is none; float32, in evaluation mode.

        The class token's map has a sum below 1, by what it keeps for itself. Without one, a map is
        the mean over all patches of how they spread theirs, and its sum is 1. `block` counts from
        0, or back from -1; raises `IndexError` for one that is not there.
        """
        index = range(len(self.blocks))[block]
        x = apply_blocks(list(self.blocks)[:index], self._embed(images), None)
        last = self.blocks[index]
        if self.pool == "mean":
            weights = last.attn.weights(last.norm1(x), queries=x.shape[1]).mean(axis=2)
        else:
            weights = last.attn.weights(last.norm1(x), queries=1)[:, :, 0, 1:]
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        return weights.reshape(*weights.shape[:2], rows, columns)

    def intermediates(self, images: Float[Array, "batch height width 3"]) -> dict[str, Tokens]:
        """All tokens after each layer, by the layer's name in evaluation mode; behind the last norm
        the mean token alone, if that is what is normalised.
        """
        outputs = {"patch_embed": self.patch_embed(images)}
        x = outputs["block_input"] = self._embed(images)
        for i, block in enumerate(self.blocks):
            x = outputs[f"blocks.{i}"] = block(x)
        outputs["norm"] = self._pooled(x)[:, None] if self.pool == "mean" else self.norm(x)
        return outputs

    def _pooled(self, x: Tokens) -> Float[Array, "batch width"]:
        """A block's tokens as features, float32."""
        x = x.mean(axis=1, dtype=jnp.float32) if self.pool == "mean" else x[:, 0]
        return self.norm(x).astype(jnp.float32)

    def _embed(self, images: Float[Array, "batch height width 3"], train: bool = False) -> Tokens:
        """Patch tokens, behind the class token if there is one, with positions added."""
        x = self.patch_embed(images, train=train)
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        if self.cls_token is not None:
            shape = (images.shape[0], 1, self.num_features)
            cls = jnp.broadcast_to(self.cls_token[...], shape).astype(x.dtype)
            x = jnp.concatenate([cls, x], axis=1)
        return x + self._positions(rows, columns).astype(x.dtype)

    def _positions(self, rows: int, columns: int) -> Float[Array, "1 tokens width"]:
        class_tokens = 0 if self.cls_token is None else 1
        if self.pos_embed is None:
            positions = sincos_positions(rows, columns, self.num_features)
            # A class token has no place in the image: its position is 0, as MAE has it.
            return jnp.pad(positions, ((class_tokens, 0), (0, 0)))[None]
        positions = self.pos_embed[...]
        if (rows, columns) == (self.grid, self.grid):
            return positions
        grid = positions[0, class_tokens:].reshape(self.grid, self.grid, -1)
        patches = resize_position_embedding(grid, rows, columns).reshape(1, rows * columns, -1)
        return jnp.concatenate([positions[:, :class_tokens], patches], axis=1)


def _check(pool: str, pos_embed: str, width: int) -> None:
    check_choice("model.pool", pool, POOLS)
    check_choice("model.pos_embed", pos_embed, POSITIONS)
    if pos_embed == "sincos" and width % 4:
        raise UserError(
            f"model.pos_embed=sincos gives a quarter of model.width to each of four kinds of wave, "
            f"and {width} is no multiple of 4; choose one that is"
        )
