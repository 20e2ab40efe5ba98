"""Whose a stage folder is: a run continues only what it has begun itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smallvit_jax.errors import UserError
from smallvit_jax.training import logs

# Changing how a run is done is free, but for what its numbers depend on.
_FREE = "runtime."
_NOT_FREE = ("runtime.precision",)


def finished_result(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a stage that is done, None if it is not; raises as `check_folder` does."""
    check_folder(folder, config)
    return logs.read_result(folder)


def check_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises `UserError` if the folder holds work of another config.

    A folder in which a run only failed to start is free. Of `runtime`, only the precision counts:
    the other fields change how a run is done, not what it is.
    """
    old = logs.read_config(folder)
    if old is None or not holds_work(folder):
        return
    differences = [
        (field, before, now)
        for field, before, now in logs.config_differences(old, config)
        if not field.startswith(_FREE) or field in _NOT_FREE
    ]
    if differences:
        field, before, now = differences[0]
        more = f" and {len(differences) - 1} more fields differ" if differences[1:] else ""
        raise UserError(
            f"{folder} holds a run with {field} = {before}, and this one has {now}{more}; "
            "choose a new --workdir, or repeat the old command to continue the old run"
        )


def holds_work(folder: Path) -> bool:
    """Whether the folder, or a stage folder in it, has a checkpoint or a result."""
    patterns = ("result.json", "checkpoints/[0-9]*", "*/result.json", "*/checkpoints/[0-9]*")
    return any(True for pattern in patterns for _ in folder.glob(pattern))
