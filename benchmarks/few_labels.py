"""Accuracy with few labels, for each objective: `python -m benchmarks.few_labels --workdir FOLDER`.

Pre-trains with `configs/small_data.py:cifar10` on all images without labels, then fine-tunes with
some labels per class, and trains from scratch on the same labels for as many steps: the preset's
model, and the same without mimetic initialization. The same command again resumes; several at the
same time, with different seeds or objectives, can share a --workdir.
"""

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from benchmarks.origin import origin
from smallvit_jax.command.config_files import load_config
from smallvit_jax.config.values import set_from_text
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process.terminal import print_table
from smallvit_jax.reporting.figures import colors_of, panels, styled
from smallvit_jax.workdir.environment import environment

PRESET = "configs/small_data.py:cifar10"
CLASSES = 10

# The preset and LeJEPA for about as long, and each objective for a third of the time.
LEJEPA = {
    "pretrain.objective": "lejepa",
    "pretrain.epochs": "8",
    "pretrain.optimizer.base_lr": "0.008",
    "pretrain.optimizer.warmup_epochs": "1",
    "pretrain.views.local_crops": "4",
    "pretrain.lejepa.directions": "128",
}
DINO = {
    "pretrain.objective": "dino",
    "pretrain.epochs": "2",
    "pretrain.optimizer.base_lr": "0.004",
    "pretrain.optimizer.warmup_epochs": "1",
    "pretrain.optimizer.clip_global": "0",
    "pretrain.optimizer.clip": "3",
    "pretrain.optimizer.weight_decay_end": "0.4",
    "pretrain.teacher.momentum": "0.99",
    "pretrain.teacher.drop_path": "false",
    "pretrain.views.local_crops": "4",
}
OBJECTIVES = {
    "mae": {},
    "lejepa": LEJEPA,
    "mae, short": {
        "pretrain.epochs": "9",
        "pretrain.optimizer.base_lr": "0.004",
        "pretrain.optimizer.warmup_epochs": "1",
    },
    "lejepa, short": LEJEPA | {"pretrain.epochs": "3"},
    "dino, short": DINO,
}
PLAIN = {"model.init": "fan_in", "model.pool": "cls", "model.pos_embed": "learned"}
STARTS = {"scratch": {}, "scratch, not mimetic": PLAIN}


ONE_PASS = 500  # labels per class from which an epoch is one pass; random crops hurt from there on


def run(
    starts: Sequence[str],
    seeds: Sequence[int],
    label_counts: Sequence[int],
    workdir: Path,
    reader: DatasetReader,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each seed, start (an objective or a way from scratch) and label count."""
    for seed in seeds:
        for start in starts:
            init, learned = None, {}
            if start in OBJECTIVES:
                init = workdir / _folder(start, seed) / "pretrain"
                config = preset(OBJECTIVES[start], seed)
                config.pretrain.knn_every = config.pretrain.epochs  # before and after
                result = pretrain.run(config, init, reader)
                names = ("knn_before", "knn_after", "rankme_after", "epochs", "images_per_second")
                learned = {name: result[name] for name in names}
                learned["seconds_pretraining"] = result["seconds"]
            for labels in label_counts:
                fields = STARTS.get(start, {}) | label_fields(labels)
                config = preset(fields, seed)
                folder = workdir / _folder(start, seed)
                tuned = finetune.run(config, folder / f"labels-{labels}", reader, init_from=init)
                yield {
                    "start": start,
                    "seed": seed,
                    "labels_per_class": labels or "all",
                    "steps": tuned["steps"],
                    "probe": tuned["probe_test_top1"],
                    "accuracy": tuned["test_top1"],
                    **learned,
                }


def label_fields(labels: int) -> dict[str, str]:
    """The fields for a number of labels per class, 0 for all.

    Up to 900 steps; more only if nine passes need them. Whether images are cropped was chosen on
    held-out training images.
    """
    few = 0 < labels < ONE_PASS
    return {
        "dataset.labels_per_class": str(labels),
        "finetune.evaluate_every": "9",
        "finetune.augment.crop_padding": "none" if few else "0",
    }


def _folder(start: str, seed: int) -> str:
    return f"{start.replace(',', '').replace(' ', '-')}-{seed}"


def preset(fields: dict[str, str], seed: int) -> ConfigDict:
    """The preset with a seed and other fields."""
    config = load_config(PRESET)
    config.seed = seed
    for field, value in fields.items():
        set_from_text(config, field, value)
    return config


def summarize(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each start and label count: mean and standard deviation over seeds."""
    table: list[tuple[str, ...]] = [("start", "labels per class", "seeds", "probe", "accuracy")]
    for start, labels in dict.fromkeys((row["start"], row["labels_per_class"]) for row in rows):
        here = [r for r in rows if (r["start"], r["labels_per_class"]) == (start, labels)]
        table.append(
            (
                start,
                str(labels),
                str(len(here)),
                mean_and_spread([r["probe"] for r in here if r["probe"] is not None]),
                mean_and_spread([r["accuracy"] for r in here]),
            )
        )
    return table


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean and, of several values, the standard deviation (n - 1)."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


@styled
def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Test accuracy over labels per class: a line for each start, bars for the deviation."""
    figure, (axis,) = panels(1, width=6.4, height=3.4)
    starts = list(dict.fromkeys(row["start"] for row in rows))
    every = sorted({_count(row) for row in rows})
    for start, color in zip(starts, colors_of(len(starts)), strict=True):
        name = f"pre-trained ({start})" if start in OBJECTIVES else f"from {start}"
        for key, label, style in (("accuracy", name, "-"), ("probe", f"its probe ({start})", ":")):
            points = {
                count: [r[key] for r in rows if r["start"] == start and _count(r) == count]
                for count in every
            }
            points = {count: found for count, found in points.items() if found and found[0]}
            if points:
                means = [statistics.mean(found) for found in points.values()]
                spread = [statistics.stdev(f) if len(f) > 1 else 0.0 for f in points.values()]
                axis.errorbar(
                    list(points), means, spread, fmt=f"o{style}", ms=3, capsize=2, color=color,
                    label=label,
                )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks(every, [f"{count:,}" for count in every])
    axis.minorticks_off()
    axis.set_xlabel("labels per class")
    axis.set_ylabel("test accuracy in %")
    axis.legend()
    return figure


def _count(row: dict[str, Any]) -> int:
    labels = row["labels_per_class"]
    return 50_000 // CLASSES if labels == "all" else labels


def main() -> int:
    """Trains, prints the table, writes every row as JSON and draws a picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", default=";".join((*OBJECTIVES, *STARTS)))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--labels", default="50,500", help="labeled images per class; 0: all")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--data_dir")
    parser.add_argument("--out", type=Path, help="JSON file to write the results to")
    parser.add_argument("--picture", type=Path, help="PNG file to draw the accuracies to")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    seeds, labels = ([int(x) for x in text.split(",") if x] for text in (args.seeds, args.labels))
    starts = args.starts.split(";")
    for row in run(starts, seeds, labels, args.workdir, DatasetReader(args.data_dir)):
        rows.append(row)
        if args.out:
            result = origin("benchmarks.few_labels", sys.argv[1:]) | {
                "machine": environment(),
                "rows": rows,
            }
            args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.picture:
        draw(rows).savefig(args.picture, dpi=110, bbox_inches="tight")
    print_table("CIFAR-10: accuracy in % on the 10,000 test images", summarize(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
