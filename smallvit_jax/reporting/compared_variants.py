"""The report page of a comparison of variants, with its table and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from smallvit_jax.reporting.figures import COLORS, colors_of, panels, styled
from smallvit_jax.reporting.page import Block, Code, PageContent, Picture, Section, Table
from smallvit_jax.reporting.runs import describe_environment
from smallvit_jax.reporting.sections import duration

Figures = Mapping[str, Any]


def build_page(result: Figures, command: str | None) -> PageContent:
    """Builds the page of a finished comparison from its `result.json`."""
    best = max(result["comparison"], key=lambda row: row["test_top1"])
    environment = result["environment"]
    about = Table(("variant", "description"), list(result["about"].items()))
    return PageContent(
        f"{len(result['comparison'])} variants on {result['dataset']}",
        f"seeds {', '.join(map(str, result['seeds']))}; "
        f"{environment['device_count']} x {environment['device_kind']}",
        {
            f"test accuracy, {best['variant']}": f"{best['test_top1']:.1f} %",
            "trainings": str(len(result["runs"])),
            "time": duration(result["seconds"]),
        },
        [
            Section("Which is best?", _best(result)),
            Section("How did training go?", _learning(result)),
            Section("What are the variants?", [about]),
            Section("How do I run it again?", run_again(result, command)),
        ],
    )


def run_again(result: Figures, command: str | None) -> list[Block]:
    """The command, if known, and the versions and hardware that results depend on."""
    about = describe_environment(result["environment"])
    return [Code(command), about] if command else [about]


def _best(result: Figures) -> list[Block]:
    return [
        Picture(
            "accuracies",
            draw_accuracies(result),
            "Test accuracy after the last epoch: mean and one standard deviation, with a dot for "
            "each seed.",
        ),
        Table(*comparison_table(result)),
        "FLOPs of the matrix products and convolutions in one image's forward pass; a multiply-add "
        "counts as 2. Times are for training only, without evaluation, checkpoints and "
        "compilation. Times to an accuracy include pre-training and are “-” if a seed did not "
        "reach the accuracy. Training that diverged is scored at chance level and has no time.",
    ]


def _learning(result: Figures) -> list[Block]:
    return [
        Picture(
            "learning",
            draw_learning(result),
            "Test accuracy while training with labels, averaged over the seeds that did not "
            "diverge: by epoch (left), and by training time including pre-training (right).",
            wide=True,
        )
    ]


def comparison_table(result: Figures) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and rows as text; "-" if there is no value."""
    targets = [f"{target:g}" for target in result["targets"]]
    head = [
        *("variant", "accuracy", "best on test", "kNN", "parameters", "MFLOP", "images/s"),
        *("steps", "time"),
        *(f"{what} to {t} %" for t in targets for what in ("epochs", "time")),
    ]
    rows: list[Sequence[str]] = []
    for row in result["comparison"]:
        cells = [
            row["variant"],
            with_deviation(row, "test_top1") + _diverged(row),
            *(with_deviation(row, f"{name}_top1") for name in ("best_on_test", "knn")),
            f"{row['parameters']:,}",
            f"{row['flops'] / 1e6:,.2f}",
            _text(row["images_per_second"], "{:,.0f}"),
            _text(row["steps"], "{:,.0f}"),
            _duration(_seconds(row)),
        ]
        for target in targets:
            cells.append(_text(row[f"epochs_to_{target}"], "{:.1f}"))
            cells.append(_duration(row[f"seconds_to_{target}"]))
        rows.append(cells)
    return head, rows


def with_deviation(row: Figures, name: str) -> str:
    """A mean with its standard deviation, if there is one."""
    mean, deviation = row[name], row[f"{name}_sd"]
    if mean is None:
        return "-"
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _diverged(row: Figures) -> str:
    count = row.get("diverged")  # missing in older results
    return f" ({count} diverged)" if count else ""


def _seconds(row: Figures) -> float | None:
    stages = (row["training_seconds"], row["pretraining_seconds"])
    return None if None in stages else sum(stages)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


@styled
def draw_accuracies(result: Figures) -> Figure:
    """Final test accuracy by variant, the first on top: mean, standard deviation, each seed."""
    rows = result["comparison"]
    figure, (ax,) = panels(1, width=6.5, height=0.9 + 0.32 * len(rows))
    for place, row in enumerate(rows):
        seeds = [run["test_top1"] for run in result["runs"] if run["variant"] == row["variant"]]
        ax.errorbar(
            row["test_top1"],
            place,
            xerr=row["test_top1_sd"],
            color=COLORS[0],
            marker="|",
            markersize=14,
            capsize=3,
        )
        ax.scatter(seeds, [place] * len(seeds), s=14, color=COLORS[1], zorder=3)
    ax.set_yticks(range(len(rows)), [row["variant"] for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"test accuracy on {result['dataset']} in %")
    return figure


@styled
def draw_learning(result: Figures) -> Figure:
    """Test accuracy over labeled epochs and over time, with a line per variant.

    Lines are means over the seeds that did not diverge.
    """
    figure, (by_epoch, by_time) = panels(2, 2, height=3.6)
    names = [row["variant"] for row in result["comparison"]]
    for name, color in zip(names, colors_of(len(names)), strict=True):
        runs = [run for run in result["runs"] if run["variant"] == name]
        curves = [np.array(run["curve"]) for run in runs if run["curve"]]
        if not curves:
            continue
        epochs, seconds, top1 = np.mean(curves, axis=0).T
        style = {"color": color, "marker": "o", "markersize": 3}
        by_epoch.plot(epochs, top1, label=name, **style)
        by_time.plot(seconds / 60, top1, **style)
    by_epoch.set_xlabel("epoch")
    by_time.set_xlabel("minutes of training")
    by_epoch.set_title("test accuracy in %")
    figure.legend(loc="outside right center")
    return figure
