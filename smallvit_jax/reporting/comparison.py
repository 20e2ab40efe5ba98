"""What the page tells that compares several runs."""

from smallvit_jax.reporting import figures
from smallvit_jax.reporting.page import Code, PageContent, Picture, Section, Table
from smallvit_jax.reporting.runs import Run, differing_fields
from smallvit_jax.reporting.sections import headline

_CURVES = {
    "kNN accuracy in pre-training, %": ("pretrain", "knn", "top1"),
    "loss of pre-training": ("pretrain", "train", "loss"),
    "test accuracy in fine-tuning, %": ("finetune", "test", "top1"),
    "loss of fine-tuning": ("finetune", "train", "loss"),
}


def compare(runs: dict[str, Run]) -> PageContent:
    """A table of headline figures, the fields in which the runs differ, curves on shared axes."""
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
    for title, (stage, split, value) in _CURVES.items():
        curves = {
            name: run.stages[stage].series(split, value)
            for name, run in runs.items()
            if stage in run.stages
        }
        curves = {name: curve for name, curve in curves.items() if len(curve[0])}
        if curves:
            quantities[title] = curves
    curves = []
    if quantities:
        caption = "Colours are the runs, the same in every panel."
        drawn = figures.draw_curves(quantities, columns=2)
        curves = [Picture("curves", drawn, caption, wide=True)]
    commands = [Code(run.command) for run in runs.values() if run.command]
    sections = [
        Section("Which is best?", [table]),
        Section("How did they learn?", curves),
        Section("In what do they differ?", [fields] if fields.rows else []),
        Section("Run them again", commands),
    ]
    return PageContent(f"{len(runs)} runs compared", ", ".join(runs), {}, sections)
