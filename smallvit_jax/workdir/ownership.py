"""Stage folders belong to one config and are used by one run at a time."""

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import jax

from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import DEFAULTS
from smallvit_jax.errors import UserError
from smallvit_jax.process.others import all_processes_agree
from smallvit_jax.workdir import records
from smallvit_jax.workdir.files import make_folder, storage_error

CHECKPOINTS = "checkpoints"  # folder of a stage's checkpoints

# Fields that a resumed run may change, except those that its numbers depend on.
_FREE = "runtime."
_NOT_FREE = ("runtime.precision",)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # on some network file systems


class FolderInUseError(UserError):
    """Another run is using the folder."""


def finished_result(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the result of a finished stage, else None; raises as `check_folder` does."""
    check_folder(folder, config)
    return records.read_result(folder)


def check_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises `UserError` if the folder holds work of another config.

    Folders without a checkpoint or result may be reused. `runtime` fields other than the precision
    may differ. A field that was added after the old run counts as having had its default.
    """
    old = records.read_config(folder)
    if old is None or not holds_work(folder):
        return
    differences = [
        (field, before, now)
        for field, before, now in records.config_differences(old, config, DEFAULTS)
        if not field.startswith(_FREE) or field in _NOT_FREE
    ]
    parts, parts_now = set(old) & set(JOBS), set(config) & set(JOBS)
    if differences and parts and parts != parts_now:
        job = (records.read_result(folder) or {}).get("job")
        which = f'the job "{job}"' if job else "another job"
        raise UserError(
            f"{folder} holds a run of {which}; choose a new --workdir"
            f"{_init_from_hint(folder, config, '')}"
        )
    if differences:
        field, before, now = differences[0]
        more = f" and {len(differences) - 1} more fields differ" if differences[1:] else ""
        raise UserError(
            f"{folder} holds a run with {field} = {before}, but this run has {now}{more}; "
            f"{_resume_hint(parts)}choose a new --workdir{_init_from_hint(folder, config, field)}"
        )


def _resume_hint(parts: Set[str]) -> str:
    """Returns how to go on with the old run, or "" if it is of a job that does not train."""
    if parts and not any(JOBS[part].pretrains or JOBS[part].finetunes for part in parts):
        return ""
    return "repeat the old command to resume the old run, or "


def _init_from_hint(folder: Path, config: Mapping[str, Any], field: str) -> str:
    """Returns how a run in a new folder can start from the old weights, or ""."""
    old, job = folder, "pretrain" if "pretrain" in config else "finetune"
    if "pretrain" in config and "finetune" in config:  # several stages
        if not holds_checkpoint(folder / "pretrain"):  # not a recipe
            return ""
        old = folder / "pretrain"
        job = "finetune" if field.startswith("finetune.") else "pretrain"
    if job not in config:
        return ""
    config_file = f"--config=configs/{job}.py and " if old != folder and job == "finetune" else ""
    return f" (use {config_file}--config.{job}.init_from={old} to start from the old weights)"


def holds_work(folder: Path) -> bool:
    """Whether the folder, or a stage folder anywhere in it, has a checkpoint or a result.

    Damaged checkpoints count, half-written ones do not: a run that was killed while writing its
    first checkpoint starts over.
    """
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(name)) in seen:  # links may form a cycle
            folders.clear()
            continue
        seen.add(real)
        checkpoints = Path(name).name == CHECKPOINTS
        if "result.json" in files or (checkpoints and any(map(_is_checkpoint, folders))):
            return True
        if checkpoints:
            folders.clear()  # orbax's own files
    return False


def holds_checkpoint(folder: Path) -> bool:
    """Whether this folder is a stage folder with a checkpoint to resume from."""
    return any(_is_checkpoint(path.name) for path in folder.glob(f"{CHECKPOINTS}/*"))


def _is_checkpoint(name: str) -> bool:
    return name.isdecimal() or ".corrupt" in name


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks the folder for this run; raises `FolderInUseError` if another run holds the lock.

    The lock is released when the process ends, however it ends. With several processes, the first
    one holds the lock, and all raise if it fails.
    """
    refusal, lock = None, None
    if jax.process_index() == 0:
        try:
            lock = _lock(make_folder(folder))
        except UserError as error:
            refusal = error
    if not all_processes_agree(refusal is None):
        in_use = not all_processes_agree(not isinstance(refusal, FolderInUseError))
        kind = FolderInUseError if in_use else UserError  # the same type in every process
        raise refusal or kind(f"the first process cannot use {folder}; see its error message")
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int:
    """Locks `folder/.lock`, which names the locking process; returns the open file."""
    path = folder / ".lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise storage_error(error, folder) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 200).decode(errors="replace").strip()
        os.close(lock)
        raise FolderInUseError(
            f"{folder} is in use by another run ({holder or 'unknown process'}); wait for it or "
            "stop it, or choose another --workdir"
        ) from None
    except OSError as error:
        os.close(lock)
        if error.errno not in _NO_LOCKS:
            raise storage_error(error, folder) from error
        warnings.warn(
            f"the file system of {folder} has no file locks; do not start a second run there",
            stacklevel=2,
        )
        return os.open(path, os.O_RDWR)
    with contextlib.suppress(OSError):  # on a full disk the lock still holds
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return lock
