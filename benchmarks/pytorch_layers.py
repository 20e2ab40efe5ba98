"""Layers of ViT, Swin and CaiT in plain PyTorch, for `benchmarks.pytorch_models`.

They use the fast operations that ship with PyTorch.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smallvit_jax.models.window_attention import relative_position_index, window_mask


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


class DropPath(nn.Module):
    """Zeroes the residual branch of whole samples."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep) / keep


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a bias per relative position."""

    def __init__(self, width: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(
            torch.randn((2 * window - 1) ** 2, heads) * 0.02
        )
        index = torch.as_tensor(relative_position_index(window))
        self.register_buffer("relative_position_index", index)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, columns, _ = x.shape
        x = F.pad(x, (0, 0, 0, -columns % self.window, 0, -rows % self.window))
        padded_rows, padded_columns = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = self._cut(x)  # [windows, tokens, width]
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, self._bias(batch, rows, columns))
        x = self.proj(mixed.transpose(1, 2).reshape(x.shape))
        x = self._join(x, batch, padded_rows, padded_columns)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :rows, :columns]

    def _bias(self, batch: int, rows: int, columns: int) -> Tensor:
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        mask = mask_of(rows, columns, self.window, self.shift, bias.device)
        if mask is None:
            return bias[None]
        return (bias + mask).repeat(batch, 1, 1, 1)

    def _cut(self, x: Tensor) -> Tensor:
        batch, rows, columns, width = x.shape
        w = self.window
        x = x.view(batch, rows // w, w, columns // w, w, width)
        return x.transpose(2, 3).reshape(-1, w * w, width)

    def _join(self, x: Tensor, batch: int, rows: int, columns: int) -> Tensor:
        w = self.window
        x = x.view(batch, rows // w, columns // w, w, w, -1)
        return x.transpose(2, 3).reshape(batch, rows, columns, -1)


@cache
def mask_of(rows: int, columns: int, window: int, shift: int, device: torch.device):
    """Mask added to the logits, [windows, 1, tokens, tokens], or None if nothing is masked."""
    mask = window_mask(rows, columns, window, shift, mask_padding=False, mask_self=False)
    return None if mask is None else torch.as_tensor(mask, device=device)[:, None]


class TalkingHeads(nn.Module):
    """Self-attention whose heads are mixed linearly before and after the softmax."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.proj_l = nn.Linear(heads, heads)
        self.proj_w = nn.Linear(heads, heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        weights = self.proj_l(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        weights = self.proj_w(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((weights @ v).transpose(1, 2).reshape(x.shape))


class ClassAttention(nn.Module):
    """Attention from the first token to all tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)
            for t in (self.q(x[:, :1]), self.k(x), self.v(x))
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).reshape(len(x), 1, -1))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class PatchEmbed(nn.Module):
    """Patch embedding as a convolution."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)


def cut_patches(images: Tensor, side: int) -> Tensor:
    """Cuts square patches, row by row, each flattened in (row, column, channel) order."""
    batch, channels, rows, columns = images.shape
    patches = images.view(batch, channels, rows // side, side, columns // side, side)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side * channels)
