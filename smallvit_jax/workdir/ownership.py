"""Whose a stage folder is: a run continues only what it has begun itself, and no two at once."""

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from smallvit_jax.config.tree import DEFAULTS
from smallvit_jax.errors import UserError
from smallvit_jax.process.others import all_processes_agree
from smallvit_jax.workdir import records
from smallvit_jax.workdir.files import make_folder, storage_error

# Changing how a run is done is free, but for what its numbers depend on.
_FREE = "runtime."
_NOT_FREE = ("runtime.precision",)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network file systems


class FolderInUseError(UserError):
    """Another run works in the folder at this moment."""


def finished_result(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a stage that is done, None if it is not; raises as `check_folder` does."""
    check_folder(folder, config)
    return records.read_result(folder)


def check_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises `UserError` if the folder holds work of another config.

    A folder in which a run only failed to start is free. Of `runtime`, only the precision counts:
    the other fields change how a run is done, not what it is. A field that is younger than the run
    had its default then.
    """
    old = records.read_config(folder)
    if old is None or not holds_work(folder):
        return
    differences = [
        (field, before, now)
        for field, before, now in records.config_differences(old, config, DEFAULTS)
        if not field.startswith(_FREE) or field in _NOT_FREE
    ]
    if differences:
        field, before, now = differences[0]
        more = f" and {len(differences) - 1} more fields differ" if differences[1:] else ""
        raise UserError(
            f"{folder} holds a run with {field} = {before}, and this one has {now}{more}; "
            "repeat the old command to continue the old run, or choose a new --workdir"
            f"{_way_on(folder, config, field)}"
        )


def _way_on(folder: Path, config: Mapping[str, Any], field: str) -> str:
    """How a run in a new folder begins with the weights of the old one."""
    old, job = folder, "pretrain" if "pretrain" in config else "finetune"
    if "pretrain" in config and "finetune" in config:  # several stages
        if not holds_checkpoint(folder / "pretrain"):  # no recipe
            return ""
        old = folder / "pretrain"
        job = "finetune" if field.startswith("finetune.") else "pretrain"
    if job not in config:
        return ""
    config_file = f"--config=configs/{job}.py and " if old != folder and job == "finetune" else ""
    return f" (with {config_file}--config.{job}.init_from={old} it starts from the old weights)"


def holds_work(folder: Path) -> bool:
    """Whether the folder, or a stage folder anywhere in it, has a checkpoint or a result.

    Damaged checkpoints count, half-written ones do not: a run that was killed while it wrote its
    first one begins anew.
    """
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(name)) in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        checkpoints = Path(name).name == "checkpoints"
        if "result.json" in files or (checkpoints and any(map(_is_checkpoint, folders))):
            return True
        if checkpoints:
            folders.clear()  # what is inside them is orbax's
    return False


def holds_checkpoint(folder: Path) -> bool:
    """Whether the stage of this very folder has a checkpoint, from which it would go on."""
    return any(_is_checkpoint(path.name) for path in folder.glob("checkpoints/*"))


def _is_checkpoint(name: str) -> bool:
    return name.isdecimal() or ".corrupt" in name


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other run can work in the folder; raises `FolderInUseError` if one does.

    The lock ends with the process, however that ends. Of several processes the first holds it, and
    all of them raise.
    """
    refusal, lock = None, None
    if jax.process_index() == 0:
        try:
            lock = _lock(make_folder(folder))
        except UserError as error:
            refusal = error
    if not all_processes_agree(refusal is None):
        in_use = not all_processes_agree(not isinstance(refusal, FolderInUseError))
        kind = FolderInUseError if in_use else UserError  # the same one in every process
        raise refusal or kind(f"the first process cannot work in {folder}")
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int:
    """Locks `folder/.lock`, which names its holder; returns the open file."""
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
            f"the file system of {folder} has no locks; let no second run work there", stacklevel=2
        )
        return os.open(path, os.O_RDWR)
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return lock
