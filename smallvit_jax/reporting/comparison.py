"""The report page that compares several runs."""

from smallvit_jax.config.jobs import STAGES
from smallvit_jax.reporting import figures
from smallvit_jax.reporting.page import Block, Code, PageContent, Picture, Section, Table
from smallvit_jax.reporting.runs import Run, differing_fields
from smallvit_jax.reporting.sections import headline

_CURVES = (
    ("pretrain", "knn", "top1", "kNN accuracy in %"),
    ("pretrain", "train", "loss", "loss"),
    ("finetune", "test", "top1", "test accuracy in %"),
    ("finetune", "train", "loss", "loss"),
)


def compare(runs: dict[str, Run]) -> PageContent:
    """Builds the page: main figures, curves on shared axes, fields in which the runs differ."""
    rows = {name: headline(run) for name, run in runs.items()}
    figures_found = list(dict.fromkeys(figure for row in rows.values() for figure in row))
    table = Table(
        ("run", *figures_found),
        [(name, *(row.get(figure, "-") for figure in figures_found)) for name, row in rows.items()],
    )
    fields = Table(
        ("field", *runs), [(path, *values) for path, values in differing_fields(runs).items()]
    )
    quantities = {}
    for stage, split, value, title in _CURVES:
        curves = {
            name: run.stages[stage].series(split, value)
            for name, run in runs.items()
            if stage in run.stages
        }
        curves = {name: curve for name, curve in curves.items() if len(curve[0])}
        if curves:
            quantities[f"{STAGES[stage]}: {title}"] = curves
    shown: list[Block] = []
    if quantities:
        caption = "Each run has the same color in every panel."
        colors = dict(zip(runs, figures.colors_of(len(runs)), strict=True))
        drawn = figures.draw_curves(quantities, columns=2, colors=colors)
        shown = [Picture("curves", drawn, caption, wide=True)]
    commands = [Code(run.command) for run in runs.values() if run.command]
    sections = [
        Section("Which is best?", [table]),
        Section("How did training go?", shown),
        Section("How do the runs differ?", [fields] if fields.rows else []),
        Section("How do I run them again?", commands),
    ]
    return PageContent(f"{len(runs)} runs compared", ", ".join(runs), {}, sections)
