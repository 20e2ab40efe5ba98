"""Windows of a grid of tokens: cutting, shifting, masking, and positions within one."""

import numpy as np
from jaxtyping import Float, Int

from smallvit_jax.models.attention import ITSELF

MASKED = -100.0  # what a logit between regions gets (models/swin.py)


def relative_position_index(window: int) -> Int[np.ndarray, "tokens tokens"]:
    """The row of the bias table for each pair of tokens (query, key) of a window.

    Offsets query - key in (rows, columns), counted from 1 - window, row by row.
    """
    row, column = np.divmod(np.arange(window**2), window)
    rows = row[:, None] - row + window - 1
    columns = column[:, None] - column + window - 1
    return rows * (2 * window - 1) + columns


def window_mask(
    rows: int, columns: int, window: int, shift: int, mask_padding: bool, mask_self: bool
) -> Float[np.ndarray, "windows tokens tokens"] | None:
    """What to add to the logits of a padded and shifted grid; None where that is nothing.

    A shifted grid is rolled around, so a window at its border holds tokens from both ends; those
    must not see each other. With `mask_padding` nobody sees the padding; with `mask_self` no token
    sees itself, unless there is nothing else that it may see.
    """
    padded_rows, padded_columns = rows + -rows % window, columns + -columns % window
    padded = (padded_rows, padded_columns) != (rows, columns)
    if not shift and not mask_self and not (mask_padding and padded):
        return None
    regions = _regions(padded_rows, window, shift)[:, None] * 3
    regions = regions + _regions(padded_columns, window, shift)
    regions = to_windows(regions[None, :, :, None], window)[0, :, :, 0]
    apart = regions[:, :, None] != regions[:, None, :]
    if mask_padding:
        real = np.zeros((padded_rows, padded_columns), bool)
        real[:rows, :columns] = True
        real = np.roll(real, (-shift, -shift), axis=(0, 1))
        apart = apart | ~to_windows(real[None, :, :, None], window)[0, :, None, :, 0]
    mask = np.where(apart, np.float32(MASKED), np.float32(0))
    if mask_self:
        itself = np.eye(window**2, dtype=bool)
        alone = (apart | itself).all(axis=-1, keepdims=True)
        mask[itself & ~alone] = ITSELF
    return mask


def _regions(size: int, window: int, shift: int) -> Int[np.ndarray, " size"]:
    """Of a side that is rolled by `shift`: all but the last window, its old and its new part."""
    position = np.arange(size)
    return (position >= size - window).astype(int) + (position >= size - shift)


def to_windows(x, window: int):
    """[batch, rows, columns, width] → [batch, windows, window², width]."""
    batch, rows, columns, width = x.shape
    x = x.reshape(batch, rows // window, window, columns // window, window, width)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window**2, width)


def from_windows(x, window: int, rows: int, columns: int):
    """Undoes `to_windows`."""
    x = x.reshape(len(x), rows // window, columns // window, window, window, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), rows, columns, -1)
