"""The training loop: blocks of steps as one compiled program, metrics per step.

Randomness depends only on (key, step) and the data order on (seed, step), so a resumed run takes
exactly the same steps as an uninterrupted one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from smallvit_jax.errors import UserError
from smallvit_jax.process.sharding import split_over
from smallvit_jax.training.placement import Source

Schedule = dict[str, np.ndarray]
Metrics = dict[str, np.ndarray]
StepFunction = Callable[..., tuple[Any, dict[str, jax.Array]]]


class TrainingDivergedError(UserError):
    """A loss, gradient or weight became infinite or NaN."""


class Listener(Protocol):
    """Callbacks of the training loop; `step` is the number of finished steps."""

    def on_metrics(self, first: int, rows: Metrics) -> None:
        """Receives the metrics of the steps from `first` on, in order, before later callbacks."""

    def on_epoch_end(self, epochs: int, state: Any) -> None:
        """Called after each epoch with the number of finished epochs."""

    def save(self, step: int, state: Any) -> None:
        """Saves the state, so that training can resume from it."""

    def should_stop(self) -> bool:
        """Whether to stop; called between blocks, and must agree between all processes."""


def compile_block(step_function: StepFunction, fetch: Callable[..., Any], rows: int, mesh: Mesh):
    """Compiles one program that takes up to `rows` training steps; `count` is set at run time.

    Args:
      step_function: (state, images uint8, labels, key, schedule row) → (state, metrics).
      fetch: (block, i) → images and labels of the block's i-th step, as `placement.fetch`.
      rows: the largest number of steps per call.
      mesh: the devices that the batch is split over.

    Returns run(state, block, schedule rows, key, count) → (state, metrics of each step). Donates
    the state. Metrics have `rows` entries, of which the first `count` are valid.
    """

    def one_step(state, block, i, schedule, key):
        images, labels = fetch(block, i)
        row = {name: values[i] for name, values in schedule.items()}
        with split_over(mesh):
            return step_function(state, images, labels, jax.random.fold_in(key, state.step), row)

    def run(state, block, schedule, key, count):
        shapes = jax.eval_shape(one_step, state, block, 0, schedule, key)[1]
        buffers = {name: jnp.zeros(rows, shape.dtype) for name, shape in shapes.items()}

        def body(i, carry):
            state, buffers = carry
            state, metrics = one_step(state, block, i, schedule, key)
            buffers = {name: buffers[name].at[i].set(metrics[name]) for name in buffers}
            return state, buffers

        return jax.lax.fori_loop(0, count, body, (state, buffers))

    return jax.jit(run, donate_argnums=0)


def train(
    step_function: StepFunction,
    state: Any,
    *,
    source: Source,
    schedule: Schedule,
    key: jax.Array,
    steps_per_epoch: int,
    steps_per_dispatch: int,
    checkpoint_every: int,
    listener: Listener,
    profile: tuple[Path, int] | None = None,
) -> Any:
    """Trains from `state.step` to the end of the schedule and returns the final state.

    If the listener asks to stop, saves and returns the current state.

    Args:
      step_function: as in `compile_block`.
      state: a pytree with the field `step`; donated.
      source: source of batches.
      schedule: per-step values; their length is the length of training.
      key: all randomness of step t derives from fold_in(key, t).
      steps_per_epoch: number of steps in an epoch.
      steps_per_dispatch: most steps per call of the compiled program.
      checkpoint_every: steps between saves; the last step is saved too.
      listener: receives metrics, epoch ends and save requests.
      profile: folder and number of steps to trace, after the first call.

    Raises:
      TrainingDivergedError: a metric became infinite or NaN; no later state is saved.
    """
    first, total_steps = int(state.step), len(next(iter(schedule.values())))
    run = compile_block(step_function, source.fetch, steps_per_dispatch, source.mesh)
    metrics = _Metrics(listener, steps_per_epoch)
    blocks = _blocks(first, total_steps, steps_per_dispatch, (steps_per_epoch, checkpoint_every))
    skipped = 1 if total_steps - first > steps_per_dispatch else 0  # the block that compiles
    with _Profiler(profile, skipped) as profiler:
        for step, count in blocks:
            if listener.should_stop():
                metrics.report()
                if step > first:
                    listener.save(step, state)
                return state
            profiler.before(count)
            rows = {
                k: _padded_rows(v, step, count, steps_per_dispatch) for k, v in schedule.items()
            }
            state, new = run(state, source.block(step, count), rows, key, count)
            metrics.report()  # for the previous block, while the device works on this one
            metrics.hold(step, count, new)
            profiler.after(state)
            done = step + count
            epoch_ended = done % steps_per_epoch == 0
            save_due = done % checkpoint_every == 0 or done == total_steps
            if epoch_ended or save_due:
                metrics.report()
            if epoch_ended:
                listener.on_epoch_end(done // steps_per_epoch, state)
            if save_due:
                listener.save(done, state)
    return state


class _Metrics:
    """The metrics of one block, on the device until they are reported."""

    def __init__(self, listener: Listener, steps_per_epoch: int):
        self._listener, self._steps_per_epoch = listener, steps_per_epoch
        self._held: tuple[int, int, Any] | None = None

    def hold(self, first: int, count: int, metrics: Any) -> None:
        self._held = (first, count, metrics)

    def report(self) -> None:
        """Passes the held metrics to the listener; raises if they are not finite."""
        if self._held is None:
            return
        (first, count, metrics), self._held = self._held, None
        rows = {name: values[:count] for name, values in jax.device_get(metrics).items()}
        good = _finite_steps(rows)
        self._listener.on_metrics(first, {name: v[: good + 1] for name, v in rows.items()})
        if good < count:
            bad = {name: values[good] for name, values in rows.items()}
            _stop(first + good, bad, self._steps_per_epoch)


def _blocks(
    step: int, total_steps: int, most: int, boundaries: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Yields (first step, number of steps); no block crosses a multiple of a boundary."""
    while step < total_steps:
        to_boundary = min(b - step % b for b in boundaries)
        count = min(most, to_boundary, total_steps - step)
        yield step, count
        step += count


def _padded_rows(values: np.ndarray, step: int, count: int, rows: int) -> np.ndarray:
    part = values[step : step + count]
    return np.pad(part, (0, rows - count)).astype(part.dtype if part.dtype == bool else np.float32)


def _finite_steps(rows: Metrics) -> int:
    """Returns the number of steps before the first one with an infinite or NaN metric."""
    finite = np.all([np.isfinite(values) for values in rows.values()], axis=0)
    return len(finite) if finite.all() else int(np.argmin(finite))


def _stop(step: int, metrics: Metrics, steps_per_epoch: int) -> NoReturn:
    """Raises for the step with the given metrics, which follows `step` finished steps."""
    name, value = next((k, v) for k, v in metrics.items() if not np.isfinite(v))
    raise diverged(name.replace("_", " "), str(value), step + 1, steps_per_epoch)


def diverged(what: str, value: str, step: int, steps_per_epoch: int) -> TrainingDivergedError:
    """Returns the error for a value that became infinite or NaN at `step`, counted from 1."""
    return TrainingDivergedError(
        f"the {what} became {value} at step {step} (epoch {(step - 1) // steps_per_epoch + 1}); "
        "start again in a new workdir with a lower learning rate, a longer warmup or "
        "runtime.precision=float32 (earlier checkpoints are intact)"
    )


class _Profiler:
    """Traces a number of steps, after skipping blocks that include compilation."""

    def __init__(self, profile: tuple[Path, int] | None, skipped: int):
        self._folder: Path | None
        self._left: int
        self._folder, self._left = profile or (None, 0)
        self._skipped = skipped
        self._active = False

    def __enter__(self) -> "_Profiler":
        return self

    def before(self, count: int) -> None:
        if self._skipped:
            self._skipped -= 1
        elif self._left > 0:
            if not self._active:
                jax.profiler.start_trace(str(self._folder))
                self._active = True
            self._left -= count

    def after(self, state: Any) -> None:
        if self._active and self._left <= 0:
            jax.block_until_ready(state)
            self._stop()

    def __exit__(self, *_) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._active:
            jax.profiler.stop_trace()
            self._active = False
