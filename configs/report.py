"""Rebuilds the report of a run, or compares several runs on one page.

    python -m smallvit_jax.main --config configs/report.py --workdir runs/quickstart
    python -m smallvit_jax.main --config configs/report.py:runs/a,runs/b --workdir runs/compared

Without an argument, --workdir is the run's own, and its `report.html` is rebuilt. An argument lists
the workdirs to compare; then the page goes to --workdir.

Expected time: about half a minute.
Expected accuracy: none; results are those of the runs.
"""

from smallvit_jax.config import default_config


def get_config(argument: str = ""):
    config = default_config()
    config.job = "report"
    config.report.runs = argument
    return config
