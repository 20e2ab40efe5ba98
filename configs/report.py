"""Rebuilds the report of a run, or compares several runs on one page.

    python -m smallvit_jax.main --config configs/report.py --workdir runs/quickstart
    python -m smallvit_jax.main --config configs/report.py:runs/a,runs/b --workdir runs/compared

Without an argument the --workdir is the run's own, and its `report.html` is written anew. The
argument names the workdirs to compare; then --workdir is where the page goes.

Expected time: about half a minute.
Expected accuracy: none; the figures are those of the runs.
"""

from smallvit_jax.config import default_config


def get_config(argument: str = ""):
    config = default_config()
    config.job = "report"
    config.report.runs = argument
    return config
