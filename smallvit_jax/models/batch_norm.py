"""Batch normalization for convolutional stems and networks, with PyTorch's conventions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from smallvit_jax.process.sharding import device_count, mean_over_devices

EPSILON = 1e-5
MOMENTUM = 0.1  # weight of the new batch in the running statistics


class BatchNorm(nnx.Module):
    """Normalizes each channel over batch and positions (Ioffe and Szegedy, 2015).

    Like torch.nn.BatchNorm2d: epsilon 1e-5, momentum 0.1, unbiased running variance. Statistics
    cover the whole batch across all devices and are float32, whatever the output's `dtype`.
    """

    def __init__(self, channels: int, *, dtype):
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(
        self, x: Float[Array, "batch *positions channels"], *, train: bool, record: bool = True
    ) -> Float[Array, "batch *positions channels"]:
        """Normalizes by the batch statistics in training, by the running statistics otherwise.

        With `record=False`, training does not update the running statistics. Use it for images of
        another size than the model's, such as DINO's local crops: their statistics differ and must
        not mix with those used in evaluation.
        """
        x = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = mean_over_devices(x.mean(axes))
            # Not E[x²] - E[x]², which loses variances that are small compared to the mean.
            variance = mean_over_devices(jnp.square(x - mean).mean(axes))
            if record:
                self._record(mean, variance, x.size // x.shape[-1] * device_count())
        else:
            mean, variance = self.mean[...], self.var[...]
        factor = jax.lax.rsqrt(variance + EPSILON) * self.scale[...]
        return ((x - mean) * factor + self.bias[...]).astype(self.dtype)

    def _record(
        self, mean: Float[Array, " channels"], variance: Float[Array, " channels"], count: int
    ) -> None:
        unbiased = variance * (count / max(count - 1, 1))
        self.mean[...] = (1 - MOMENTUM) * self.mean[...] + MOMENTUM * mean
        self.var[...] = (1 - MOMENTUM) * self.var[...] + MOMENTUM * unbiased
