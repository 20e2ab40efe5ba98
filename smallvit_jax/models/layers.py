"""Building blocks shared by the transformer families."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.models.attention import (
    Heads,
    at_temperature,
    attend,
    attention_weights,
    learned_temperature,
)
from smallvit_jax.models.block_loop import save_for_backward
from smallvit_jax.models.fused_attention import can_fuse, fused_attend
from smallvit_jax.models.initializers import SCHEMES, Scheme, uniform_fan_in
from smallvit_jax.models.lane_attention import attend_in_lanes, suits_lanes
from smallvit_jax.process.sharding import draw_rows

Tokens = Float[Array, "batch tokens width"]
Drops = Float[Array, "branches batch"]  # of a block: uniform random numbers, see `drop_path`

BRANCHES = 2  # residual branches of a block

LARGEST_SMALL_IMAGE = 96  # pixels per side; larger ones are photographs, with coarser stems
LAYER_NORM_EPSILON = 1e-6  # as in all reference models (models/vit.py, swin.py:542, cait.py)


def layer_norm(
    width: int, *, epsilon: float = LAYER_NORM_EPSILON, dtype, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """LayerNorm with two-pass float32 statistics.

    Flax's default E[x²] - E[x]² loses the small variances that this tiny epsilon is meant for.
    """
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=dtype, use_fast_variance=False, rngs=rngs)


@jax.custom_vjp
def product(
    x: Float[Array, "*positions inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "*positions outputs"]:
    """x · kernel, with the kernel's gradient as one plain product over all positions.

    Autodiff's form transposes the larger factor and takes 1.4 times as long in XLA on CPU.
    """
    return x @ kernel


def _product_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _product_backward(kept, gradient):
    x, kernel = kept
    rows = gradient.reshape(-1, gradient.shape[-1])
    return gradient @ kernel.T, x.reshape(-1, x.shape[-1]).T @ rows


product.defvjp(_product_forward, _product_backward)


class Linear(nnx.Linear):
    """nnx.Linear that multiplies with `product`."""

    def __init__(self, inputs: int, outputs: int, **options):
        super().__init__(inputs, outputs, dot_general=_dot_general, **options)


def _dot_general(x, kernel, dimension_numbers, **options):
    del dimension_numbers, options  # as nnx.Linear sets them: last axis of x, first of kernel
    return product(x, kernel)


def classifier(
    features: int, num_classes: int, *, scheme: Scheme = SCHEMES["reference"], rngs: nnx.Rngs
) -> nnx.Linear | None:
    """Linear layer from features to float32 logits, or None if there are no classes."""
    if not num_classes:
        return None
    start: dict[str, Any] = {"kernel_init": scheme.classifier, "bias_init": scheme.bias(features)}
    return nnx.Linear(features, num_classes, **start, rngs=rngs)


def classify(
    head: nnx.Linear | None, features: Float[Array, "batch features"]
) -> Float[Array, "batch outputs"]:
    """Returns float32 logits, or the features if the model has no classifier."""
    return features if head is None else head(features).astype(jnp.float32)


def draw_drops(rngs: nnx.Rngs | None, blocks: int, batch: int) -> Sequence[Drops | None]:
    """The random numbers of each block's drop path; None for each without `rngs`.

    They are drawn together, because a draw takes some hundred instructions, which for every branch
    of every block were most of a compiled step's.
    """
    if rngs is None:
        return [None] * blocks
    key = rngs.drop_path()
    drawn = draw_rows(lambda rows: jax.random.uniform(key, (rows, blocks, BRANCHES)), batch)
    return list(drawn.transpose(1, 2, 0))


def branch_drops(drops: Drops | None) -> Sequence[Float[Array, " batch"] | None]:
    """The random numbers of each of a block's branches."""
    return [None] * BRANCHES if drops is None else list(drops)


def drop_path(
    x: Float[Array, "batch *positions width"],
    rate: float | jax.Array,
    drawn: Float[Array, " batch"] | None,
) -> Float[Array, "batch *positions width"]:
    """Zeroes the residual branch of whole samples with probability `rate`, rescaling the others.

    `drawn` has a uniform random number for each sample; with None, or a rate of 0, nothing is
    dropped (Huang et al., 2016, as in timm). In a loop over blocks, the rate is an array.
    """
    if drawn is None or (isinstance(rate, float) and rate == 0.0):
        return x
    kept = 1.0 - rate
    mask = (drawn < kept).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(mask, x / kept, 0).astype(x.dtype)


def dropout(
    x: Float[Array, "batch features"], rate: float, rngs: nnx.Rngs | None
) -> Float[Array, "batch features"]:
    """Zeroes single features with probability `rate`, rescaling the others; not without `rngs`."""
    if rngs is None or rate == 0.0:
        return x
    key, kept = rngs.dropout(), 1.0 - rate
    mask = draw_rows(lambda rows: jax.random.bernoulli(key, kept, (rows, x.shape[1])), len(x))
    return jnp.where(mask, x / kept, 0)


def cut_patches(
    images: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch patches values"]:
    """Cuts square patches, row by row, each flattened in (row, column, channel) order."""
    batch, height, width, channels = images.shape
    p = patch_size
    patches = images.reshape(batch, height // p, p, width // p, p, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, p * p * channels)


class PatchEmbed(nnx.Module):
    """Cuts an image into square patches and projects each one linearly.

    Equivalent to a convolution whose stride equals its kernel size, as one matrix product.
    """

    def __init__(self, patch_size: int, width: int, *, dtype, rngs: nnx.Rngs):
        self.patch_size = patch_size
        fan_in = patch_size * patch_size * 3
        self.proj = Linear(
            fan_in,
            width,
            kernel_init=uniform_fan_in(fan_in),
            bias_init=uniform_fan_in(fan_in),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Tokens:
        """Returns one token per patch, row by row."""
        del train  # only for stems with batch norm
        return self.proj(cut_patches(images, self.patch_size))


class Attention(nnx.Module):
    """Multi-head self-attention with one fused query-key-value projection.

    With `lsa`, each head learns its temperature, and no token attends to itself.
    """

    def __init__(
        self, width: int, heads: int, *, lsa: bool = False, scheme: Scheme, dtype, rngs: nnx.Rngs
    ):
        self.heads, self.lsa = heads, lsa
        self.temperature = learned_temperature(width, heads) if lsa else None
        linear = {**scheme.linear(width), "dtype": dtype, "rngs": rngs}
        self.qkv = Linear(width, 3 * width, **linear)
        self.proj = Linear(width, width, **linear)

    def __call__(self, x: Tokens, *, queries: int | None = None) -> Tokens:
        """Attends from the first `queries` tokens (None: all) to every token."""
        batch, tokens, width = x.shape
        if queries is None and can_fuse(tokens, width // self.heads, self.qkv.dtype):
            mixed = fused_attend(self._all_heads_of(x), self.lsa)
        elif queries is None and suits_lanes(batch, tokens):
            mixed = attend_in_lanes(self._all_heads_of(x), self.lsa)
        else:
            mixed = attend(*self._heads_of(x, queries), self.lsa)
        return self.proj(save_for_backward(mixed.reshape(*mixed.shape[:2], -1)))

    def weights(self, x: Tokens, *, queries: int) -> Float[Array, "batch heads queries tokens"]:
        """Attention weights from the first `queries` tokens to all tokens, float32."""
        q, k, _ = self._heads_of(x, queries)
        return attention_weights(q, k, self.lsa)

    def _heads_of(self, x: Tokens, queries: int | None) -> tuple[Heads, Heads, Heads]:
        """Queries of the first tokens (None: all), and all keys and values, split into heads."""
        queries = x.shape[1] if queries is None else queries
        if queries == x.shape[1]:
            q, k, v = jnp.split(save_for_backward(self.qkv(x)), 3, axis=-1)
        else:
            q, k, v = self._project_separately(x, queries)
        q, k, v = (t.reshape(*t.shape[:2], self.heads, -1) for t in (q, k, v))
        return at_temperature(q, self.temperature), k, v

    def _all_heads_of(self, x: Tokens) -> Float[Array, "batch tokens 3 heads width"]:
        """Queries, keys and values of all tokens in one array, as the projection gives them."""
        qkv = save_for_backward(self.qkv(x)).reshape(*x.shape[:2], 3, self.heads, -1)
        if self.temperature is None:
            return qkv
        q = at_temperature(qkv[:, :, 0], self.temperature)
        return jnp.concatenate([q[:, :, None], qkv[:, :, 1:]], axis=2)

    def _project_separately(self, x: Tokens, queries: int) -> tuple[Tokens, Tokens, Tokens]:
        """The three parts of the fused projection, with only the queries that are used."""
        assert self.qkv.bias is not None  # nothing above turns it off
        dtype = self.qkv.dtype
        x, kernel, bias = (
            jnp.asarray(a, dtype) for a in (x, self.qkv.kernel[...], self.qkv.bias[...])
        )
        width = x.shape[-1]
        q = product(x[:, :queries], kernel[:, :width]) + bias[:width]
        k, v = jnp.split(product(x, kernel[:, width:]) + bias[width:], 2, axis=-1)
        return q, k, v


class Mlp(nnx.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int, *, scheme: Scheme, dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.fc1 = Linear(width, hidden, **scheme.linear(width), **options)
        self.fc2 = Linear(hidden, width, **scheme.linear(hidden), **options)

    def __call__(
        self, x: Float[Array, "batch *positions width"]
    ) -> Float[Array, "batch *positions width"]:
        return self.fc2(jax.nn.gelu(save_for_backward(self.fc1(x)), approximate=False))


class EncoderBlock(nnx.Module):
    """Pre-norm transformer block: attention and MLP, each a residual branch with drop path."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        drop_path_rate: float,
        *,
        lsa: bool = False,
        scheme: Scheme,
        dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"scheme": scheme, "dtype": dtype, "rngs": rngs}
        self.norm1 = layer_norm(width, dtype=dtype, rngs=rngs)
        self.attn = Attention(width, heads, lsa=lsa, **shared)
        self.norm2 = layer_norm(width, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, int(width * mlp_ratio), **shared)
        self.drop_path_rate = drop_path_rate

    def __call__(
        self, x: Tokens, drops: Drops | None = None, *, queries: int | None = None
    ) -> Tokens:
        """Returns the first `queries` tokens (None: all) after attention to every token."""
        first, second = branch_drops(drops)
        branch = self.attn(self.norm1(x), queries=queries)
        x = save_for_backward(x[:, :queries] + drop_path(branch, self.drop_path_rate, first))
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, second)


def resize_position_embedding(
    grid: Float[Array, "rows columns width"], rows: int, columns: int, surplus: float = 0.1
) -> Float[Array, "new_rows new_columns width"]:
    """Resizes a grid of position embeddings; by default as the reference does for smaller crops.

    Bicubic (a = -0.75), no antialiasing, borders repeated. Sample positions follow the scale factor
    (n + 0.1) / N that DINO passes to PyTorch, not the sizes (models/vit.py:186-195). With `surplus`
    0 they follow the sizes, as in torch.nn.functional.interpolate by default.
    """
    row_weights = _cubic_resize_matrix(grid.shape[0], rows, surplus)
    column_weights = _cubic_resize_matrix(grid.shape[1], columns, surplus)
    with jax.default_matmul_precision("highest"):
        return jnp.einsum("yi,xj,ijd->yxd", row_weights, column_weights, grid)


def _cubic_resize_matrix(size: int, new_size: int, surplus: float) -> np.ndarray:
    """Weights [new_size, size] for one axis: src = (dst + 0.5) N / (n + surplus) - 0.5."""
    source = (np.arange(new_size) + 0.5) * size / (new_size + surplus) - 0.5
    first = np.floor(source).astype(int)
    weights = np.zeros((new_size, size))
    for tap in range(-1, 3):
        index = np.clip(first + tap, 0, size - 1)
        np.add.at(weights, (np.arange(new_size), index), _cubic(source - (first + tap)))
    return weights.astype(np.float32)


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Cubic convolution kernel (Keys, 1981)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
