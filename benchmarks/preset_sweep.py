"""Chooses a preset's settings on validation images: `python -m benchmarks.preset_sweep PRESET`.

Pre-trains with each variation of the preset and fine-tunes the result, fine-tunes the preset's own
pre-training with further variations, and trains from scratch with others, always on the preset's
labels. A fifth of the training images is held out; every figure is the accuracy on those, and the
test images are not used to choose. The same command again resumes in the same --workdir.
"""

import argparse
import json
import statistics
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from benchmarks.origin import origin
from smallvit_jax.command.config_files import load_config
from smallvit_jax.config.values import set_from_text
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.environment import environment
from smallvit_jax.workdir.metrics import read_metrics

HELD_OUT = 0.2


PARTS = ("pretrain", "finetune", "scratch")


class Sweep(NamedTuple):
    """Variations of a preset, each like "FIELD=VALUE+FIELD=VALUE"; "" is the preset itself.

    `fields`, of the same form, are set in all of them.
    """

    config: str
    pretrain: tuple[str, ...]
    finetune: tuple[str, ...]
    scratch: tuple[str, ...]
    fields: str = ""


_LR, _BATCH = "pretrain.optimizer.base_lr", "pretrain.batch_size"
_VIEWS, _TUNE, _AUGMENT = "pretrain.views", "finetune.optimizer.lr", "finetune.augment"
_TUNED_DINO = (
    "pretrain.objective=dino+pretrain.teacher.momentum=0.99+pretrain.teacher.drop_path=false"
    "+pretrain.optimizer.clip_global=0+pretrain.optimizer.clip=3"
    "+pretrain.optimizer.weight_decay_end=0.4"
)
_PLAIN = f"{_AUGMENT}.mix=0+{_AUGMENT}.policy=none+{_AUGMENT}.erase=0"
_RANDOM = "finetune.head_init=random+finetune.layer_decay=1"
_PROBE = "finetune.head_init=probe+finetune.layer_decay=0.65"
_UNCROPPED = f"{_AUGMENT}.crop_padding=0"
_AUGMENTED = f"{_AUGMENT}.mix=0.5+{_AUGMENT}.policy=auto+{_AUGMENT}.erase=0.25"
_LEJEPA = (
    f"pretrain.objective=lejepa+pretrain.epochs=2+{_LR}=0.008+pretrain.optimizer.warmup_epochs=1"
    f"+{_VIEWS}.local_crops=4+pretrain.lejepa.directions=128"
)
_NOT_MIMETIC = "model.init=fan_in+model.pool=cls+model.pos_embed=learned"
_OWN_FINETUNING = (
    *(f"{_PROBE}+{_TUNE}={rate}" for rate in (0.0003, 0.001, 0.002, 0.004)),
    *(f"{_RANDOM}+finetune.layer_decay=0.65+{_TUNE}={rate}" for rate in (0.002, 0.004)),
    f"{_RANDOM}+{_TUNE}=0.001",
    f"{_RANDOM}+{_TUNE}=0.002",
)
_OWN_LEJEPA = (
    f"dataset.labels_per_class=25+pretrain.objective=lejepa+{_BATCH}=64+{_VIEWS}.local_crops=4"
)

SWEEPS = {
    "quickstart": Sweep(
        "configs/quickstart.py",
        pretrain=(
            "",
            f"{_LR}=0.008",
            f"{_LR}=0.016",
            f"{_BATCH}=32",
            f"{_VIEWS}.local_crops=2",
            f"{_VIEWS}.local_crops=8",
            f"{_VIEWS}.local_scale=0.3,0.6",
            "pretrain.lejepa.weight=0.02",
            "pretrain.lejepa.weight=0.1",
            f"{_TUNED_DINO}+{_LR}=0.004",
            f"{_TUNED_DINO}+{_LR}=0.008",
            f"pretrain.objective=mae+{_LR}=0.008",
        ),
        finetune=(
            f"{_RANDOM}+{_TUNE}=0.001",
            f"{_TUNE}=0.001",
            f"{_TUNE}=0.0003",
            f"{_TUNE}=0.0001",
            f"{_TUNE}=0.00001",
            "finetune.layer_decay=1",
            f"{_AUGMENT}.crop_padding=0",
            f"{_AUGMENT}.crop_padding=2",
            _PLAIN,
        ),
        scratch=(
            f"{_TUNE}=0.0005",
            f"{_TUNE}=0.001",
            f"{_TUNE}=0.002",
            f"{_TUNE}=0.004",
            f"{_TUNE}=0.002+{_AUGMENT}.crop_padding=0",
            f"{_TUNE}=0.002+{_AUGMENT}.crop_padding=2",
            f"{_TUNE}=0.002+{_AUGMENT}.erase=0.25",
            f"{_TUNE}=0.002+{_PLAIN}",
            f"{_TUNE}=0.002+finetune.epochs=20",
        ),
    ),
    "small_data": Sweep(
        "configs/small_data.py:cifar10",
        fields="pretrain.epochs=6+dataset.labels_per_class=500+finetune.evaluate_every=9",
        pretrain=("", f"{_LR}=0.004", f"{_LR}=0.008", _LEJEPA),
        finetune=(
            f"{_RANDOM}+{_TUNE}=0.001+{_UNCROPPED}",
            f"{_RANDOM}+{_TUNE}=0.002+{_UNCROPPED}",
            f"{_RANDOM}+{_TUNE}=0.004+{_UNCROPPED}",
            *(
                f"{_RANDOM}+{_TUNE}={rate}+{_UNCROPPED}+finetune.layer_decay={decay}"
                for decay in (0.8, 0.65)
                for rate in (0.002, 0.004)
            ),
            f"{_RANDOM}+{_TUNE}=0.001+{_UNCROPPED}+{_AUGMENT}.flip=0.5",
        ),
        scratch=(),
    ),
    "small_data_lejepa": Sweep(
        "configs/small_data.py:cifar10",
        fields=f"{_LEJEPA}+dataset.labels_per_class=500+finetune.evaluate_every=9",
        pretrain=("",),
        finetune=(
            f"{_RANDOM}+{_TUNE}=0.002",
            f"{_RANDOM}+{_TUNE}=0.0005",
            f"{_RANDOM}+{_TUNE}=0.001+{_UNCROPPED}",
            f"{_RANDOM}+{_TUNE}=0.002+{_UNCROPPED}",
            f"{_RANDOM}+{_TUNE}=0.001+{_UNCROPPED}+{_AUGMENT}.flip=0",
            f"{_PROBE}+{_TUNE}=0.001+finetune.layer_decay=1",
            f"{_RANDOM}+{_TUNE}=0.001",
            f"{_RANDOM}+{_TUNE}=0.001+finetune.layer_decay=0.65",
            f"{_PROBE}+{_TUNE}=0.001",
            f"{_PROBE}+{_TUNE}=0.002",
        ),
        scratch=(
            f"{_TUNE}=0.001+{_UNCROPPED}",
            f"{_TUNE}=0.002+{_UNCROPPED}",
            f"{_TUNE}=0.002+{_UNCROPPED}+{_NOT_MIMETIC}",
            f"{_TUNE}=0.001+{_NOT_MIMETIC}",
            f"{_TUNE}=0.001+{_AUGMENTED}",
            f"{_TUNE}=0.001",
            f"{_TUNE}=0.002",
            f"{_TUNE}=0.004",
        ),
    ),
    "small_data_1_percent": Sweep(
        "configs/small_data.py:cifar10",
        fields=(
            "pretrain.epochs=6+dataset.labels_per_class=50+finetune.evaluate_every=9"
            f"+finetune.passes_per_epoch=10+{_TUNE}=0.001"
        ),
        pretrain=("",),
        finetune=(
            _PROBE,
            _RANDOM,
            f"{_RANDOM}+{_TUNE}=0.002",
            f"{_PROBE}+{_TUNE}=0.002",
            f"{_PROBE}+{_TUNE}=0.004",
            f"{_PROBE}+{_TUNE}=0.002+finetune.layer_decay=0.8",
        ),
        scratch=(),
    ),
    "small_data_1_percent_lejepa": Sweep(
        "configs/small_data.py:cifar10",
        fields=(
            f"{_LEJEPA}+pretrain.epochs=8+dataset.labels_per_class=50+finetune.evaluate_every=9"
            f"+finetune.passes_per_epoch=10+{_TUNE}=0.001"
        ),
        pretrain=("",),
        finetune=(
            f"{_PROBE}+{_UNCROPPED}",
            f"{_PROBE}+{_AUGMENT}.crop_padding=4",
            f"{_RANDOM}+{_UNCROPPED}",
            f"{_RANDOM}+{_AUGMENT}.crop_padding=4",
            f"{_PROBE}+{_AUGMENT}.crop_padding=4+{_TUNE}=0.0003",
        ),
        scratch=(
            _UNCROPPED,
            f"{_AUGMENT}.crop_padding=4",
            f"{_AUGMENT}.crop_padding=4+{_TUNE}=0.002",
        ),
    ),
    "own_images": Sweep(
        "configs/own_images.py:photos",
        fields=(
            "dataset.labels_per_class=25+pretrain.epochs=600+pretrain.optimizer.warmup_epochs=60"
        ),
        pretrain=("",),
        finetune=_OWN_FINETUNING,
        scratch=tuple(f"{_TUNE}={rate}" for rate in (0.0005, 0.001, 0.002, 0.004)),
    ),
    "own_images_lejepa": Sweep(
        "configs/own_images.py:photos",
        fields=f"{_OWN_LEJEPA}+pretrain.epochs=167+pretrain.optimizer.warmup_epochs=17",
        pretrain=("",),
        finetune=_OWN_FINETUNING,
        scratch=(),
    ),
    "own_images_lejepa_9_minutes": Sweep(
        "configs/own_images.py:photos",
        fields=(
            f"{_OWN_LEJEPA}+pretrain.epochs=60+pretrain.optimizer.warmup_epochs=6+{_TUNE}=0.001"
        ),
        pretrain=("", f"{_LR}=0.008", f"{_LR}=0.032", "pretrain.epochs=120"),
        finetune=(
            f"{_TUNE}=0.001",
            f"{_TUNE}=0.0003",
            _PLAIN,
            f"{_AUGMENT}.mix=0",
            f"{_RANDOM}+{_TUNE}=0.001",
        ),
        scratch=(
            f"{_TUNE}=0.001",
            f"{_TUNE}=0.002",
            _PLAIN,
            f"{_AUGMENT}.mix=0",
            f"{_TUNE}=0.001+{_NOT_MIMETIC}",
        ),
    ),
}


def run_sweep(
    sweep: Sweep,
    parts: Sequence[str],
    seeds: Sequence[int],
    workdir: Path,
    reader: DatasetReader,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each variation and seed of these parts."""
    for seed in seeds:
        base = _folder(workdir, "pretrain", "", seed) / "pretrain"
        if "finetune" in parts:
            pretrain.run(vary(sweep, "", seed), base, reader)
        for part in parts:
            for variation in getattr(sweep, part):
                config = vary(sweep, variation, seed)
                folder, start, seconds = _folder(workdir, part, variation, seed), None, {}
                if part == "pretrain":
                    start = folder / "pretrain"
                    learned = pretrain.run(config, start, reader)
                    folder, seconds = folder / "finetune", {"pretraining": learned["seconds"]}
                elif part == "finetune":
                    start = base
                figures = _tune(config, folder, reader, start)
                seconds["finetuning"] = figures.pop("seconds")
                row = {"part": part, "variation": variation, "seed": seed}
                yield row | figures | {"seconds": seconds}


def _folder(workdir: Path, part: str, variation: str, seed: int) -> Path:
    """A folder of its own for each variation; adding variations changes no names."""
    return workdir / f"{part}-{zlib.crc32(variation.encode()):08x}" / f"seed-{seed}"


def vary(sweep: Sweep, variation: str, seed: int) -> ConfigDict:
    """Returns the preset's config with a variation's fields and a part held out."""
    config = load_config(sweep.config)
    config.finetune.optimizer.scratch_lr = None  # variations set lr
    config.seed = seed
    config.dataset.validation_fraction = HELD_OUT
    config.pretrain.knn_every = 0  # it would look at the test images
    for assignment in filter(None, f"{sweep.fields}+{variation}".split("+")):
        field, value = assignment.split("=")
        set_from_text(config, field, value)
    return config


def _tune(config: ConfigDict, folder: Path, reader: DatasetReader, start: Path | None):
    result = finetune.run(config, folder, reader, init_from=start)
    first = next(row for row in read_metrics(folder) if row["split"] == "validation")
    return {
        "probe": first["top1"] if first["step"] == 0 else None,
        "accuracy": result["validation_top1"],
        "seconds": result["seconds"],
    }


def summarize(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each variation: its mean accuracy over seeds, and that of the probe."""
    table: list[tuple[str, ...]] = [("part", "variation", "probe", "accuracy")]
    for part, variation in dict.fromkeys((row["part"], row["variation"]) for row in rows):
        here = [row for row in rows if (row["part"], row["variation"]) == (part, variation)]
        cells = []
        for name in ("probe", "accuracy"):
            values = [row[name] for row in here if row[name] is not None]
            cells.append(f"{statistics.mean(values):.1f}" if values else "")
        table.append((part, variation or "the preset", *cells))
    return table


def main() -> int:
    """Runs a sweep, prints its table and writes every row as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("preset", choices=SWEEPS)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--data_dir")
    parser.add_argument("--out", type=Path, help="JSON file to write the results to")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    seeds = [int(seed) for seed in args.seeds.split(",")]
    reader, parts = DatasetReader(args.data_dir), args.parts.split(",")
    for row in run_sweep(SWEEPS[args.preset], parts, seeds, args.workdir, reader):
        rows.append(row)
        if args.out:
            result = origin("benchmarks.preset_sweep", sys.argv[1:]) | {
                "machine": environment(),
                "rows": rows,
            }
            args.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(f"{args.preset}: accuracy in % on held-out training images", summarize(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
