"""Shifted patch tokenization: patches together with copies shifted by half a patch.

Lee et al., "Vision Transformer for Small-Size Datasets", 2021, section 3.2; SPT_LSA_ViT,
models/SPT.py.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.models.initializers import Initializer, uniform_fan_in
from smallvit_jax.models.layers import Linear, Tokens, cut_patches, layer_norm

# Shifts (row, column) of the copies: up left, up right, down left, down right; with eight
# directions, these are preceded by left, right, up and down.
_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
_DIRECTIONS = {4: _DIAGONAL, 8: ((0, -1), (0, 1), (-1, 0), (1, 0), *_DIAGONAL)}
_EPSILON = 1e-5  # of the LayerNorm, as in SPT_LSA_ViT


def shifted_copies(
    images: Float[Array, "batch height width channels"], shift: int, directions: int
) -> Float[Array, "batch height width more_channels"]:
    """Appends shifted copies of the images as channels.

    Copies are shifted by `shift` pixels in 4 (diagonal) or 8 directions, with zeros at the borders.
    """
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    copies = [
        padded[:, (1 + row) * shift :, (1 + column) * shift :][:, :height, :width]
        for row, column in _DIRECTIONS[directions]
    ]
    return jnp.concatenate([images, *copies], axis=-1)


class ShiftedPatches(nnx.Module):
    """Patches of an image and its shifted copies, followed by a LayerNorm and a linear layer.

    Copies are shifted by half a patch. `directions` is 4 or 8. The linear layer uses PyTorch's
    default initialization, or `kernel_init` with zero bias.
    """

    def __init__(
        self,
        patch_size: int,
        channels: int,
        width: int,
        directions: int,
        *,
        kernel_init: Initializer | None = None,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.patch_size, self.directions = patch_size, directions
        values = (1 + directions) * channels * patch_size**2
        uniform = uniform_fan_in(values)
        start = {"kernel_init": kernel_init or uniform}
        if kernel_init is None:
            start["bias_init"] = uniform
        self.norm = layer_norm(values, epsilon=_EPSILON, dtype=dtype, rngs=rngs)
        self.project = Linear(values, width, **start, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Tokens:
        """Returns one token per patch, row by row."""
        del train  # only for stems with batch norm
        stacked = shifted_copies(images, self.patch_size // 2, self.directions)
        return self.project(self.norm(cut_patches(stacked, self.patch_size)))


class ShiftedMerging(ShiftedPatches):
    """Merges 2 x 2 tokens and the tokens around them into one of twice the width.

    Odd sides are padded with zeros, as in plain patch merging.
    """

    def __init__(
        self, width: int, directions: int, *, kernel_init: Initializer, dtype, rngs: nnx.Rngs
    ):
        options = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
        super().__init__(2, width, 2 * width, directions, **options)

    def __call__(
        self, x: Float[Array, "batch rows columns width"], *, train: bool = False
    ) -> Float[Array, "batch half_rows half_columns double_width"]:
        del train  # as in the base class
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, rows, columns, width = x.shape
        return super().__call__(x).reshape(batch, rows // 2, columns // 2, 2 * width)
