"""Finds the step folder that a path refers to, and the best step."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path

from smallvit_jax.checkpoints import format as checkpoint_format
from smallvit_jax.checkpoints.format import DamagedCheckpointError
from smallvit_jax.errors import UserError, did_you_mean
from smallvit_jax.workdir.ownership import CHECKPOINTS


def find_step(path: Path, which: str) -> Path:
    """Returns the step folder that a path refers to."""
    if which not in ("latest", "best"):
        raise UserError(f'which must be "latest" or "best", not {which!r}')
    if not path.exists():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, [sibling.name for sibling in siblings])
        raise UserError(
            f"{path} does not exist{hint}; give a stage folder or one of its checkpoints"
        )
    if not path.is_dir():
        raise UserError(f"{path} is a file; give a stage folder or one of its checkpoints")
    folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    present = sorted(entry.name for entry in folder.iterdir())
    steps = all_steps(folder)
    if not steps:
        if path.name.isdecimal() or not set(present).isdisjoint(checkpoint_format.ITEMS):
            return path
        stages = [entry.name for entry in path.iterdir() if (entry / CHECKPOINTS).is_dir()]
        if stages:
            raise UserError(
                f"{path} holds several stages; give one of them: "
                f"{', '.join(str(path / stage) for stage in sorted(stages))}"
            )
        found = f"only {', '.join(present[:4])}" if present else "nothing"
        raise UserError(
            f"{folder} has no finished checkpoint (it holds {found}); give a stage folder whose "
            f"{CHECKPOINTS}/ has one, or wait until the run saves one"
        )
    if which == "latest":
        return folder / str(max(steps))
    best = best_step(accuracies(folder))
    if best is None:
        raise UserError(
            f"no checkpoint in {folder} has a held-out accuracy to choose the best one by; use "
            "the latest, or train with dataset.validation_fraction above 0"
        )
    return folder / str(best)


def all_steps(folder: Path) -> list[int]:
    """Returns the steps in a checkpoints folder, damaged ones too, oldest first."""
    return sorted(int(e.name) for e in folder.iterdir() if e.name.isdecimal() and e.is_dir())


def accuracies(folder: Path) -> dict[int, float | None]:
    """Returns the held-out accuracy of each readable step, None if it has none."""
    found = {}
    for step in all_steps(folder):
        with contextlib.suppress(DamagedCheckpointError, UserError):
            found[step] = checkpoint_format.read_meta(folder / str(step))["metrics"].get("accuracy")
    return found


def best_step(accuracy: Mapping[int, float | None]) -> int | None:
    """Returns the step with the highest accuracy, the newest on ties; NaN is never best."""
    candidates = [(value, step) for step, value in accuracy.items() if value is not None]
    candidates = [(value, step) for value, step in candidates if not math.isnan(value)]
    return max(candidates)[1] if candidates else None
