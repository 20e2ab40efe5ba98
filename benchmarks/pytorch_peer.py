"""The same training steps in plain PyTorch, as a baseline for ours.

    python -m benchmarks.pytorch_peer --model vit --stage pretrain [--device cuda] [--bf16]

Written only for this comparison: steps on augmented views or images, with the fast operations that
ship with PyTorch (fused attention and AdamW, grouped tensor operations). The last line of stdout is
JSON.
"""

import argparse
import contextlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pytorch_models import MODELS
from benchmarks.timing import seconds as seconds_of
from benchmarks.timing import steps_for, summarize


class LastLayer(nn.Module):
    """Linear layer whose weight rows have norm 1."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=False)
        self.weight_v = nn.Parameter(nn.Linear(width, outputs, bias=False).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))


class Head(nn.Module):
    """Projection MLP, normalization, prototypes."""

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
    """A backbone with its head; one backbone pass per view size."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.mlphead = head

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Views are [count x batch, 3, side, side], view by view, like the result's first axis."""
        return self.mlphead(torch.cat([self.backbone(group) for group in views]))


def view_prediction_loss(
    student: Tensor, teacher: Tensor, center: Tensor, temperature: float, views: int
) -> Tensor:
    """Mean cross-entropy between each teacher view and every other student view."""
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
    """Student, teacher, center and optimizer; `step` does the same as `dino.update`."""

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
        """Takes one step on augmented views and returns its loss."""
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
    """Scales each tensor down to a norm of at most `most`."""
    norms = torch._foreach_norm(gradients)
    torch._foreach_add_(norms, 1e-6)
    factors = [torch.clamp(most / norm, max=1.0) for norm in norms]
    torch._foreach_mul_(gradients, factors)


class Finetuning:
    """Model and optimizer; `step` does the same as `supervised.update`."""

    def __init__(self, model: nn.Module, *, bf16: bool = False, compiled: bool = False):
        self.model, self.bf16 = model, bf16
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-3, weight_decay=0.05, fused=True
        )
        self.apply = torch.compile(model) if compiled else model

    def step(self, images: Tensor, labels: Tensor, others: Tensor, share: float) -> Tensor:
        """Takes one step on mixed images and returns its loss."""
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


def random_step(model: str, stage: str, batch: int, device: str, bf16: bool, compiled: bool):
    """Returns a function that takes one step of the stage on random inputs."""
    torch.manual_seed(0)
    backbone = MODELS[model]
    with torch.device(device):
        if stage == "pretrain":
            networks = []
            for _ in range(2):
                network = backbone()
                networks.append(MultiCrop(network, Head(network.num_features)))
            training = Pretraining(*networks, bf16=bf16, compiled=compiled)
            views = (torch.randn(2 * batch, 3, 32, 32), torch.randn(8 * batch, 3, 16, 16))
            return lambda: training.step(views)
        training = Finetuning(backbone(num_classes=10), bf16=bf16, compiled=compiled)
        images = torch.randn(batch, 3, 32, 32)
        labels, others = torch.randint(10, (2, batch))
        return lambda: training.step(images, labels, others, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=tuple(MODELS), default="vit")
    parser.add_argument("--stage", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="automatic mixed precision")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--duration", type=float, default=1.5, help="seconds per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    step = random_step(args.model, args.stage, args.batch, args.device, args.bf16, args.compile)

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
