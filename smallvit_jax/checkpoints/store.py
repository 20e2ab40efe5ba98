"""Checkpoints: written in the background, verified when read, never discarded silently.

orbax's CheckpointManager does the writing and cleanup. This module adds what it lacks: it keeps the
newest and the best step, detects damage and falls back to the newest intact step, restores onto any
number of devices, and reports problems in one sentence.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smallvit_jax.checkpoints import format as checkpoint_format
from smallvit_jax.checkpoints import lookup
from smallvit_jax.checkpoints.format import DamagedCheckpointError, ForeignCheckpointError
from smallvit_jax.errors import UserError
from smallvit_jax.process.others import all_processes_agree, lost_another_process
from smallvit_jax.process.remote import local_copy
from smallvit_jax.workdir.environment import bit_changes, environment
from smallvit_jax.workdir.files import is_disk_full, make_folder, storage_error

_DAMAGED = ".corrupt"  # suffix of a step folder that was set aside


class CheckpointStore:
    """The checkpoints of one training stage: `directory/<step>/{state,params,meta}`.

    Keeps the two newest and, with `keep_best`, the one with the highest `metrics["accuracy"]`
    (the newest on ties). `warn` takes one sentence at a time; by default it prints to stderr.
    With several processes, all must call every method and share the file system.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep_best: bool,
        warn: Callable[[str], None] | None = None,
    ):
        self.directory = make_folder(directory)
        self._keep_best = keep_best
        self._print = warn or _print_warning
        self._accuracy = lookup.accuracies(self.directory) if keep_best else {}
        self._open()

    def _open(self) -> None:
        import orbax.checkpoint as ocp

        checkpoint_format.quiet_orbax()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_NewestAndBest(self._accuracy),
                cleanup_tmp_directories=True,
                lightweight_initialize=True,  # else opening fails on one torn file
                # Else a save that fails at once leaves a thread waiting for five minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the newest step, finished or still being written, or None."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: Any,
        params: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Copies the arrays to the host and writes them in the background.

        The arrays may be donated once this returns. Saving the newest step again does nothing.

        Args:
          step: number of finished training steps, higher than in any earlier checkpoint.
          state: everything needed to resume, any pytree of arrays and numbers.
          params: everything needed to use the model, by dotted path.
          meta: JSON values; `metrics`, the environment and the digests are added.
          metrics: held-out metrics of this step; `accuracy` decides which step is best.

        Raises:
          UserError: this or the previous save failed, usually because the disk is full.
        """
        import orbax.checkpoint as ocp

        self.wait()
        latest = self.latest_step()
        if step == latest:
            return
        if latest is not None and step < latest:
            raise ValueError(f"step {step} is before the newest checkpoint, step {latest}")
        arrays = {
            "state": checkpoint_format.to_host(checkpoint_format.flatten(state)),
            "params": checkpoint_format.to_host(checkpoint_format.flatten(params)),
        }
        sealed = checkpoint_format.seal(meta, step, metrics or {}, arrays)
        if self._keep_best:
            self._accuracy[step] = sealed["metrics"].get("accuracy")
        stored = {name: checkpoint_format.storable(item) for name, item in arrays.items()}
        stored = {name: ocp.args.PyTreeSave(item) for name, item in stored.items() if item}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(meta=ocp.args.JsonSave(sealed), **stored),
                force=True,
            )
        except Exception as error:
            if lost_another_process(error):
                raise
            raise self._failure(error) from error

    def wait(self) -> None:
        """Returns once the last save is on disk; raises UserError if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            if lost_another_process(error):
                raise
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> UserError:
        """Returns the error for a failed save and resets the store to its state before the save."""
        if jax.process_count() == 1:  # opening is collective
            with contextlib.suppress(Exception):  # may raise the same error again
                self._manager.close()
            self._open()
        last_good = self.last_good()
        if is_disk_full(error):
            return UserError(f"{storage_error(error, self.directory)}; {last_good}")
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return UserError(
            f"no checkpoint could be written to {self.directory} ({reason[0][:200]}); fix this "
            f"and run the same command again; {last_good}"
        )

    def last_good(self) -> str:
        """Says in a few words which checkpoint a run can resume from."""
        with contextlib.suppress(Exception):  # a save in progress counts if it succeeds
            self._manager.wait_until_finished()
        steps = lookup.all_steps(self.directory)
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is step {steps[-1]}"

    def restore(self, template: Any, step: int | None = None) -> tuple[int, Any] | None:
        """Returns (step, state) of the newest intact checkpoint, or None if none was ever saved.

        Renames newer steps that are damaged or belong to another run to `<step>.corrupt` and warns.
        Also warns if versions or devices changed, because the results will then differ bitwise.

        Args:
          template: a state with the desired structure, shapes, dtypes and shardings; arrays,
            ShapeDtypeStructs or numbers. It is not modified.
          step: reads this step instead of the newest.

        Raises:
          UserError: no checkpoint is intact, or it does not fit the template.
        """
        self.wait()
        steps = lookup.all_steps(self.directory)
        if step is not None and step not in steps:
            raise UserError(f"{self.directory} has no step {step}; it has {_listed(steps)}")
        unusable: dict[int, DamagedCheckpointError | ForeignCheckpointError] = {}
        for candidate in reversed(steps) if step is None else [step]:
            folder = self.directory / str(candidate)
            try:
                state, meta = self._read_state(folder, template)
            except (DamagedCheckpointError, ForeignCheckpointError) as error:
                unusable[candidate] = error
                continue
            self._set_aside(unusable, candidate)
            changes = bit_changes(meta["environment"], environment())
            if changes:
                self._warn(
                    f"{folder} was written in a different environment ({', '.join(changes)}); the "
                    "run resumes from it, but not bit for bit"
                )
            return candidate, state
        for cause in unusable.values():
            if isinstance(cause, ForeignCheckpointError):
                raise cause
        if step is not None:
            raise UserError(f"{self.directory / str(step)} is damaged ({unusable[step]})")
        self._refuse_if_any(unusable)
        return None

    def _refuse_if_any(self, damaged: Mapping[int, Exception]) -> None:
        """Raises UserError if all checkpoints are damaged: starting over is the user's decision."""
        causes = [f"step {step}: {cause}" for step, cause in damaged.items()]
        causes += sorted(path.name for path in self.directory.glob(f"*{_DAMAGED}*"))
        if causes:
            raise UserError(
                f"every checkpoint in {self.directory} is damaged ({'; '.join(causes)}); "
                "restore an intact copy, or remove the folder to start over"
            )

    def _read_state(self, folder: Path, template: Any) -> tuple[Any, dict[str, Any]]:
        """Reads a state onto the devices; if one process cannot read it, all of them raise."""
        problem, arrays, meta = None, {}, {}
        leaves = checkpoint_format.flatten(template)
        try:
            meta = checkpoint_format.read_meta(folder)
            checkpoint_format.check_fits(meta["arrays"]["state"], leaves, str(folder))
            arrays = checkpoint_format.read_arrays(folder, "state", meta)
        except (DamagedCheckpointError, ForeignCheckpointError) as error:
            problem = error
        except PermissionError as error:
            raise UserError(f"{folder} cannot be read (permission denied)") from error
        if not all_processes_agree(problem is None):
            raise problem or DamagedCheckpointError("another process cannot read it")
        placed = [checkpoint_format.place(arrays[name], like) for name, like in leaves.items()]
        return jax.tree.unflatten(jax.tree.structure(template), placed), meta

    def _set_aside(self, unusable: Mapping[int, Exception], good: int) -> None:
        """Renames unusable steps, which orbax would otherwise treat as the newest forever."""
        if not unusable:
            return
        self._manager.close()
        for step, error in unusable.items():
            folder = self.directory / str(step)
            target = folder.with_name(folder.name + _DAMAGED)
            while target.exists():
                target = target.with_name(target.name + "+")
            what = f"is damaged ({error})"
            if isinstance(error, ForeignCheckpointError):
                what = f"does not belong to this run ({error.cause})"
            self._warn(f"{folder} {what}; renamed to {target.name}, resuming from step {good}")
            if jax.process_index() == 0:
                folder.rename(target)
            self._accuracy.pop(step, None)
        all_processes_agree(True)
        self._open()

    def _warn(self, sentence: str) -> None:
        if jax.process_index() == 0:
            self._print(sentence)

    def close(self) -> None:
        """Waits for the last save and closes the store; raises UserError if the save failed."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.close()
        except UserError as failure:
            if error is None:
                raise
            self._warn(str(failure))


class _NewestAndBest:
    """A preservation policy for orbax that takes accuracies from `meta`.

    orbax's BestN reads them from another file per step when it opens and fails if one is torn; with
    max_to_keep, the best steps push out the newest.
    """

    def __init__(self, accuracy: Mapping[int, float | None]):
        self._accuracy = accuracy

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = lookup.best_step({step: self._accuracy.get(step) for step in steps})
        kept = {*sorted(steps)[-2:], best}
        return [step in kept for step in steps]


def read_params_and_meta(
    path: str | os.PathLike, which: str = "latest", item: str = "params"
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a model's parameters without its training state, on any number of devices.

    Args:
      path: a stage folder, its `checkpoints` folder, or one step in it; also elsewhere, as in
        gs://bucket/run/pretrain.
      which: the "latest" step, or the "best" by held-out accuracy.
      item: "state" reads everything needed to resume instead.

    Returns the arrays by dotted path, and `meta`. Raises UserError for a path without a valid
    checkpoint.
    """
    folder = local_copy(path).absolute()
    try:
        folder = lookup.find_step(folder, which)
        meta = checkpoint_format.read_meta(folder)
        return checkpoint_format.read_arrays(folder, item, meta), meta
    except DamagedCheckpointError as error:
        others = [n for n in lookup.all_steps(folder.parent) if str(n) != folder.name]
        remedy = f"try {_listed(others)} instead" if others else "there is no other step to try"
        raise UserError(f"the checkpoint {folder} is damaged ({error}); {remedy}") from error
    except PermissionError as error:
        raise UserError(f"{folder} cannot be read (permission denied)") from error


def _listed(steps: Sequence[int]) -> str:
    return f"step {', '.join(map(str, steps))}" if steps else "none"


def _print_warning(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
