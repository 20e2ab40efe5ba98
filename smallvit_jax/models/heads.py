"""Heads for pre-training on projected views, and the network of backbone and head."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.initializers import get_scheme, uniform_fan_in
from smallvit_jax.models.layers import Linear
from smallvit_jax.process.sharding import AXIS, is_split


class FixedParam(nnx.Variable):
    """A weight that belongs to the model but is not trained."""


class WeightNormLinear(nnx.Module):
    """Linear layer without bias whose kernel is gain · v / ‖v‖ per output.

    The gain is fixed at 1, since the reference never trains it (models/projection_head.py:18, 38).
    """

    def __init__(self, width: int, outputs: int, *, dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        self.weight_v = nnx.Param(uniform_fan_in(width)(rngs.params(), (width, outputs)))
        self.weight_g = FixedParam(jnp.ones((1, outputs)))

    def kernel(self) -> Float[Array, "width outputs"]:
        """The effective kernel, float32."""
        v = self.weight_v[...]
        return self.weight_g[...] * v / jnp.linalg.norm(v, axis=0, keepdims=True)

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch outputs"]:
        x, kernel = x.astype(self.dtype), self.kernel().astype(self.dtype)
        # Scores are divided by a temperature of 0.04, so they must not be rounded to bfloat16.
        return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


class ProjectionHead(nnx.Module):
    """DINO's head: a three-layer MLP, L2 normalization, then a weight-normalized last layer.

    As in models/projection_head.py: in → hidden → hidden → bottleneck → out. With `batch_norm`,
    batch norm follows both hidden layers, see `Projector`.
    """

    def __init__(
        self,
        features: int,
        *,
        out_dim: int = 1024,
        hidden_dim: int = 512,
        bottleneck_dim: int = 256,
        batch_norm: bool = False,
        init: str = "reference",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        widths = (features, hidden_dim, hidden_dim, bottleneck_dim)
        self.linears = _linears(widths, init, dtype, rngs)
        self.norms = _norms(hidden_dim, dtype, rngs) if batch_norm else nnx.List([])
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, dtype=dtype, rngs=rngs)

    def __call__(
        self, features: Float[Array, "batch features"], *, train: bool = False
    ) -> Float[Array, "batch out_dim"]:
        """Prototype scores in [-1, 1], float32; `train` uses the batch statistics."""
        x = _mlp(self.linears, self.norms, features, train).astype(jnp.float32)
        x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        return self.last_layer(x)


class Projector(nnx.Module):
    """LeJEPA's head, a three-layer MLP with batch norm and GELU: in → hidden → hidden → out.

    Batch norm has epsilon 1e-5, momentum 0.9 for the old value, and statistics of all views of the
    whole batch, across all devices. The last layer computes in float32.
    """

    def __init__(
        self,
        features: int,
        *,
        out_dim: int,
        hidden_dim: int,
        init: str = "reference",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        widths = (features, hidden_dim, hidden_dim, out_dim)
        self.linears = _linears(widths, init, dtype, rngs)
        self.linears[-1].dtype = jnp.float32
        self.norms = _norms(hidden_dim, dtype, rngs)

    def __call__(
        self, features: Float[Array, "batch features"], *, train: bool = False
    ) -> Float[Array, "batch out_dim"]:
        """Projections, float32; `train` uses the batch statistics."""
        return _mlp(self.linears, self.norms, features, train)


def _linears(widths: Sequence[int], init: str, dtype, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        Linear(inputs, outputs, **get_scheme(init).linear(inputs), dtype=dtype, rngs=rngs)
        for inputs, outputs in itertools.pairwise(widths)
    )


def _norms(width: int, dtype, rngs: nnx.Rngs) -> nnx.List:
    """Batch norms of the two hidden layers."""
    return nnx.List(
        _BatchNorm(width, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs) for _ in range(2)
    )


class _BatchNorm(nnx.BatchNorm):
    """nnx.BatchNorm with the statistics of the whole batch, also on several devices."""

    def __call__(self, *args, **options):
        self.axis_name = AXIS if is_split() else None
        return super().__call__(*args, **options)


def _mlp(linears: nnx.List, norms: nnx.List, x: Float[Array, "batch features"], train: bool):
    for i, linear in enumerate(linears):
        x = linear(x)
        if i < 2:
            if norms:
                x = norms[i](x, use_running_average=not train)
            x = jax.nn.gelu(x, approximate=False)
    return x


class ViewNetwork(nnx.Module):
    """A backbone with its projection head, applied to views of several sizes.

    The view axis follows the batch axis, so that a batch split over devices stays in place.
    """

    def __init__(self, backbone: ImageModel, projection: ProjectionHead | Projector):
        self.backbone = backbone
        self.projection = projection

    def __call__(
        self,
        views: Sequence[Float[Array, "batch _ _ _ 3"]],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch views out_dim"]:
        """Projects all views in the given order: one backbone pass per size, one head pass."""
        features = []
        for group in views:
            batch, count = group.shape[:2]
            images = group.reshape(batch * count, *group.shape[2:])
            flat = self.backbone.features(images, train=train, rngs=rngs)
            features.append(flat.reshape(batch, count, -1))
        stacked = jnp.concatenate(features, axis=1)
        batch, count, width = stacked.shape
        projected = self.projection(stacked.reshape(batch * count, width), train=train)
        return projected.reshape(batch, count, -1)
