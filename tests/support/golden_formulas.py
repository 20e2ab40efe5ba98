"""Deterministic weights and inputs as functions of their names.

The golden files, which are read here too, were recorded with them; one of those files,
`formula_selftest.json`, checks this copy.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


def read_golden(name: str) -> Any:
    """The content of `tests/golden/NAME.json`."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def unit(name: str, count: int) -> np.ndarray:
    """Uniform float64 values in [-1, 1): a splitmix64 hash of (crc32(name), index)."""
    with np.errstate(over="ignore"):
        z = (np.uint64(zlib.crc32(name.encode())) << np.uint64(32)) + np.arange(
            count, dtype=np.uint64
        )
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0


def array(tag: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """A float32 array of the given shape, uniform in [-scale, scale)."""
    return (scale * unit(tag, int(np.prod(shape)))).reshape(shape).astype(np.float32)


def image_batch(count: int, size: int, tag: str = "img") -> np.ndarray:
    """Smooth waves plus noise, float32 NCHW, values within about ±1.8."""
    b, c, y, x = np.ogrid[:count, :3, :size, :size]
    wave = np.sin(2 * np.pi * ((c + 1) * x + (b + 1) * y / 2) / size + c)
    noise = unit(f"{tag}:{count}:{size}", 3 * count * size * size).reshape(count, 3, size, size)
    return (0.9 * wave + 0.9 * noise).astype(np.float32)


def fill(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight for one PyTorch state_dict key: float32, in PyTorch's layout."""
    for prefix in ("module.", "backbone.", "mlphead."):
        key = key.removeprefix(prefix)
    u = unit(key, int(np.prod(shape))).reshape(shape)
    last = key.rsplit(".", 1)[-1]
    if last in ("gamma_1", "gamma_2"):
        value = 0.1 + 0.05 * u
    elif last == "weight_g":
        value = 1 + 0.25 * u
    elif last in ("cls_token", "pos_embed", "relative_position_bias_table"):
        value = 0.5 * u
    elif last == "bias":
        value = 0.1 * u
    elif len(shape) == 1:
        value = 1 + 0.2 * u
    else:
        value = np.sqrt(3.0 / np.prod(shape[1:])) * u
    return value.astype(np.float32)


def hashed(name: str, shape: tuple[int, ...], amplitude: float) -> np.ndarray:
    """A float32 array, uniform in ±`amplitude`: a 32-bit hash of crc32(name) + index.

    For the golden files of the other reference codebases, whose inputs are named "input:NAME".
    """
    z = zlib.crc32(name.encode()) + np.arange(int(np.prod(shape)), dtype=np.uint64)
    z = z.astype(np.uint32)  # modulo 2^32, like every line below
    z ^= z >> np.uint32(16)
    z *= np.uint32(0x7FEB352D)
    z ^= z >> np.uint32(15)
    z *= np.uint32(0x846CA68B)
    z ^= z >> np.uint32(16)
    return (amplitude * (z * (2 / 2**32) - 1)).reshape(shape).astype(np.float32)
