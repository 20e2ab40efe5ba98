"""Where data-parallel training stops scaling: `python -m benchmarks.scaling --out FILE`.

Compiles the steps of the reference's ViT for 1, 2, 4 and 8 simulated CPU devices and counts what
they send to each other. Then computes, on paper, what more chips would give: nothing is run.
What is counted in FILE already is not compiled again.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from matplotlib.figure import Figure

from benchmarks.origin import ROOT, origin
from smallvit_jax.command.config_files import load_config
from smallvit_jax.config.jobs import STAGES
from smallvit_jax.jobs.compile_check import compile_and_read, lower_block
from smallvit_jax.jobs.steps import STEPS
from smallvit_jax.plans.data_and_model import DatasetShapes
from smallvit_jax.plans.hardware import Chip, Target
from smallvit_jax.process.terminal import print_table
from smallvit_jax.reporting.figures import colors_of, panels, styled
from smallvit_jax.training.hlo import read_program
from smallvit_jax.workdir.environment import environment

DEVICES = (1, 2, 4, 8)
CPU = Target("the CPU", Chip("cpu", 16 * 2**30, 1.0, 1.0), 1)
COMPILED = ROOT / "benchmarks/compiled_programs.json"
CHIPS = (1, 8, 64, 256)
BATCHES = (512, 4096, 32768)
PER_CHIP = 64  # images per chip of a batch that grows with the chips
IMAGES = 50_000  # of CIFAR-10
ENOUGH = 0.5  # efficiency below which further chips are not worth it


class Network(NamedTuple):
    """Chips and what connects them.

    Attributes:
      name: what the table calls it.
      compiled: the row of `compiled_programs.json` that says how long an image takes, as an
        estimate.
      fixed: seconds that a step takes however few its images are: an assumption, of some thousand
        operations at one (TPU) or three (GPU) microseconds each.
      inside: how many chips the faster links connect.
      fast, slow: bytes/s of an all-reduce per chip, both directions of a ring together, within
        `inside` chips and beyond.
      hop: seconds that a message takes from one chip to the next.
      torus: whether rings run along both sides of a square; otherwise messages pass a switch.
    """

    name: str
    compiled: str
    fixed: float
    inside: int
    fast: float
    slow: float
    hop: float
    torus: bool


# Links: Google's and NVIDIA's data sheets; hops: "How to Scale Your Model", 2025 (TPU), and a
# customary figure for NCCL.
NETWORKS = (
    Network("TPU v5e", "v5e-8", 3e-3, 256, 100e9, 100e9, 1e-6, torus=True),
    Network(
        "H100, 8 per machine, 400 Gbit/s each", "h100", 8e-3, 8, 450e9, 50e9, 5e-6, torus=False
    ),
)


def count_collectives(stage: str, devices: int, **fields: Any) -> dict[str, Any]:
    """Compiles a stage's step for the first `devices` CPU devices and counts what it sends.

    Bytes are per step and device, of the arrays that are reduced; `gradient_bytes` are those of
    the gradients in float32, which have to be reduced at least.
    """
    config = load_config("configs/recipe.py:vit,cifar10")
    config.update_from_flattened_dict(fields)
    data = DatasetShapes().load(config)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    lowered, _ = lower_block(config, data, stage, mesh, CPU)
    _, text = compile_and_read(lowered, CPU)
    figures = read_program(text)
    state = STEPS[stage](config, data, np.float32).state
    params = state.student if stage == "pretrain" else state.params
    return {
        "stage": stage,
        "devices": devices,
        "batch_size": config[stage].batch_size,
        "collectives": dict(figures.collectives),
        "bytes": dict(figures.collective_bytes),
        "gradient_bytes": sum(4 * array.size for array in params.values()),
    }


def all_reduce_seconds(network: Network, chips: int, sent: float, count: int) -> float:
    """Seconds of `count` all-reduces of `sent` bytes in all.

    A ring sends 2 (n - 1) / n times the bytes. Each also waits for its messages to cross the
    network: twice along both sides of a torus, or up and down a tree of switches.
    """
    if chips == 1:
        return 0.0
    rate = network.fast if chips <= network.inside else network.slow
    side = math.sqrt(chips)
    hops = 2 * 2 * (side - 1) if network.torus else 2 * math.log2(chips)
    return 2 * (chips - 1) / chips * sent / rate + count * hops * network.hop


def step_seconds(
    network: Network, chips: int, batch: int, image: float, sent: float, count: int
) -> float:
    """Seconds of a step: nothing overlaps, which is the worst case.

    `image` is the seconds that an image takes one chip; the others as in `all_reduce_seconds`.
    """
    working = math.ceil(batch / chips) * image + network.fixed
    return working + all_reduce_seconds(network, chips, sent, count)


def efficiency(network: Network, chips: int, batch: int, *rest: Any) -> float:
    """Images/s per chip, as a share of what one chip does with the whole batch."""
    alone = step_seconds(network, 1, batch, *rest)
    return alone / (chips * step_seconds(network, chips, batch, *rest))


def paper_rows(compiled: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What each network would do with pre-training, from the compiled programs' estimates.

    Efficiency is images/s per chip, as a share of what one chip does: with the same batch, or, if
    the batch grows with the chips, with its part of it.
    """
    programs = {row["target"]: row for row in compiled if _is_pretraining(row)}
    slice_of_8 = programs["v5e-8"]
    reduced = (
        slice_of_8["collective_bytes"]["all-reduce"],
        slice_of_8["collectives"]["all-reduce"],
    )
    for network in NETWORKS:
        row = programs[network.compiled]
        about = (row["devices"] / row["estimated_images_per_second"], *reduced)
        for fixed in (*BATCHES, None):
            for chips in CHIPS:
                batch = fixed or PER_CHIP * chips
                seconds = step_seconds(network, chips, batch, *about)
                of_one = fixed or PER_CHIP
                alone = of_one / step_seconds(network, 1, of_one, *about)
                yield {
                    "network": network.name,
                    "batch": f"{fixed:,}" if fixed else f"{PER_CHIP} per chip",
                    "batch_size": batch,
                    "chips": chips,
                    "images_per_second": batch / seconds,
                    "efficiency": batch / seconds / (chips * alone),
                    "share_of_sending": all_reduce_seconds(network, chips, *reduced) / seconds,
                    "batch_size_needed": batch_needed(network, chips, *about),
                }


def _is_pretraining(row: dict[str, Any]) -> bool:
    return (row["model"], row["stage"]) == ("vit", "pretrain") and "bytes" in row


def batch_needed(network: Network, chips: int, *about: Any) -> int:
    """The smallest batch of a power of two with which this many chips are worth it."""
    batch = chips
    while efficiency(network, chips, batch, *about) < ENOUGH:
        batch *= 2
    return batch


def counted_table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line for each stage and number of devices."""
    table: list[tuple[str, ...]] = [
        ("stage", "devices", "all-reduces per step", "MB", "gradients, MB", "others")
    ]
    for row in rows:
        others = [f"{n} {kind}" for kind, n in row["collectives"].items() if kind != "all-reduce"]
        table.append(
            (
                STAGES[row["stage"]],
                str(row["devices"]),
                str(row["collectives"].get("all-reduce", 0)),
                f"{row['bytes'].get('all-reduce', 0) / 1e6:.1f}",
                f"{row['gradient_bytes'] / 1e6:.1f}",
                ", ".join(others),
            )
        )
    return table


def paper_table(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line for each network, batch and number of chips."""
    table: list[tuple[str, ...]] = [
        ("network", "batch", "steps per epoch", "chips", "images/s", "efficiency", "of it sending")
    ]
    for row in rows:
        table.append(
            (
                row["network"],
                row["batch"],
                f"{IMAGES // row['batch_size']}",
                str(row["chips"]),
                f"{float(format(row['images_per_second'], '.2g')):,.0f}",
                f"{100 * row['efficiency']:.0f} %",
                f"{100 * row['share_of_sending']:.0f} %",
            )
        )
    return table


@styled
def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Efficiency over the number of chips: a panel for each network, a line for each batch."""
    figure, axes = panels(len(NETWORKS), width=8.4, height=2.8)
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    for axis, network in zip(axes, NETWORKS, strict=True):
        for batch, color in zip(batches, colors_of(len(batches)), strict=True):
            here = [r for r in rows if (r["network"], r["batch"]) == (network.name, batch)]
            shares = [100 * row["efficiency"] for row in here]
            axis.plot([row["chips"] for row in here], shares, "o-", color=color, ms=3, label=batch)
        axis.set_xscale("log", base=2)
        axis.set_xticks(CHIPS, [str(chips) for chips in CHIPS])
        axis.set_ylim(0, 105)
        axis.set_xlabel("chips")
        axis.set_title(network.name)
    axes[0].set_ylabel("images/s per chip,\n% of one chip's")
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, title="images per step", loc="outside right center")
    return figure


def main() -> int:
    """Counts, computes, prints both tables and writes them as JSON and, if asked, as a picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write the results to")
    parser.add_argument("--picture", type=Path, help="PNG file to draw the efficiencies to")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    compiled = json.loads(COMPILED.read_text())["rows"]
    counted = json.loads(args.out.read_text())["counted"] if args.out.exists() else []
    there = {(row["stage"], row["devices"]) for row in counted}
    for stage in STEPS:
        missing = [devices for devices in DEVICES if (stage, devices) not in there]
        counted += [count_collectives(stage, devices) for devices in missing]
    paper = list(paper_rows(compiled))
    result = origin("benchmarks.scaling", sys.argv[1:]) | {
        "machine": environment(),
        "counted": counted,
        "networks": [network._asdict() for network in NETWORKS],
        "on_paper": paper,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.picture:
        draw(paper).savefig(args.picture, dpi=110, bbox_inches="tight")
    print_table("what simulated CPU devices send per step, counted", counted_table(counted))
    print_table("pre-training on paper, nothing was run", paper_table(paper))
    for network in NETWORKS:
        rows = [row for row in paper if row["network"] == network.name]
        needed = {row["chips"]: row["batch_size_needed"] for row in rows if row["chips"] > 1}
        sizes = ", ".join(f"{batch:,} on {chips} chips" for chips, batch in needed.items())
        print(f"  {network.name}, batch for {100 * ENOUGH:.0f} % efficiency: {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
