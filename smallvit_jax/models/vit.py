"""The reference's vision transformer: class token, learned positions, pre-norm blocks."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

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


class ViT(nnx.Module):
    """Vision transformer for small images.

    The defaults are the reference's (models/vit.py, train_ssl.py:202-205): width 192, 9 blocks,
    12 heads, MLP ratio 2, drop path rising linearly to 0.1, LayerNorm epsilon 1e-6. With a
    `patch_size` of 4 at 32 pixels it has 2,695,680 parameters without the classifier.

    Images of another size than `image_size` (a multiple of the patch size) work too: the
    position embedding is resized as in `resize_position_embedding`.
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
        depth: int = 9,
        heads: int = 12,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        init: str = "reference",
        dtype=jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        patch_size = patch_size or image_size // self.PATCHES_PER_SIDE
        scheme = get_scheme(init)
        self.grid = image_size // patch_size
        self.patch_size = patch_size
        self.remat = remat
        self.num_features = width
        self.cls_token = nnx.Param(scheme.token(rngs.params(), (1, 1, width)))
        self.pos_embed = nnx.Param(scheme.token(rngs.params(), (1, 1 + self.grid**2, width)))
        self.patch_embed = PatchEmbed(patch_size, width, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            EncoderBlock(
                width, heads, mlp_ratio, float(rate), scheme=scheme, dtype=dtype, rngs=rngs
            )
            for rate in np.linspace(0.0, drop_path, depth)
        )
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.head = classifier(width, num_classes, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Logits, or features when the model has no classifier; float32.

        `images` are normalised. Drop path acts only when `rngs` is given; `train` is there for
        families with batch statistics.
        """
        features = self.features(images, train=train, rngs=rngs)
        return features if self.head is None else self.head(features).astype(jnp.float32)

    def features(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch width"]:
        """The class token after the last norm, float32: what classifier and projection head see.

        Of the last block only the class token's output is used, so only that is computed.
        """
        del train  # no batch statistics
        x = self._embed(images)
        *first_blocks, last_block = self.blocks
        x = apply_blocks(first_blocks, x, rngs, self.remat)
        x = last_block(x, rngs, queries=1)
        return self.norm(x)[:, 0].astype(jnp.float32)

    def block_features(
        self, images: Float[Array, "batch height width 3"], blocks: int
    ) -> Float[Array, "batch features"]:
        """The class tokens of the last `blocks` blocks (all, if there are fewer), each behind the
        last norm, side by side; float32, in evaluation mode (DINO's eval_linear.py).
        """
        first = max(0, len(self.blocks) - blocks)
        x = apply_blocks(list(self.blocks)[:first], self._embed(images), None)
        tokens = []
        for block in self.blocks[first:]:
            x = block(x)
            tokens.append(self.norm(x[:, 0]).astype(jnp.float32))
        return jnp.concatenate(tokens, axis=1)

    def attention(
        self, images: Float[Array, "batch height width 3"], block: int = -1
    ) -> Float[Array, "batch heads rows columns"]:
        """How the class token spreads its attention over the patches in a block; float32, in
        evaluation mode.

        A map's sum is below 1 by what the class token keeps for itself. `block` counts from 0, or
        back from -1; raises `IndexError` for one that is not there.
        """
        index = range(len(self.blocks))[block]
        x = apply_blocks(list(self.blocks)[:index], self._embed(images), None)
        last = self.blocks[index]
        weights = last.attn.weights(last.norm1(x), queries=1)[:, :, 0, 1:]
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        return weights.reshape(*weights.shape[:2], rows, columns)

    def intermediates(self, images: Float[Array, "batch height width 3"]) -> dict[str, Tokens]:
        """All tokens after each layer, by the layer's name in evaluation mode."""
        outputs = {"patch_embed": self.patch_embed(images)}
        x = outputs["block_input"] = self._embed(images)
        for i, block in enumerate(self.blocks):
            x = outputs[f"blocks.{i}"] = block(x)
        outputs["norm"] = self.norm(x)
        return outputs

    def _embed(self, images: Float[Array, "batch height width 3"]) -> Tokens:
        """Patch tokens behind the class token, with positions added."""
        patches = self.patch_embed(images)
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        cls = jnp.broadcast_to(self.cls_token[...], (images.shape[0], 1, self.num_features)).astype(
            patches.dtype
        )
        positions = self._positions(rows, columns).astype(patches.dtype)
        return jnp.concatenate([cls, patches], axis=1) + positions

    def _positions(self, rows: int, columns: int) -> Float[Array, "1 tokens width"]:
        positions = self.pos_embed[...]
        if (rows, columns) == (self.grid, self.grid):
            return positions
        grid = positions[0, 1:].reshape(self.grid, self.grid, -1)
        patches = resize_position_embedding(grid, rows, columns).reshape(1, rows * columns, -1)
        return jnp.concatenate([positions[:, :1], patches], axis=1)
