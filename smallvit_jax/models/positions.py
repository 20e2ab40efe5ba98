"""Fixed position embeddings."""

import functools

import numpy as np
from jaxtyping import Float

_BASE = 10000.0  # wavelengths range from 2 π patches to nearly 10,000 times that


@functools.lru_cache(maxsize=16)
def sincos_positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "tokens width"]:
    """Sines and cosines of each patch's row y and column x, row by row; float32, in [-1, 1].

    [sin(y w), sin(x w), cos(y w), cos(x w)], where w_j = 10000^(-j / (width / 4)) for j from 0 to
    width / 4 - 1: timm's `build_sincos2d_pos_embed`, after Vaswani et al. (2017). The width must be
    a multiple of 4. The array is shared between callers and read-only.
    """
    waves = _BASE ** -(np.arange(width // 4) / (width // 4))
    y, x = np.divmod(np.arange(rows * columns), columns)
    angles = np.concatenate([y[:, None] * waves, x[:, None] * waves], axis=1)
    positions = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    positions.setflags(write=False)
    return positions
