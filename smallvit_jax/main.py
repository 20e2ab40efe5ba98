"""Runs a job: `python -m smallvit_jax.main --config FILE[:ARGUMENT] --workdir FOLDER`.

Exit codes: 0 on success, 2 for a mistake that the user can fix (one line on stderr), 130 if
interrupted by SIGINT and 143 by SIGTERM (training saves a checkpoint first; a second signal exits
at once), 75 if another process of the run died or a bucket could not be reached, 1 for a bug (with
a traceback).
"""

import importlib
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from smallvit_jax.command.config_files import load_config
from smallvit_jax.command.flags import Flags, read_flags, resolve
from smallvit_jax.config.check import validate
from smallvit_jax.config.jobs import JOBS, STAGES
from smallvit_jax.data.datasets import FOLDER, get_dataset
from smallvit_jax.process.program import run_program
from smallvit_jax.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    code = run_program(
        lambda: _run(read_flags(words), words),
        when_interrupted="the same command resumes from the last checkpoint",
    )
    if code and "jax" in sys.modules:
        from smallvit_jax.process.runtime import leave_processes

        leave_processes(code)
    return code


def _run(flags: Flags, words: Sequence[str]) -> None:
    if flags.version:
        print(f"smallvit_jax {__version__}")
        return
    if flags.help:
        from smallvit_jax.command.help import help_text

        config = load_config(flags.config) if flags.config else None
        print(help_text(config, flags.config))
        return
    config, workdir, data_dir = resolve(flags)
    validate(config)
    # Imported here because JAX takes seconds to import; --help and error messages should not wait.
    from smallvit_jax.plans.data_and_model import DatasetReader
    from smallvit_jax.process.remote_workdir import workdir_here
    from smallvit_jax.process.runtime import join_processes, keep_freed_memory

    keep_freed_memory()
    join_processes(config.runtime.distributed)
    if config.job in (*STAGES, "recipe"):
        _check_memory(config)
    job = importlib.import_module(f"smallvit_jax.jobs.{config.job}")
    reader = DatasetReader(data_dir)
    if workdir is None or not JOBS[config.job].writes:
        job.run(config, workdir, reader)
        return
    with workdir_here(workdir, config.runtime.upload_every) as folder:
        job.run(config, folder, reader)
        if JOBS[config.job].page and config.report.at_end:
            from smallvit_jax.jobs.report import write_at_end

            write_at_end(folder, reader, words)


def _check_memory(config: ConfigDict) -> None:
    """Raises UserError if the training cannot fit; not for a folder, whose images must be read."""
    from smallvit_jax.plans.memory import check_memory
    from smallvit_jax.process.sharding import make_mesh
    from smallvit_jax.training.placement import memory_per_device

    if config.dataset.name == FOLDER:
        return
    mesh = make_mesh()
    memory, _ = memory_per_device(mesh)
    check_memory(config, get_dataset(config.dataset.name), memory, mesh.devices.size)


if __name__ == "__main__":
    sys.exit(main())
