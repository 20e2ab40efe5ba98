"""Runs a job: `python -m smallvit_jax.main --config FILE[:ARGUMENT] --workdir FOLDER`.

Exits with 0 when the job is done, 2 after a mistake that the user can mend (one line on stderr),
130 when interrupted, and 1 after an error of the program's own (with its traceback).
"""

import errno
import importlib
import sys
import traceback
import warnings
from collections.abc import Sequence

from smallvit_jax import command_line
from smallvit_jax.errors import UserError
from smallvit_jax.validation import validate
from smallvit_jax.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    warnings.formatwarning = _format_warning
    try:
        _run(command_line.read_flags(list(sys.argv[1:] if argv is None else argv)))
        return 0
    except UserError as error:
        return _fail(2, str(error))
    except KeyboardInterrupt:
        return _fail(130, "interrupted; the same command continues from the last checkpoint")
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stdout = None  # nothing to flush at exit
        return 0
    except Exception as error:
        if sentence := _disk_problem(error):
            return _fail(2, sentence)
        traceback.print_exc()
        return _fail(
            1, f"this is a bug in smallvit_jax {__version__}; please report the lines above"
        )


def _run(flags: command_line.Flags) -> None:
    if flags.version:
        print(f"smallvit_jax {__version__}")
        return
    if flags.help:
        from smallvit_jax.command_help import help_text

        config = command_line.load_config(flags.config) if flags.config else None
        print(help_text(config, flags.config))
        return
    config, workdir, data_dir = command_line.resolve(flags)
    validate(config)
    # Imported only now: JAX takes seconds, and neither --help nor a mistake should wait for it.
    job = importlib.import_module(f"smallvit_jax.{config.job}")
    job.run(config, workdir, data_dir)


def _disk_problem(error: Exception) -> str | None:
    """Returns the sentence for a full disk or a forbidden path, None for anything else."""
    if not isinstance(error, OSError):
        return None
    place = f' at "{error.filename}"' if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{place}; free some, and the same command continues"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and place:
        return f"not permitted to read or write{place}; choose another folder or change its rights"
    return None


def _format_warning(message, category, *where, **more) -> str:
    """A warning meant for the user is one sentence; others keep the place they come from."""
    if category is UserWarning:
        return f"warning: {message}\n"
    return f"{where[0]}:{where[1]}: {category.__name__}: {message}\n"


def _fail(code: int, sentence: str) -> int:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
