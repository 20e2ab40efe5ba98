"""Writes docs/parity.md: how far models, training and augmentation are from the reference.

    python -m benchmarks.parity

Runs everything that `tests/golden` holds recordings of, in float32 as XLA compiles it, on JAX's
default device, and keeps the worst difference of each quantity. The first time it takes up to an
hour on one CPU core, nearly all of it compilation; the lines on stderr say how far it is.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from smallvit_jax.config import default_config
from smallvit_jax.config.choices import TRANSFORMERS
from smallvit_jax.models import create_model
from smallvit_jax.process import runtime
from smallvit_jax.workdir.environment import environment
from tests.augment.recorded_cases import names, our_image, recorded_image
from tests.models.reference_models import (
    RESOLUTIONS,
    filled_model,
    multi_crop_difference,
    output_differences,
)
from tests.support.differences import Differences
from tests.support.golden_formulas import GOLDEN, read_golden
from tests.support.reference_traces import (
    finetuning_differences,
    make_pretraining_step,
    pretraining_differences,
    view_network,
)

TARGET = Path(__file__).parents[1] / "docs" / "parity.md"
LIMIT = 1e-5

# Rows of the first table: title, and the quantity behind it.
TRAINING_ROWS = {
    "features, 32 px": "features full_res",
    "features, 16 px": "features half_res",
    "logits, 32 px": "logits full_res",
    "logits, 16 px": "logits half_res",
    "multi-crop network's outputs": "multi-crop",
    "norm of the tokens after each layer": "layers",
    "pre-training: loss, recorded in float32": "pretraining loss",
    "pre-training: loss, recorded in float64": "pretraining loss, float64",
    "pre-training: gradient norms before clipping": "pretraining gradients",
    "pre-training: parameter norms of student and teacher": "pretraining parameters",
    "pre-training: norm of the center": "pretraining center",
    "fine-tuning: loss, recorded in float32": "finetuning loss",
    "fine-tuning: loss, recorded in float64": "finetuning loss, float64",
    "fine-tuning: gradient norms": "finetuning gradients",
    "fine-tuning: parameter norms": "finetuning parameters",
}

AUGMENTATION_ROWS = {
    "crop and resize": r"rrc\d+_\d+_\d+_\d+_\d+_to\d+",
    "padded crop, flip": "randomcrop_pad4.+|hflip",
    "brightness, contrast, saturation": "(brightness|contrast|saturation)_.+",
    "hue": "hue_.+",
    "the four of colour jitter, one after the other": "jitter_chain.+",
    "grayscale, solarise": "grayscale3|solarize128",
    "blur": "gaussblur.+",
    "AutoAugment's operations": "aa.+",
}
NORMALISED = "totensor_normalize_cifar10|erase_.+"

PAGE = """\
# How close it is to the reference

Written by a command, not by hand:

```bash
pip install -e '.[test]' && python -m benchmarks.parity
```

It gives models and training steps the weights and inputs with which the outputs of the PyTorch
reference were recorded (`tests/golden`) and keeps the largest difference. Float32 with matrix
products in full precision, compiled as in training; {place}.

## Models and training

Features, logits and outputs of the multi-crop network: absolute differences, at values of about 1.
All others are relative. **Bold** is beyond 1e-5.

{training}

The recordings: {recordings}. Clipping, freezing of the last layer, mixup and cutmix are among them;
drop path is off.

After Adam's first step, rounding in the gradients decides the last digits of a loss. So the
reference's own float32 is this far from the reference in float64, relatively:

{rounding}

## Augmentation

Images of 8-bit levels against Pillow's and torchvision's, with the same random choices:

{augmentation}

Contrast, saturation and AutoAugment's colour operations give Pillow's very levels when each
arithmetic operation rounds by itself; XLA may fuse a product with the sum behind it, and then
values that lie on a boundary fall to the other side.

Normalising and erasing, on normalised values of up to 2: at most {normalised:.1e}.
"""


def main() -> None:
    runtime.prepare("float32", default_config().runtime.compilation_cache)
    progress = _Progress(parts=4 * len(TRANSFORMERS) + 1)
    columns = {family: _training_differences(family, progress) for family in TRANSFORMERS}
    page = PAGE.format(
        place=_place(),
        training=_table(_training_rows(columns)),
        recordings=_recordings(),
        rounding=_table(_rounding_rows()),
        augmentation=_table(_augmentation_rows()),
        normalised=max(difference.max() for difference in _image_differences(NORMALISED)),
    )
    progress.done("augmentation")
    TARGET.write_text(page, encoding="utf-8")
    print(f"wrote {TARGET}")


def _training_differences(family: str, progress: "_Progress") -> dict[str, float]:
    """The worst difference of every quantity of one architecture."""
    worst: dict[str, float] = {}
    recorded = read_golden(f"model_{family}_32")
    model = filled_model(family, num_classes=10)
    for part, size, tag in RESOLUTIONS:
        found = output_differences(model, recorded[part], size, tag, jax.jit)
        worst |= {f"{name} {part}": difference for name, (difference, _) in found.worst.items()}
        layers = worst[f"norms of each layer's tokens {part}"]
        worst["layers"] = max(layers, worst.get("layers", 0.0))
    progress.done(f"{family}: features and logits")
    worst["multi-crop"] = multi_crop_difference(family, recorded, jax.jit)
    progress.done(f"{family}: multi-crop network")

    network = view_network(create_model(family))
    step = make_pretraining_step(network, jax.jit)
    found = Differences()
    for name in _pretraining_traces(family):
        found.merge(pretraining_differences(read_golden(name), network, step))
    worst |= {f"pretraining {name}": difference for name, (difference, _) in found.worst.items()}
    progress.done(f"{family}: pre-training")
    recorded = read_golden(f"trace_finetune_{family}")
    found = finetuning_differences(recorded, create_model(family, num_classes=10), jax.jit)
    worst |= {f"finetuning {name}": difference for name, (difference, _) in found.worst.items()}
    progress.done(f"{family}: fine-tuning")
    return worst


def _pretraining_traces(family: str) -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob(f"trace_ssl_{family}_*.json"))


def _training_rows(columns: dict[str, dict[str, float]]) -> Iterator[list[str]]:
    yield ["largest difference", *columns]
    for title, quantity in TRAINING_ROWS.items():
        figures = [worst[quantity] for worst in columns.values()]
        yield [title, *(f"{x:.1e}" if x <= LIMIT else f"**{x:.2e}**" for x in figures)]


def _rounding_rows() -> Iterator[list[str]]:
    """What the recordings say of the reference's float32 against its float64."""
    yield ["the reference's own rounding", *TRANSFORMERS]
    for stage, key, title in (
        ("ssl", "loss", "pre-training: loss"),
        ("ssl", "param_l2", "pre-training: parameter norms"),
        ("finetune", "loss", "fine-tuning: loss"),
        ("finetune", "grad_l2", "fine-tuning: gradient norms"),
        ("finetune", "param_l2", "fine-tuning: parameter norms"),
    ):
        row = [title]
        for family in TRANSFORMERS:
            traces = _pretraining_traces(family) if stage == "ssl" else [f"trace_finetune_{family}"]
            figures = [read_golden(name)["float32_vs_float64_max_rel"][key] for name in traces]
            row.append(f"{max(figures):.1e}")
        yield row


def _recordings() -> str:
    parts = []
    for family in TRANSFORMERS:
        traces = [read_golden(name) for name in _pretraining_traces(family)]
        steps = ", ".join(str(len(trace["steps_recorded"])) for trace in traces)
        tuning = len(read_golden(f"trace_finetune_{family}")["steps"])
        parts.append(f"{family} {steps} steps of pre-training and {tuning} of fine-tuning")
    return "; ".join(parts)


def _image_differences(pattern: str) -> Iterator[np.ndarray]:
    for name in names(pattern):
        yield np.abs(our_image(name).astype(np.float64) - recorded_image(name))


def _augmentation_rows() -> Iterator[list[str]]:
    yield ["operation", "images", "largest difference", "values that differ"]
    for title, pattern in AUGMENTATION_ROWS.items():
        levels = list(_image_differences(pattern))
        values = np.concatenate([x.ravel() for x in levels])
        share = 100 * (values > 0).mean()
        yield [title, str(len(levels)), f"{values.max():.0f}", f"{share:.2f} %" if share else "0"]


def _table(rows: Iterator[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _place() -> str:
    here = environment()
    versions = ", ".join(f"{name} {here['versions'][name]}" for name in ("jax", "jaxlib", "flax"))
    python = ".".join(here["versions"]["python"].split(".")[:2])
    return f"{versions}, Python {python}, on {here['platform']} ({here['device_kind']})"


class _Progress:
    """A line on stderr for each part that is done."""

    def __init__(self, parts: int):
        self._parts, self._done, self._start = parts, 0, time.monotonic()

    def done(self, part: str) -> None:
        self._done += 1
        seconds = time.monotonic() - self._start
        print(f"[{self._done}/{self._parts}] {part} ({seconds:.0f} s)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
