"""Masked autoencoding: a ViT sees a quarter of an image's patches; a decoder predicts the rest.

He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022 (arXiv:2111.06377), for small
images as in Tan, "Pre-training of Lightweight Vision Transformers on Small Datasets with Minimally
Scaled Images", 2024 (arXiv:2402.03752): positions are learned separately for encoder and decoder,
and visible patches count in the loss too, with a discount. One view per image, no teacher.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from smallvit_jax.augment.views import ViewSettings, single_view
from smallvit_jax.errors import UserError
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.layers import cut_patches
from smallvit_jax.models.masked_autoencoder import Decoder, MaskedAutoencoder
from smallvit_jax.models.parameters import Arrays, Functional
from smallvit_jax.models.vit import ViT
from smallvit_jax.objectives.objective import Metrics, Objective, Views, backbone_arrays
from smallvit_jax.training.accumulation import mean_over_parts
from smallvit_jax.training.state import TrainState, descend

NOTHING_LEARNED = 0.98  # loss relative to that of predicting each patch's mean


class Mae(Objective):
    """Masked autoencoding, with the fields of `pretrain.mae`."""

    reported = ("loss", "masked_loss", "visible_loss")

    def __init__(
        self, config: ConfigDict, backbone: ImageModel, views: ViewSettings, dtype, key: jax.Array
    ):
        super().__init__(config, views)
        if not isinstance(backbone, ViT):
            raise UserError(
                "pretrain.objective=mae hides patches from the model, which only a vit allows; "
                f"model.name is {config.model.name}: choose vit, or another objective"
            )
        p = config.pretrain.mae
        self._patches, self._patch_size = backbone.grid**2, backbone.patch_size
        self._visible = round(self._patches * (1 - p.mask_ratio))
        if not 0 < self._visible < self._patches:
            raise UserError(
                f"pretrain.mae.mask_ratio={p.mask_ratio:g} leaves {self._visible} of "
                f"{self._patches} patches visible; choose another ratio or a smaller "
                "model.patch_size"
            )
        if p.decoder_width % p.decoder_heads:
            raise UserError(
                f"pretrain.mae.decoder_heads {p.decoder_heads} does not divide "
                f"pretrain.mae.decoder_width {p.decoder_width}; choose a divisor"
            )
        decoder = Decoder(
            backbone.num_features,
            self._patches,
            3 * self._patch_size**2,
            width=p.decoder_width,
            depth=p.decoder_depth,
            heads=p.decoder_heads,
            init=config.model.init,
            dtype=dtype,
            rngs=nnx.Rngs(key),
        )
        self.network = Functional(MaskedAutoencoder(backbone, decoder))

    def views(self, images: UInt8[Array, "batch height width 3"], key: jax.Array) -> Views:
        """One view of each image."""
        return (single_view(images, key, self.view_settings)[:, None],)

    def initial_state(self) -> TrainState:
        """The newly initialized network."""
        return TrainState.start(self.network.trainable, self.network.buffers, self.optimizer)

    def update(
        self,
        state: TrainState,
        views: Views,
        key: jax.Array,
        schedule: Mapping[str, Float[Array, ""]],
    ) -> tuple[TrainState, Metrics]:
        """Takes one step on the first view of each image."""
        weight = self.config.pretrain.mae.visible_weight

        def means_of(images, key):
            order_key, drop_key = jax.random.split(key)
            order = draw_orders(order_key, len(images), self._patches)

            def loss_of(params):
                predictions, buffers = self.network(
                    params,
                    state.buffers,
                    images,
                    order,
                    self._visible,
                    train=True,
                    rngs=nnx.Rngs(drop_key),
                )
                targets = patch_targets(images, self._patch_size)
                losses = mae_losses(predictions, targets, order, self._visible, weight)
                return losses.total, (losses, buffers)

            (_, (losses, buffers)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
                state.params
            )
            return (losses, gradients), buffers

        (losses, gradients), buffers = mean_over_parts(
            means_of, self.config.runtime.accumulate, views[0][:, 0], key
        )
        metrics = {
            "loss": losses.total,
            "masked_loss": losses.masked,
            "visible_loss": losses.visible,
            "gradient_norm": optax.tree.norm(gradients),
        }
        return descend(state, gradients, buffers, schedule, self.optimizer), metrics

    def backbone(self, state: TrainState) -> Arrays:
        """Weights and batch statistics of the encoder."""
        return backbone_arrays(state.params | state.buffers)

    def describe_collapse(self, means: Mapping[str, float]) -> str | None:
        """Says so if masked patches are predicted no better than by their mean."""
        if means["masked_loss"] < NOTHING_LEARNED:
            return None
        return (
            f"Collapse: masked patches are predicted no better than by a constant (loss "
            f"{means['masked_loss']:.3f}; 1 for a constant); raise pretrain.optimizer.base_lr, or "
            "lower it if the loss has jumped up, or lower pretrain.mae.mask_ratio."
        )


class Losses(NamedTuple):
    """The loss, and its means over masked and over visible patches."""

    total: Float[Array, ""]
    masked: Float[Array, ""]
    visible: Float[Array, ""]


def draw_orders(key: jax.Array, count: int, patches: int) -> Int[Array, "count patches"]:
    """Draws a random order of the patches for each image; the first ones are visible."""
    return jax.random.uniform(key, (count, patches)).argsort(axis=1)


def patch_targets(
    images: Float[Array, "batch height width 3"], patch_size: int
) -> Float[Array, "batch patches pixels"]:
    """The pixels of each patch, normalized by its own mean and variance (MAE, section 4.1).

    Divided by sqrt(variance + 1e-6), as in the authors' code.
    """
    patches = cut_patches(images, patch_size)
    centered = patches - patches.mean(axis=-1, keepdims=True)
    return centered / jnp.sqrt(patches.var(axis=-1, ddof=1, keepdims=True) + 1e-6)


def mae_losses(
    predictions: Float[Array, "batch patches pixels"],
    targets: Float[Array, "batch patches pixels"],
    order: Int[Array, "batch patches"],
    visible: int,
    weight: float,
) -> Losses:
    """Mean squared error of masked patches, plus `weight` times that of visible ones.

    The first `visible` patches of `order` are visible.
    """
    errors = jnp.square(predictions - targets).mean(axis=-1)
    errors = jnp.take_along_axis(errors, order, axis=1)
    seen, masked = errors[:, :visible].mean(), errors[:, visible:].mean()
    return Losses(masked + weight * seen, masked, seen)
