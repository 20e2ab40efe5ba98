"""The report of a run, a page that answers what its reader asks, and the comparison of several."""

import shlex
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from smallvit_jax.errors import UserError
from smallvit_jax.plans import data_and_model as inputs
from smallvit_jax.process import runtime
from smallvit_jax.reporting.runs import COMMAND, Run, read_command, read_run
from smallvit_jax.workdir.files import make_folder, write_atomically
from smallvit_jax.workdir.records import read_result

PAGE = "report.html"
PICTURES = "report"  # the folder of its figures as PNG files


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Writes the report of `workdir`, or of `config.report.runs` a comparison into it.

    Raises `UserError` for a folder that holds no finished run.
    """
    from smallvit_jax.reporting import comparison, page

    started = time.monotonic()
    if names := [name.strip() for name in config.report.runs.split(",") if name.strip()]:
        runs = {name: read_run(Path(name).expanduser()) for name in names}
        _write(workdir, *page.render(*comparison.compare(runs)))
    else:
        _rebuild(workdir, data_dir)
    print(f"report: {workdir / PAGE}")
    return {"job": "report", "seconds": round(time.monotonic() - started, 1)}


def write_at_end(workdir: Path, data_dir: str | None, words: Sequence[str]) -> None:
    """Ends a training job with its report; `words` are those of its command line.

    What goes wrong is a warning: the run itself is done and safe. A report that is younger than the
    result is left as it is. With several processes there is none, as it takes all of them to run a
    model.
    """
    again = f"python -m smallvit_jax.main --config configs/report.py --workdir {workdir}"
    try:
        page, result = workdir / PAGE, workdir / "result.json"
        if page.exists() and page.stat().st_mtime_ns >= result.stat().st_mtime_ns:
            return
        if jax.process_count() > 1:
            print(f"for the report, on one machine: {again}")
            return
        command = shlex.join(["python", "-m", "smallvit_jax.main", *words])
        write_atomically(workdir / COMMAND, command + "\n")
        _rebuild(workdir, data_dir)
        print(f"  report: {workdir / PAGE}")
    except Exception as error:  # whatever it is, the run is worth more than its report
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            f"the run is done, but its report failed ({reason}); later: {again}", stacklevel=2
        )


def _rebuild(workdir: Path, data_dir: str | None) -> None:
    from smallvit_jax.reporting import compared_variants, page, sweep_page

    tables = {"compare": compared_variants.tell, "sweep": sweep_page.tell}
    result = read_result(workdir) or {}
    if tell := tables.get(result.get("job")):
        _write(workdir, *page.render(*tell(result, read_command(workdir))))
    else:
        write_report(read_run(workdir), data_dir)


def write_report(run: Run, data_dir: str | None) -> None:
    """Writes `report.html` and `report/*.png` into the run's folder.

    Without the dataset, sections that need its images are left out and the page says so.
    """
    from smallvit_jax.reporting import page, sections

    runtime.prepare(run.config.runtime.precision, run.config.runtime.compilation_cache)
    data, missing = None, None
    try:
        data = inputs.load_data(run.config, data_dir)
    except UserError as error:
        missing = str(error)
    _write(run.folder, *page.render(*sections.tell(run, data, missing)))


def _write(folder: Path, text: str, pictures: dict[str, bytes]) -> None:
    holder = make_folder(folder / PICTURES)
    for name, content in pictures.items():
        (holder / f"{name}.png").write_bytes(content)
    write_atomically(folder / PAGE, text)
