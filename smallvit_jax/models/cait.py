"""The reference's CaiT: talking heads and layer scale, with a class token only at the end."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.config.choices import LSA_MASKS, POSITION_RESIZES
from smallvit_jax.errors import UserError, check_choice
from smallvit_jax.models.block_loop import apply_blocks, save_for_backward
from smallvit_jax.models.cait_attention import ClassAttention, TalkingHeads
from smallvit_jax.models.image_model import ImageModel, Images
from smallvit_jax.models.initializers import Scheme, get_scheme
from smallvit_jax.models.layers import (
    Drops,
    Linear,
    Mlp,
    Tokens,
    branch_drops,
    classifier,
    classify,
    cut_patches,
    draw_drops,
    drop_path,
    layer_norm,
    resize_position_embedding,
)
from smallvit_jax.models.stems import MakeStem

LAYER_SCALE = 1e-5  # initial value of every gamma
CLASS_MLP_RATIO = 4.0  # of the class blocks, regardless of the other blocks (models/cait.py)


class CaiT(ImageModel):
    """Class-attention image transformer for small images (Touvron et al., 2021).

    Defaults follow the reference (models/cait.py, train_ssl.py:242-246): width 192, 24
    self-attention blocks and 2 class-attention blocks, 4 heads, MLP ratio 2 (class blocks 4), layer
    scale initialized to 1e-5, drop path 0.1 in each of the 24 blocks and none in the class blocks.
    With `patch_size` 4 at 32 pixels it has 8,051,520 parameters without the classifier.

    For images of another size than `image_size`, the reference takes the first position embeddings
    in row-major order, regardless of their place in the grid; such images cannot be larger.
    `position_resize="interpolate"` resizes the grid instead, as the ViT does, for any size.

    Between the blocks, tokens are float32 whatever `dtype` is: layer scale makes each block's
    change so small that bfloat16 would round it away.

    `lsa_mask` selects how `lsa` keeps a patch from attending to itself: "masked" masks after the
    heads are mixed; "released" sets the score to -1e-9 before, as in SPT_LSA_ViT (a slip: that
    masks nothing, and the mixing would scramble a mask there).
    """

    PATCHES_PER_SIDE = 8  # for small images
    PHOTOGRAPH_PATCH = 16  # patch size in pixels for larger images; our choice

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int,
        num_classes: int = 0,
        width: int = 192,
        depth: int = 24,
        class_depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        position_resize: str = "slice",
        make_stem: MakeStem,
        lsa: bool = False,
        lsa_mask: str = "masked",
        init: str = "reference",
        dtype=jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        _check(position_resize, lsa, lsa_mask)
        scheme = get_scheme(init)
        shared = {"scheme": scheme, "dtype": dtype, "rngs": rngs}
        self.grid = image_size // patch_size
        self.patch_size = patch_size
        self.num_features = width
        self.position_resize = position_resize
        self.remat = remat
        self.patch_embed = make_stem(
            lambda: LinearPatchEmbed(patch_size, width, **shared),
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            dtype=dtype,
            rngs=rngs,
        )
        self.cls_token = nnx.Param(scheme.token(rngs.params(), (1, 1, width)))
        self.pos_embed = nnx.Param(scheme.token(rngs.params(), (1, self.grid**2, width)))
        self.blocks = nnx.List(
            CaiTBlock(width, heads, mlp_ratio, drop_path, lsa=lsa, lsa_mask=lsa_mask, **shared)
            for _ in range(depth)
        )
        self.blocks_token_only = nnx.List(
            ClassBlock(width, heads, CLASS_MLP_RATIO, lsa=lsa, **shared) for _ in range(class_depth)
        )
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.head = classifier(width, num_classes, rngs=rngs)

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

        Features are the class token after the final norm. `last_blocks` and `attention_block` count
        class blocks, since only they have a class token; an attention map sums to less than 1,
        because the class token also attends to itself. Also raises `UserError` if the images have
        too many patches for the position embedding.
        """
        index = range(len(self.blocks_token_only))[attention_block]
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        patches = self.patch_embed(images, train=train)
        x = self._embed(patches, images)
        layers: dict[str, Array] = {}
        drops = draw_drops(rngs, len(self.blocks), images.shape[0])
        if "layers" in wanted:
            layers |= {"patch_embed": patches, "block_input": x}
            for i, layer in enumerate(self.blocks):
                x = layers[f"blocks.{i}"] = layer(x, drops[i])
        else:
            x = apply_blocks(self.blocks, x, drops, self.remat)
        cls = self._class_token(x)
        found: dict[str, Any] = {}
        pooled: list[Array] = []
        for i, class_layer in enumerate(self.blocks_token_only):
            if i == index and "attention" in wanted:
                tokens = class_layer.norm1(jnp.concatenate([cls, x], axis=1))
                weights = class_layer.attn.weights(tokens)[:, :, 0, 1:]
                found["attention"] = weights.reshape(*weights.shape[:2], rows, columns)
            cls = class_layer(cls, x)
            if "layers" in wanted:
                layers[f"blocks_token_only.{i}"] = cls
            pooled.append(self.norm(cls)[:, 0].astype(jnp.float32))
        if "layers" in wanted:
            layers["norm"] = self.norm(jnp.concatenate([cls, x], axis=1))
        if "grid" in wanted:
            found["grid"] = x.reshape(x.shape[0], rows, columns, -1)
        if "block_features" in wanted:
            found["block_features"] = jnp.concatenate(pooled[-last_blocks:], axis=1)
        if "logits" in wanted:
            found["logits"] = classify(self.head, pooled[-1])
        found |= {"layers": layers, "features": pooled[-1]}
        return {name: found[name] for name in wanted}

    def _class_token(self, x: Tokens) -> Float[Array, "batch 1 width"]:
        return jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, self.num_features))

    def _embed(self, patches: Tokens, images: Float[Array, "batch height width 3"]) -> Tokens:
        """Adds positions to the patch tokens, float32; the class token comes later."""
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        positions = self.pos_embed[...]
        if (rows, columns) == (self.grid, self.grid):
            pass
        elif self.position_resize == "interpolate":
            grid = positions.reshape(self.grid, self.grid, -1)
            grid = resize_position_embedding(grid, rows, columns)
            positions = grid.reshape(1, rows * columns, -1)
        elif rows * columns > self.grid**2:
            raise UserError(
                f"cait was built for {self.grid**2} patches, but images of {images.shape[1]} x "
                f"{images.shape[2]} pixels have {rows * columns}; create it with that image_size "
                'or with position_resize="interpolate"'
            )
        else:
            positions = positions[:, : rows * columns]
        return patches + positions


def _check(position_resize: str, lsa: bool, lsa_mask: str) -> None:
    check_choice("model.position_resize", position_resize, POSITION_RESIZES)
    check_choice("model.lsa_mask", lsa_mask, LSA_MASKS)
    if lsa_mask != "masked" and not lsa:
        raise UserError(
            f'model.lsa_mask is "{lsa_mask}", but nothing is masked without model.lsa; set '
            "model.lsa to true, or leave model.lsa_mask out"
        )


class LinearPatchEmbed(nnx.Module):
    """Cuts an image into patches and projects each with a linear layer initialized by `scheme`."""

    def __init__(self, patch_size: int, width: int, *, scheme: Scheme, dtype, rngs: nnx.Rngs):
        self.patch_size = patch_size
        self.linear = Linear(
            3 * patch_size**2, width, kernel_init=scheme.kernel, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Tokens:
        """Returns one token per patch, row by row."""
        del train  # only for stems with batch norm
        return self.linear(cut_patches(images, self.patch_size))


class CaiTBlock(nnx.Module):
    """Pre-norm block with talking heads; residual branches with layer scale and drop path."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        drop_path_rate: float,
        *,
        lsa: bool,
        lsa_mask: str,
        scheme: Scheme,
        dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"scheme": scheme, "dtype": dtype, "rngs": rngs}
        self.gamma_1 = nnx.Param(jnp.full(width, LAYER_SCALE))
        self.gamma_2 = nnx.Param(jnp.full(width, LAYER_SCALE))
        self.norm1 = layer_norm(width, dtype=dtype, rngs=rngs)
        self.attn = TalkingHeads(width, heads, lsa=lsa, lsa_mask=lsa_mask, **shared)
        self.norm2 = layer_norm(width, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, int(width * mlp_ratio), **shared)
        self.drop_path_rate = drop_path_rate

    def __call__(self, x: Tokens, drops: Drops | None = None) -> Tokens:
        first, second = branch_drops(drops)
        # The layer scale's gradient needs the branch; recomputing it would cost a matrix product.
        branch = save_for_backward(self.attn(self.norm1(x))) * self.gamma_1[...]
        x = save_for_backward(x + drop_path(branch, self.drop_path_rate, first))
        branch = save_for_backward(self.mlp(self.norm2(x))) * self.gamma_2[...]
        return x + drop_path(branch, self.drop_path_rate, second)


class ClassBlock(nnx.Module):
    """Pre-norm block that updates only the class token, which attends to itself and the patches.

    It has no drop path, as in the reference.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        *,
        lsa: bool,
        scheme: Scheme,
        dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"scheme": scheme, "dtype": dtype, "rngs": rngs}
        self.gamma_1 = nnx.Param(jnp.full(width, LAYER_SCALE))
        self.gamma_2 = nnx.Param(jnp.full(width, LAYER_SCALE))
        self.norm1 = layer_norm(width, dtype=dtype, rngs=rngs)
        self.attn = ClassAttention(width, heads, lsa=lsa, **shared)
        self.norm2 = layer_norm(width, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, int(width * mlp_ratio), **shared)

    def __call__(
        self, cls: Float[Array, "batch 1 width"], patches: Tokens
    ) -> Float[Array, "batch 1 width"]:
        """Returns the updated class token."""
        tokens = self.norm1(jnp.concatenate([cls, patches], axis=1))
        cls = cls + self.attn(tokens) * self.gamma_1[...]
        return cls + self.mlp(self.norm2(cls)) * self.gamma_2[...]
