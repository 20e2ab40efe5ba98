"""Masked autoencoding: a ViT sees a quarter of an image's patches; a decoder predicts the rest.

He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022 (arXiv:2111.06377), for small
images as in Tan, "Pre-training of Lightweight Vision Transformers on Small Datasets with Minimally
Scaled Images", 2024 (arXiv:2402.03752): positions are learned separately for encoder and decoder,
and visible patches count in the loss too, with a discount. One view per image, no teacher.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

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
from smallvit_jax.models.parameters import Functional
from smallvit_jax.models.vit import ViT
from smallvit_jax.objectives.objective import Metrics, TeacherlessObjective, Views
from smallvit_jax.training.accumulation import mean_over_parts
from smallvit_jax.training.state import TrainState, descend

NOTHING_LEARNED = 0.98  # loss relative to that of predicting the mean of each patch


class Mae(TeacherlessObjective):
    """Masked autoencoding, with the fields of `pretrain.mae`."""

    reported = ("loss", "masked_loss", "visible_loss", "constant_loss")

    def __init__(
        self, config: ConfigDict, backbone: ImageModel, views: ViewSettings, dtype, key: jax.Array
    ):
        super().__init__(config, views)
        assert isinstance(backbone, ViT)  # see `check`
        p = config.pretrain.mae
        self._patches, self._patch_size = backbone.grid**2, backbone.patch_size
        self._visible = visible_patches(self._patches, p.mask_ratio)
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

    @staticmethod
    def check(config: ConfigDict, options: Mapping[str, Any]) -> None:
        """Raises `UserError` for other models than a ViT, and for sizes that do not fit."""
        p = config.pretrain.mae
        if options["name"] != "vit":
            raise UserError(
                "pretrain.objective=mae hides patches from the model, which only a vit allows; "
                f"model.name is {options['name']}: choose vit, or another objective"
            )
        if options["stem"] == "conv" and options["stem_norm"] == "batch":
            raise UserError(
                "pretrain.objective=mae shows the stem mostly blank images, which its batch norm "
                "would take for typical ones; set model.stem_norm=layer"
            )
        patches = (options["image_size"] // options["patch_size"]) ** 2
        visible = visible_patches(patches, p.mask_ratio)
        if not 0 < visible < patches:
            raise UserError(
                f"pretrain.mae.mask_ratio={p.mask_ratio:g} leaves {visible} of {patches} patches "
                "visible; choose another ratio or a smaller model.patch_size"
            )
        if p.decoder_width % p.decoder_heads:
            raise UserError(
                f"pretrain.mae.decoder_heads {p.decoder_heads} does not divide "
                f"pretrain.mae.decoder_width {p.decoder_width}; choose a divisor"
            )

    @staticmethod
    def adapt(views: ViewSettings) -> ViewSettings:
        """Returns the same global views, but only cropped and flipped, as in MAE, appendix A.1."""
        return dataclasses.replace(
            views, local_crops=0, jitter=0.0, grayscale=0.0, blur=(0.0, 0.0, 0.0), solarize=0.0
        )

    def views(self, images: UInt8[Array, "batch height width 3"], key: jax.Array) -> Views:
        """One view of each image."""
        return (single_view(images, key, self.view_settings)[:, None],)

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
            "constant_loss": losses.constant,
            "gradient_norm": optax.tree.norm(gradients),
        }
        return descend(state, gradients, buffers, schedule, self.optimizer), metrics

    def describe_collapse(self, means: Mapping[str, float]) -> str | None:
        """Says so if masked patches are predicted no better than by their mean."""
        if means["masked_loss"] < NOTHING_LEARNED * means["constant_loss"]:
            return None
        return (
            "Collapse: masked patches are predicted no better than by their mean (loss "
            f"{means['masked_loss']:.3f} against {means['constant_loss']:.3f}); raise "
            "pretrain.optimizer.base_lr, or lower it if the loss has jumped up, or lower "
            "pretrain.mae.mask_ratio."
        )


def visible_patches(patches: int, mask_ratio: float) -> int:
    """The number of patches that the model sees."""
    return round(patches * (1 - mask_ratio))


class Losses(NamedTuple):
    """The loss, its means over masked and visible patches, and what a constant would reach."""

    total: Float[Array, ""]
    masked: Float[Array, ""]
    visible: Float[Array, ""]
    constant: Float[Array, ""]


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

    The first `visible` patches of `order` are visible. `constant` is the loss on masked patches of
    predicting the mean of each patch, which is 0.
    """

    def by_place(errors):
        return jnp.take_along_axis(jnp.square(errors).mean(axis=-1), order, axis=1)

    errors, constant = by_place(predictions - targets), by_place(targets)[:, visible:].mean()
    seen, masked = errors[:, :visible].mean(), errors[:, visible:].mean()
    return Losses(masked + weight * seen, masked, seen, constant)
