"""The vision transformer: the reference's, or with mean pooling and fixed positions."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from smallvit_jax.config.choices import POOLS, POSITIONS
from smallvit_jax.errors import UserError, check_choice
from smallvit_jax.models.block_loop import apply_blocks
from smallvit_jax.models.image_model import ImageModel, Images
from smallvit_jax.models.initializers import get_scheme
from smallvit_jax.models.layers import (
    EncoderBlock,
    PatchEmbed,
    Tokens,
    classifier,
    classify,
    draw_drops,
    layer_norm,
    resize_position_embedding,
)
from smallvit_jax.models.positions import sincos_positions
from smallvit_jax.models.stems import MakeStem


class ViT(ImageModel):
    """Vision transformer for small images.

    Defaults follow the reference (models/vit.py, train_ssl.py:202-205): width 192, 9 pre-norm
    blocks, 12 heads, MLP ratio 2, drop path rising linearly to 0.1, LayerNorm epsilon 1e-6. With
    `patch_size` 4 at 32 pixels it has 2,695,680 parameters without the classifier.

    Features are the class token (`pool` "cls") or the mean over all patches ("mean"). With mean
    pooling there is no class token, and the final norm follows the pooling (timm's `fc_norm`).
    Positions are learned (`pos_embed` "learned") or fixed ("sincos", see `sincos_positions`).

    Images of another size than `image_size` (a multiple of the patch size) work too: learned
    positions are resized by `resize_position_embedding`, fixed ones are recomputed.

    Raises `UserError` if `pool` or `pos_embed` is unknown, or if `pos_embed` is "sincos" and the
    width is not a multiple of 4.
    """

    PATCHES_PER_SIDE = 8  # for small images
    PHOTOGRAPH_PATCH = 16  # patch size in pixels for larger images; our choice
    DEPTH = 9  # blocks
    DEPTH_WITH_CONV_STEM = 8  # as in the stem's paper: the stem costs about as much as a block

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int,
        num_classes: int = 0,
        width: int = 192,
        depth: int,
        heads: int = 12,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        pool: str = "cls",
        pos_embed: str = "learned",
        make_stem: MakeStem,
        lsa: bool = False,
        init: str = "reference",
        dtype=jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        _check(pool, pos_embed, width)
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
            lambda: PatchEmbed(patch_size, width, dtype=dtype, rngs=rngs),
            image_size=image_size,
            patch_size=patch_size,
            width=width,
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

        With a class token, the attention map is the class token's and sums to less than 1, because
        the class token also attends to itself. Without one, it is the mean over the attention of
        all patches and sums to 1.
        """
        count = len(self.blocks)
        index, all_layers = range(count)[attention_block], "layers" in wanted
        # Features need only the class token's output from the last block.
        class_token_only = self.pool == "cls" and not {*wanted} - {"features", "logits"}
        needed_from_end = [
            1 if class_token_only else 0,
            min(last_blocks, count) if "block_features" in wanted else 0,
            count - index if "attention" in wanted else 0,
            count if all_layers else 0,
        ]
        first = count - max(needed_from_end)
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        patches = self.patch_embed(images, train=train)
        x = self._add_positions(patches, rows, columns)
        layers = {"patch_embed": patches, "block_input": x} if all_layers else {}
        drops = draw_drops(rngs, count, images.shape[0])
        x = apply_blocks(list(self.blocks)[:first], x, drops[:first], self.remat)
        found: dict[str, Any] = {}
        pooled: list[Array] = []
        for i, layer in enumerate(list(self.blocks)[first:], first):
            if i == index and "attention" in wanted:
                found["attention"] = self._attention_map(layer, x, rows, columns)
            x = layer(x, drops[i], queries=1 if class_token_only else None)
            layers[f"blocks.{i}"] = x
            pooled.append(self._pooled(x))
        features = pooled[-1] if pooled else self._pooled(x)
        if all_layers:
            layers["norm"] = features[:, None] if self.pool == "mean" else self.norm(x)
        if "grid" in wanted:
            found["grid"] = x[:, -rows * columns :].reshape(x.shape[0], rows, columns, -1)
        if "block_features" in wanted:
            found["block_features"] = jnp.concatenate(pooled[-last_blocks:], axis=1)
        if "logits" in wanted:
            found["logits"] = classify(self.head, features)
        found |= {"layers": layers, "features": features}
        return {name: found[name] for name in wanted}

    def encode(
        self,
        images: Images,
        visible: Int[Array, "batch count"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Tokens:
        """Runs only some patches of each image, and the class token, if there is one.

        `visible` has the patches' indices, row by row. The other patches are zeroed before the
        stem, so that no convolution or shift reveals them. Returns the tokens after the final norm,
        the class token first, then the patches in the order of `visible`.
        """
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        seen = jnp.zeros((len(images), rows * columns), images.dtype)
        seen = seen.at[jnp.arange(len(images))[:, None], visible].set(1)
        seen = seen.reshape(-1, rows, 1, columns, 1, 1)
        patches = images.reshape(len(images), rows, self.patch_size, columns, self.patch_size, 3)
        pixels = (patches * seen).reshape(images.shape)
        x = self._add_positions(self.patch_embed(pixels, train=train), rows, columns)
        class_token, x = jnp.split(x, [x.shape[1] - rows * columns], axis=1)
        x = jnp.take_along_axis(x, visible[..., None], axis=1)
        x = jnp.concatenate([class_token, x], axis=1)
        drops = draw_drops(rngs, len(self.blocks), images.shape[0])
        return self.norm(apply_blocks(list(self.blocks), x, drops, self.remat))

    def _attention_map(
        self, block: EncoderBlock, x: Tokens, rows: int, columns: int
    ) -> Float[Array, "batch heads rows columns"]:
        if self.pool == "mean":
            weights = block.attn.weights(block.norm1(x), queries=x.shape[1]).mean(axis=2)
        else:
            weights = block.attn.weights(block.norm1(x), queries=1)[:, :, 0, 1:]
        return weights.reshape(*weights.shape[:2], rows, columns)

    def _pooled(self, x: Tokens) -> Float[Array, "batch width"]:
        """Pools the tokens of a block into features, float32."""
        x = x.mean(axis=1, dtype=jnp.float32) if self.pool == "mean" else x[:, 0]
        return self.norm(x).astype(jnp.float32)

    def _add_positions(self, x: Tokens, rows: int, columns: int) -> Tokens:
        """Class token, if there is one, and patch tokens `x`, with positions added."""
        if self.cls_token is not None:
            shape = (x.shape[0], 1, self.num_features)
            cls = jnp.broadcast_to(self.cls_token[...], shape).astype(x.dtype)
            x = jnp.concatenate([cls, x], axis=1)
        return x + self._positions(rows, columns).astype(x.dtype)

    def _positions(self, rows: int, columns: int) -> Float[Array, "1 tokens width"]:
        class_tokens = 0 if self.cls_token is None else 1
        if self.pos_embed is None:
            fixed = sincos_positions(rows, columns, self.num_features)
            # A class token has no place in the image, so its position is 0, as in MAE.
            return jnp.pad(fixed, ((class_tokens, 0), (0, 0)))[None]
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
            f"model.pos_embed=sincos splits model.width into four equal parts, but {width} is not "
            "a multiple of 4; choose one that is"
        )
