"""Batch normalisation of convolutional stems and networks, with PyTorch's conventions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

EPSILON = 1e-5
MOMENTUM = 0.1  # share of the new value in the running statistics


class BatchNorm(nnx.Module):
    """Normalises each channel over batch and positions (Ioffe and Szegedy, 2015).

    As torch.nn.BatchNorm2d: epsilon 1e-5, running statistics that take up a tenth of each batch's,
    their variance the unbiased one. Statistics are those of the whole batch over all devices, in
    float32 whatever `dtype` the output has.
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
        """Normalises by the batch's statistics in training, by the running ones otherwise.

        `record=False` leaves the running statistics of a training pass as they are. It is for
        images of another size than the model's, such as self-distillation's local crops: other
        statistics, which must not mix with those that evaluation uses.
        """
        x = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = x.mean(axes)
            # Not E[x²] - E[x]², which loses variances that are small beside the mean.
            variance = jnp.square(x - mean).mean(axes)
            if record:
                self._record(mean, variance, x.size // x.shape[-1])
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
