"""The report page of a sweep over learning rates and weight decays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from smallvit_jax.reporting.compared_variants import run_again
from smallvit_jax.reporting.figures import colors_of, panels, styled
from smallvit_jax.reporting.page import PageContent, Picture, Section, Table
from smallvit_jax.reporting.sections import duration

Figures = Mapping[str, Any]
_NAMES = {"adamw": "AdamW", "sgd": "SGD"}


def build_page(result: Figures, command: str | None) -> PageContent:
    """Builds the page of a finished sweep from its `result.json`."""
    environment = result["environment"]
    about = Table(("variant", "description"), list(result["about"].items()))
    settings = Table(
        ("variant", "optimizer", "learning rate", "weight decay", "error"),
        [
            (
                row["variant"],
                _NAMES[row["optimizer"]],
                f"{row['best_lr']:.2g}",
                f"{row['best_weight_decay']:.2g}",
                f"{row['best_error']:.1f}",
            )
            for row in result["sweep"]
        ],
    )
    return PageContent(
        f"How easy are they to train on {result['dataset']}?",
        f"{result['settings']} random settings per variant and optimizer; seed {result['seed']}; "
        f"{environment['device_count']} x {environment['device_kind']}",
        {"trainings": str(len(result["runs"])), "time": duration(result["seconds"])},
        [
            Section(
                "How much does the setting matter?",
                [
                    Picture(
                        "sweep",
                        draw_sweep(result),
                        "Share of the random settings with at most a given test error (left), or "
                        "at most a given distance from the same variant's best setting "
                        "(right). The closer to the upper left, the easier to train.",
                        wide=True,
                    ),
                    Table(*sweep_table(result)),
                ],
            ),
            Section("Which setting is best?", [settings]),
            Section("What are the variants?", [about]),
            Section("How do I run it again?", run_again(result, command)),
        ],
    )


def sweep_table(result: Figures) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and rows as text."""
    head = ("variant", "optimizer", "best", "median", "within 4 of best", "diverged", "settings")
    rows: list[Sequence[str]] = [
        (
            row["variant"],
            _NAMES[row["optimizer"]],
            f"{row['best_error']:.1f}",
            f"{row['median_error']:.1f}",
            f"{row['near_best']:.0f} %",
            str(row["diverged"]),
            str(row["settings"]),
        )
        for row in result["sweep"]
    ]
    return head, rows


@styled
def draw_sweep(result: Figures) -> Figure:
    """Distributions of errors: a row of panels per optimizer, a curve per variant."""
    optimizers = list(dict.fromkeys(row["optimizer"] for row in result["runs"]))
    figure, axes = panels(2 * len(optimizers), 2, height=2.6)
    for place, optimizer in enumerate(optimizers):
        absolute, relative = axes[2 * place : 2 * place + 2]
        colors = colors_of(len(result["variants"]))
        for variant, color in zip(result["variants"], colors, strict=True):
            errors = np.sort(
                [
                    row["error"]
                    for row in result["runs"]
                    if (row["variant"], row["optimizer"]) == (variant, optimizer)
                ]
            )
            share = np.arange(1, len(errors) + 1) / len(errors) * 100
            for ax, values in ((absolute, errors), (relative, errors - errors[0])):
                ax.step(values, share, where="post", color=color, label=variant)
        absolute.set_title(f"{_NAMES[optimizer]}: % of settings with at most this error")
        relative.set_title("% of settings at most this far from the best")
        absolute.set_xlabel("test error in %")
        relative.set_xlabel("points above the best error")
        relative.legend(loc="lower right")
    return figure
