"""Writes the report of a run, or the comparison of several runs, as one HTML page."""

import importlib
import shlex
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from smallvit_jax.config.jobs import JOBS, RUN_PAGE
from smallvit_jax.errors import UserError
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process import runtime
from smallvit_jax.reporting.runs import COMMAND, Run, read_command, read_run
from smallvit_jax.workdir.files import make_folder, write_atomically
from smallvit_jax.workdir.records import read_result

PAGE = "report.html"
PICTURES = "report"  # folder of its figures as PNG files


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Writes the report of `workdir` to it, or the comparison of `config.report.runs` if any.

    Raises `UserError` if a folder has no finished run.
    """
    from smallvit_jax.reporting import comparison, page

    started = time.monotonic()
    if names := [name.strip() for name in config.report.runs.split(",") if name.strip()]:
        runs = {name: read_run(Path(name).expanduser()) for name in names}
        _write(workdir, *page.render(comparison.compare(runs)))
    else:
        _rebuild(workdir, reader)
    print(f"report: {workdir / PAGE}")
    return {"job": "report", "seconds": round(time.monotonic() - started, 1)}


def write_at_end(workdir: Path, reader: DatasetReader, words: Sequence[str]) -> None:
    """Writes the report after a training job; `words` are its command-line arguments.

    A failure is only a warning, as the run itself is complete. A report newer than the result is
    kept. With several processes no report is written, because running a model takes all of them.
    """
    again = f"python -m smallvit_jax.main --config configs/report.py --workdir {workdir}"
    try:
        page, result = workdir / PAGE, workdir / "result.json"
        if page.exists() and page.stat().st_mtime_ns >= result.stat().st_mtime_ns:
            return
        if jax.process_count() > 1:
            print(f"to write the report, run on one machine: {again}")
            return
        command = shlex.join(["python", "-m", "smallvit_jax.main", *words])
        write_atomically(workdir / COMMAND, command + "\n")
        _rebuild(workdir, reader)
        print(f"  report: {workdir / PAGE}")
    except Exception as error:  # a failed report must not fail the run
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            f"the run is done, but its report failed ({reason}); to retry: {again}", stacklevel=2
        )


def _rebuild(workdir: Path, reader: DatasetReader) -> None:
    from smallvit_jax.reporting import page

    result = read_result(workdir) or {}
    job = JOBS.get(result.get("job", ""))
    if job and job.page and job.page != RUN_PAGE:
        builder = importlib.import_module(f"smallvit_jax.reporting.{job.page}")
        content = builder.build_page(result, read_command(workdir))
        _write(workdir, *page.render(content))
    else:
        write_report(read_run(workdir), reader)


def write_report(run: Run, reader: DatasetReader) -> None:
    """Writes `report.html` and `report/*.png` to the run's folder.

    Without the dataset, sections that need its images are left out and the page says so.
    """
    from smallvit_jax.reporting import page, sections

    r = run.config.runtime
    runtime.prepare(r.precision, r.compilation_cache, r.fused_attention)
    data, missing = None, None
    try:
        data = reader.load(run.config)
    except UserError as error:
        missing = str(error)
    _write(run.folder, *page.render(sections.build_page(run, data, missing)))


def _write(folder: Path, text: str, pictures: dict[str, bytes]) -> None:
    holder = make_folder(folder / PICTURES)
    for name, content in pictures.items():
        (holder / f"{name}.png").write_bytes(content)
    write_atomically(folder / PAGE, text)
