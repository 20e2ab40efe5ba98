"""Exit codes and one-line error messages for every command of the package."""

import errno
import io
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from smallvit_jax.errors import UserError
from smallvit_jax.process.remote import RemoteError
from smallvit_jax.process.signals import Interrupted, exit_code, raising_interrupted
from smallvit_jax.version import __version__


def run_program(body: Callable[[], None], *, when_interrupted: str) -> int:
    """Runs a command's body and returns the exit code.

    0 on success, 2 for a mistake that the user can fix (one line on stderr), 130 if interrupted by
    SIGINT and 143 by SIGTERM (the line ends with `when_interrupted`), 141 if the reader of stdout
    closed its pipe, 75 if another process of the run died or a bucket could not be reached, 1 for a
    bug (with a traceback).
    """
    warnings.formatwarning = _format_warning
    _print_any_name()
    try:
        with raising_interrupted():
            body()
        return 0
    except Interrupted as stop:
        saved = f"; {stop}" if str(stop) else ""
        by = signal.Signals(stop.signum).name
        return _fail(exit_code(stop.signum), f"interrupted by {by}{saved}; {when_interrupted}")
    except RemoteError as error:
        return _fail(75, f"{error}; the same command may succeed later")
    except UserError as error:
        return _fail(2, str(error))
    except KeyboardInterrupt:
        return _fail(130, f"interrupted; {when_interrupted}")
    except BrokenPipeError:  # as `| head` does
        sys.stdout = None  # nothing to flush at exit
        return 141
    except Exception as error:
        if sentence := _disk_problem(error) or _memory_problem(error):
            return _fail(2, sentence)
        if _lost_another_process(error):
            reason = str(error).strip().splitlines()[0][:200]
            return _fail(
                75,
                f"another process of this run died ({reason}); see its output for the cause and "
                f"restart all processes: {when_interrupted}",
            )
        traceback.print_exc()
        return _fail(
            1, f"this is a bug in smallvit_jax {__version__}; please report the lines above"
        )


def _print_any_name() -> None:
    """Makes names that the terminal cannot show appear as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _disk_problem(error: Exception) -> str | None:
    """Returns the message for a full disk or an unusable path, else None."""
    if not isinstance(error, OSError):
        return None
    place = f' at "{error.filename}"' if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{place}; free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and place:
        return f"no permission to read or write{place}; choose another folder or change permissions"
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and place:
        path = Path(str(error.filename))
        file = next((part for part in (path, *path.parents) if part.is_file()), path)
        return f'"{file}" is a file, but a folder is needed; choose another folder'
    if error.errno == errno.ENAMETOOLONG:
        return f"the name is too long{place}; choose a shorter one"
    return None


def _memory_problem(error: Exception) -> str | None:
    """Returns the message if the host or a device ran out of memory, else None."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            "out of memory; set runtime.accumulate=2 (or more), runtime.remat=true or "
            "runtime.data_placement=host to do the same training in less memory, or lower "
            "pretrain.batch_size, finetune.batch_size or evaluate.batch_size, or choose a smaller "
            "model"
        )
    return None


def _lost_another_process(error: Exception) -> bool:
    if "jax" not in sys.modules:  # then the run cannot have other processes
        return False
    from smallvit_jax.process.others import lost_another_process

    return lost_another_process(error)


def _format_warning(message, category, *where, **more) -> str:
    """Formats a UserWarning as one line; other warnings keep their file and line number."""
    if category is UserWarning:
        return f"warning: {message}\n"
    return f"{where[0]}:{where[1]}: {category.__name__}: {message}\n"


def _fail(code: int, sentence: str) -> int:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return code
