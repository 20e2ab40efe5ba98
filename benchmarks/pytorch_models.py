"""ViT, Swin and CaiT in plain PyTorch, for `benchmarks.pytorch_peer`.

They compute the same as our models at both view sizes. Module names match the reference's state
dicts.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pytorch_layers import (
    Attention,
    ClassAttention,
    DropPath,
    Mlp,
    PatchEmbed,
    TalkingHeads,
    WindowAttention,
    cut_patches,
    layer_norm,
)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = Attention(width, heads)
        self.norm2 = layer_norm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """Class token, learned positions, blocks; features are the class token."""

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int = 4,
        width: int = 192,
        depth: int = 9,
        heads: int = 12,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        num_classes: int = 0,
    ):
        super().__init__()
        self.num_features = width
        self.grid = image_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.grid**2, width) * 0.02)
        rates = np.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio, rate) for rate in rates))
        self.norm = layer_norm(width)
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        positions = self._positions(x.shape[-1])
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        return self.head(self.norm(self.blocks(x + positions))[:, 0])

    def _positions(self, side: int) -> Tensor:
        if side == self.grid:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        scale = (side + 0.1) / self.grid
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class SwinBlock(Block):
    """Pre-norm block with window attention."""

    def __init__(self, width: int, heads: int, grid: int, shifted: bool, *rest: float):
        super().__init__(width, heads, *rest)
        window = min(grid, 4)
        shift = window // 2 if shifted and grid > window else 0
        self.attn = WindowAttention(width, heads, window, shift)


class PatchMerging(nn.Module):
    """Merges 2 x 2 tokens into one of twice the width."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = layer_norm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class Stage(nn.Module):
    """Blocks at one grid size, then optional merging."""

    def __init__(
        self, width: int, heads: int, grid: int, mlp_ratio: float, rates: list[float], merge: bool
    ):
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                SwinBlock(width, heads, grid, i % 2 == 1, mlp_ratio, rate)
                for i, rate in enumerate(rates)
            )
        )
        self.downsample = PatchMerging(width) if merge else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class Swin(nn.Module):
    """Shifted-window attention in three stages; features are the mean over all tokens."""

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int = 2,
        width: int = 96,
        depths: tuple[int, ...] = (2, 6, 4),
        heads: int = 3,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        num_classes: int = 0,
    ):
        super().__init__()
        self.num_features = width * 2 ** (len(depths) - 1)
        self.patch_embed = PatchEmbed(patch_size, width)
        self.patch_embed.norm = layer_norm(width)
        grid, rates = (
            image_size // patch_size,
            iter(np.linspace(0, drop_path, sum(depths)).tolist()),
        )
        self.layers = nn.Sequential(
            *(
                Stage(
                    width * 2**i,
                    heads * 2**i,
                    grid // 2**i,
                    mlp_ratio,
                    [next(rates) for _ in range(depth)],
                    merge=i + 1 < len(depths),
                )
                for i, depth in enumerate(depths)
            )
        )
        self.norm = layer_norm(self.num_features)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed.norm(self.patch_embed(images).permute(0, 2, 3, 1))
        return self.head(self.norm(self.layers(x)).mean((1, 2)))


class CaiTBlock(Block):
    """Pre-norm block with talking heads and layer scale."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float):
        super().__init__(width, heads, mlp_ratio, drop_path)
        self.attn = TalkingHeads(width, heads)
        self.gamma_1 = nn.Parameter(torch.full((width,), 1e-5))
        self.gamma_2 = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class ClassBlock(CaiTBlock):
    """Updates only the class token."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads, 4.0, 0.0)
        self.attn = ClassAttention(width, heads)

    def forward(self, cls: Tensor, patches: Tensor) -> Tensor:
        cls = cls + self.gamma_1 * self.attn(self.norm1(torch.cat([cls, patches], dim=1)))
        return cls + self.gamma_2 * self.mlp(self.norm2(cls))


class CaiT(nn.Module):
    """Talking heads over the patches, then class attention; features are the class token."""

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int = 4,
        width: int = 192,
        depth: int = 24,
        class_depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        num_classes: int = 0,
    ):
        super().__init__()
        self.num_features, self.patch_size = width, patch_size
        self.patch_embed = nn.Sequential(nn.Identity(), nn.Linear(3 * patch_size**2, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(
            *(CaiTBlock(width, heads, mlp_ratio, drop_path) for _ in range(depth))
        )
        self.blocks_token_only = nn.ModuleList(ClassBlock(width, heads) for _ in range(class_depth))
        self.norm = layer_norm(width)
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(cut_patches(images, self.patch_size))
        x = self.blocks(x + self.pos_embed[:, : x.shape[1]])
        cls = self.cls_token.expand(len(x), -1, -1)
        for block in self.blocks_token_only:
            cls = block(cls, x)
        return self.head(self.norm(cls)[:, 0])


MODELS = {"vit": ViT, "swin": Swin, "cait": CaiT}
