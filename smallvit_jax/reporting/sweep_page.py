"""What the page of a sweep over learning rates and weight decays tells."""

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
    """The page of a finished sweep, from its `result.json`."""
    environment = result["environment"]
    settings = Table(
        ("variant", "optimiser", "learning rate", "weight decay", "error"),
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
        f"How easily they learn {result['dataset']}",
        f"{result['settings']} random settings each; seed {result['seed']}; "
        f"{environment['device_count']} x {environment['device_kind']}",
        {"trainings": str(len(result["runs"])), "time": duration(result["seconds"])},
        [
            Section(
                "How much does the setting matter?",
                [
                    Picture(
                        "sweep",
                        draw_sweep(result),
                        "Share of the random settings that are at least so good: by their test "
                        "error, and by how far they are from the best of the same colour. The "
                        "further to the upper left, the easier.",
                        wide=True,
                    ),
                    Table(*sweep_table(result)),
                ],
            ),
            Section("Which setting is best?", [settings]),
            Section("What is what?", [Table(("variant", "what"), list(result["about"].items()))]),
            Section("Run it again", run_again(result, command)),
        ],
    )


def sweep_table(result: Figures) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Head and rows of text, for people."""
    head = ("variant", "optimiser", "best", "median", "within 4 of best", "diverged", "settings")
    rows = [
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
    """Distributions of errors for each optimiser (rows of panels), a curve of each variant."""
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
        relative.set_title("% of settings at most so far from the best")
        absolute.set_xlabel("test error in %")
        relative.set_xlabel("points above the best error")
        relative.legend(loc="lower right")
    return figure
