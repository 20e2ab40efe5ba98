"""Random numbers that depend only on the image, the kind and the severity."""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


class Draws:
    """One counter-based generator per image, drawn from for a whole batch at a time.

    The key of image `index` is (crc32 of the kind's name, severity, index), so draws do not depend
    on the batch, the order or the number of processes.
    """

    def __init__(self, kind: str, severity: int, indices: Sequence[int]):
        setting = zlib.crc32(kind.encode()) << 8 | severity
        self._generators = [
            np.random.Generator(np.random.Philox(key=[setting, int(index)])) for index in indices
        ]

    def normal(
        self, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0
    ) -> Float[np.ndarray, "images ..."]:
        """Draws normal values, `shape` per image."""
        values = np.empty((len(self._generators), *shape))
        for generator, value in zip(self._generators, values, strict=True):
            generator.standard_normal(out=value)
        values *= std
        values += mean
        return values

    def uniform(
        self, low: float, high: float, shape: tuple[int, ...] = ()
    ) -> Float[np.ndarray, "images ..."]:
        """Draws uniform values from `low` to `high`, `shape` per image."""
        values = np.stack([generator.random(shape) for generator in self._generators])
        values *= high - low
        values += low
        return values

    def poisson(self, means: Float[np.ndarray, "images ..."]) -> Int[np.ndarray, "images ..."]:
        """Draws Poisson counts with the given means."""
        pairs = zip(self._generators, means, strict=True)
        return np.stack([generator.poisson(mean) for generator, mean in pairs])

    def integers(
        self, low: int, high: int, shape: tuple[int, ...] = ()
    ) -> Int[np.ndarray, "images ..."]:
        """Draws integers from `low` to `high` - 1, `shape` per image."""
        return np.stack([generator.integers(low, high, shape) for generator in self._generators])
