"""The network of masked autoencoding: a ViT on visible patches, and a small decoder."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from smallvit_jax.models.block_loop import apply_blocks
from smallvit_jax.models.image_model import Images
from smallvit_jax.models.initializers import get_scheme
from smallvit_jax.models.layers import EncoderBlock, Linear, Tokens, layer_norm
from smallvit_jax.models.vit import ViT


class Decoder(nnx.Module):
    """Predicts the pixels of every patch from the encoder's tokens of the visible ones.

    He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022: a linear layer to the
    decoder's width, a learned token in place of each masked patch, learned positions of its own,
    transformer blocks, and a linear layer to pixels.
    """

    def __init__(
        self,
        features: int,
        patches: int,
        pixels: int,
        *,
        width: int,
        depth: int,
        heads: int,
        init: str,
        dtype,
        rngs: nnx.Rngs,
    ):
        scheme = get_scheme(init)
        self.embed = Linear(features, width, **scheme.linear(features), dtype=dtype, rngs=rngs)
        self.mask_token = nnx.Param(scheme.token(rngs.params(), (1, 1, width)))
        self.pos_embed = nnx.Param(scheme.token(rngs.params(), (1, patches, width)))
        self.blocks = nnx.List(
            EncoderBlock(width, heads, 2.0, 0.0, scheme=scheme, dtype=dtype, rngs=rngs)
            for _ in range(depth)
        )
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.predict = Linear(width, pixels, **scheme.linear(width), dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: Tokens, order: Int[Array, "batch patches"], visible: int
    ) -> Float[Array, "batch patches pixels"]:
        """Returns predictions for all patches, row by row, float32.

        `tokens` are the encoder's: any class token, then the first `visible` patches of `order`, a
        permutation of each image's patches. The other patches are masked.
        """
        x = self.embed(tokens)
        class_token, seen = jnp.split(x, [x.shape[1] - visible], axis=1)
        batch, patches = order.shape
        masked = jnp.broadcast_to(
            self.mask_token[...], (batch, patches - visible, x.shape[2])
        ).astype(x.dtype)
        place = jnp.argsort(order, axis=1)[..., None]
        x = jnp.take_along_axis(jnp.concatenate([seen, masked], axis=1), place, axis=1)
        x = jnp.concatenate([class_token, x + self.pos_embed[...].astype(x.dtype)], axis=1)
        x = apply_blocks(list(self.blocks), x, [None] * len(self.blocks))[:, -patches:]
        return self.predict(self.norm(x)).astype(jnp.float32)


class MaskedAutoencoder(nnx.Module):
    """A ViT that sees some patches of an image, with a decoder that predicts all of them."""

    def __init__(self, backbone: ViT, decoder: Decoder):
        self.backbone = backbone
        self.decoder = decoder

    def __call__(
        self,
        images: Images,
        order: Int[Array, "batch patches"],
        visible: int,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch patches pixels"]:
        """Predicts the pixels of every patch from the first `visible` patches of `order`."""
        tokens = self.backbone.encode(images, order[:, :visible], train=train, rngs=rngs)
        return self.decoder(tokens, order, visible)
