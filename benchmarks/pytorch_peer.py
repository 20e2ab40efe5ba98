"""The same training steps in plain PyTorch, to measure ours against.

    python -m benchmarks.pytorch_peer --stage pretrain [--batch 16] [--device cuda] [--bf16]

Written for this comparison and nothing else: ViT only, from ready views or images, with the fast
forms that PyTorch offers anyone (fused attention and AdamW, grouped tensor operations). Module
names are those of the reference's state dicts. The last line of stdout is JSON.
"""

import argparse
import contextlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import seconds as seconds_of
from benchmarks.timing import steps_for, summarize


class DropPath(nn.Module):
    """Zeroes a residual branch of whole samples."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(len(x), 1, 1).bernoulli_(keep) / keep


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


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches as a convolution."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images)


class ViT(nn.Module):
    """Class token, learned positions, blocks; the features are the class token's."""

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
        self.grid = image_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.grid**2, width) * 0.02)
        rates = np.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio, rate) for rate in rates))
        self.norm = nn.LayerNorm(width, eps=1e-6)
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


class LastLayer(nn.Module):
    """Linear layer whose weight rows have length 1."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=False)
        self.weight_v = nn.Parameter(nn.Linear(width, outputs, bias=False).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))


class Head(nn.Module):
    """Projection MLP, normalisation, prototypes."""

    def __init__(self, width: int, hidden: int = 512, bottleneck: int = 256, outputs: int = 1024):
        super().__init__()
        self.mlp = nn.Sequential(
            *(nn.Linear(width, hidden), nn.GELU()),
            *(nn.Linear(hidden, hidden), nn.GELU()),
            nn.Linear(hidden, bottleneck),
        )
        self.last_layer = LastLayer(bottleneck, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(features), dim=-1))


class MultiCrop(nn.Module):
    """A backbone with its head, one backbone pass per size of views."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.mlphead = head

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Views are [count x batch, 3, side, side], view by view; so is the result's first axis."""
        return self.mlphead(torch.cat([self.backbone(group) for group in views]))


def view_prediction_loss(
    student: Tensor, teacher: Tensor, center: Tensor, temperature: float, views: int
) -> Tensor:
    """Cross-entropy of each teacher view with each other student view, averaged."""
    targets = F.softmax((teacher.float() - center) / temperature, dim=-1).chunk(2)
    predictions = F.log_softmax(student.float() / 0.1, dim=-1).chunk(views)
    terms = [
        -(target * prediction).sum(-1).mean()
        for i, target in enumerate(targets)
        for j, prediction in enumerate(predictions)
        if i != j
    ]
    return torch.stack(terms).mean()


class Pretraining:
    """Student, teacher, centre and optimiser; `step` does what `pretrain_step.update` does."""

    def __init__(self, student: MultiCrop, teacher: MultiCrop, *, bf16=False, compiled=False):
        self.student, self.teacher, self.bf16 = student, teacher, bf16
        teacher.requires_grad_(False).load_state_dict(student.state_dict())
        self.center = torch.zeros(
            student.mlphead.last_layer.weight_v.shape[0],
            device=student.mlphead.last_layer.weight_v.device,
        )
        self.trained = [p for p in student.parameters() if p.requires_grad]
        self.averaged = [
            t
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True)
            if s.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.trained if p.ndim > 1]},
                {"params": [p for p in self.trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=2e-4,
            weight_decay=0.1,
            fused=True,
        )
        self.apply_student = torch.compile(student) if compiled else student
        self.apply_teacher = torch.compile(teacher) if compiled else teacher

    def step(
        self, views: Sequence[Tensor], *, temperature: float = 0.07, momentum: float = 0.997
    ) -> Tensor:
        """Takes one step from ready views and returns its loss."""
        count = 2 * sum(map(len, views)) // len(views[0])
        with _autocast(self.center.device.type, self.bf16):
            with torch.no_grad():
                teacher = self.apply_teacher(views[:1]).float()
            student = self.apply_student(views)
            loss = view_prediction_loss(student, teacher, self.center, temperature, count)
        self.optimizer.zero_grad()
        loss.backward()
        clip_each_tensor([p.grad for p in self.trained], 3.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.trained, 1 - momentum)
            self.center.lerp_(teacher.mean(0), 0.1)
        return loss.detach()


def clip_each_tensor(gradients: list[Tensor], most: float) -> None:
    """Scales each tensor down to a norm of `most`."""
    norms = torch._foreach_norm(gradients)
    torch._foreach_add_(norms, 1e-6)
    factors = [torch.clamp(most / norm, max=1.0) for norm in norms]
    torch._foreach_mul_(gradients, factors)


class Finetuning:
    """Model and optimiser; `step` does what `finetune.update` does."""

    def __init__(self, model: nn.Module, *, bf16: bool = False, compiled: bool = False):
        self.model, self.bf16 = model, bf16
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-3, weight_decay=0.05, fused=True
        )
        self.apply = torch.compile(model) if compiled else model

    def step(self, images: Tensor, labels: Tensor, others: Tensor, share: float) -> Tensor:
        """Takes one step from mixed images and returns its loss."""
        with _autocast(images.device.type, self.bf16):
            logits = self.apply(images)
            first = F.cross_entropy(logits, labels, label_smoothing=0.1)
            second = F.cross_entropy(logits, others, label_smoothing=0.1)
        loss = share * first + (1 - share) * second
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _autocast(device: str, bf16: bool):
    return torch.autocast(device, torch.bfloat16) if bf16 else contextlib.nullcontext()


def random_step(stage: str, batch: int, device: str, bf16: bool, compiled: bool):
    """A function that takes one step of the stage from random inputs."""
    torch.manual_seed(0)
    with torch.device(device):
        if stage == "pretrain":
            networks = [MultiCrop(ViT(), Head(192)) for _ in range(2)]
            training = Pretraining(*networks, bf16=bf16, compiled=compiled)
            views = (torch.randn(2 * batch, 3, 32, 32), torch.randn(8 * batch, 3, 16, 16))
            return lambda: training.step(views)
        training = Finetuning(ViT(num_classes=10), bf16=bf16, compiled=compiled)
        images = torch.randn(batch, 3, 32, 32)
        labels, others = torch.randint(10, (2, batch))
        return lambda: training.step(images, labels, others, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="automatic mixed precision")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--duration", type=float, default=1.5, help="seconds of one repeat")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    step = random_step(args.stage, args.batch, args.device, args.bf16, args.compile)

    def run(count: int) -> None:
        for _ in range(count):
            loss = step()
        loss.item()  # waits for the device

    run(2)
    steps = steps_for(run, args.duration)
    images = steps * args.batch
    rates = summarize([images / seconds_of(run, steps) for _ in range(args.repeats)])
    cuda = args.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else None
    print(json.dumps({"images_per_second": rates, "device_peak_bytes": peak}))


if __name__ == "__main__":
    main()
