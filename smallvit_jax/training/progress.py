"""Training progress: a bar on a terminal, lines elsewhere."""

import contextlib
import datetime
import math
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BEFORE_EPOCH_LINE = 3.0
_FIGURES_WIDTH = 66  # columns for the percentage and the usual figures


class _Mark(NamedTuple):
    """The step of an update and its time in seconds, with and without pauses."""

    step: int
    wall: float
    training: float


class Progress:
    """Shows epoch, loss, images per second and time left on stderr.

    The rate excludes the first update, which is mostly compilation. With several processes, only
    one is `active`; the others show nothing.

    Args:
      total_steps: step at which training ends.
      steps_per_epoch: steps per epoch.
      images_per_step: batch size over all devices.
      description: one word for the current stage.
      start_step: steps that were finished before this run resumed.
    """

    def __init__(
        self,
        total_steps: int,
        steps_per_epoch: int,
        images_per_step: int,
        description: str,
        start_step: int = 0,
        *,
        active: bool = True,
        stream: TextIO | None = None,
    ):
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._images, self._description = images_per_step, description
        self._step, self._active = start_step, active
        self._stream = stream or sys.stderr
        self._first: _Mark | None = None  # the first update
        self._last: _Mark | None = None  # the newest
        self._paused = 0.0  # seconds so far
        self._printed = -math.inf
        self._bar = _Bar(self._stream, total_steps, description) if self._on_terminal() else None
        if self._bar:
            self._bar.show(start_step, self._figures(None))

    def _on_terminal(self) -> bool:
        return self._active and self._stream.isatty()

    def update(self, step: int, loss: float | None = None, **figures: float) -> None:
        """Shows the current progress; call this once per dispatch.

        Args:
          step: number of finished steps, counted from the start of training.
          loss: loss of the last step, or a mean.
          **figures: more values to show.
        """
        now = time.monotonic()
        epoch_ended = step // self._per_epoch > self._step // self._per_epoch
        self._step, self._last = step, _Mark(step, now, now - self._paused)
        self._first = self._first or self._last
        if not self._active:
            return
        text = self._figures(loss, **figures)
        if self._bar:
            self._bar.show(step, text)
            return
        wait = _SECONDS_BEFORE_EPOCH_LINE if epoch_ended else _SECONDS_BETWEEN_LINES
        if now - self._printed >= wait or step >= self._total:
            self._printed = now
            self.note(f"{self._description}: step {step}/{self._total}, {text}")

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time inside, for an evaluation or a checkpoint, from `images_per_second`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - started

    @property
    def images_per_second(self) -> float | None:
        """Mean training rate since the first update, without pauses; None before the second."""
        return self._rate("training")

    def _rate(self, clock: str) -> float | None:
        if self._first is None or self._last is None:
            return None
        seconds = getattr(self._last, clock) - getattr(self._first, clock)
        steps = self._last.step - self._first.step
        return steps * self._images / seconds if seconds > 0 else None

    def _figures(self, loss: float | None, **figures: float) -> str:
        epochs = math.ceil(self._total / self._per_epoch)
        epoch = min(self._step // self._per_epoch + 1, epochs)
        parts = [f"epoch {epoch}/{epochs}"]
        if loss is not None:
            parts.append(f"loss {loss:.4f}")
        parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items()]
        if rate := self._rate("wall"):  # includes pauses: future ones take time too
            parts.append(f"{rate:,.0f} images/s")
            seconds = round((self._total - self._step) * self._images / rate)
            parts.append(f"{datetime.timedelta(seconds=max(seconds, 0))} left")
        return ", ".join(parts)

    def note(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if not self._active:
            return
        if self._bar:
            self._bar.note(text)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Draws the bar a last time and releases the terminal."""
        if self._bar:
            self._bar.close()
        self._bar = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class _Bar:
    """A progress bar drawn by rich."""

    def __init__(self, stream: TextIO, total: int, description: str):
        from rich import progress
        from rich.console import Console
        from rich.table import Column

        self._console = Console(file=stream)
        room = self._console.width - len(description) - _FIGURES_WIDTH
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=max(4, min(room, 24))),
            progress.TaskProgressColumn(),
            progress.TextColumn(
                "{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)
            ),
            console=self._console,
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(description, total=total, figures="")
        self._progress.start()

    def show(self, step: int, figures: str) -> None:
        self._progress.update(self._task, completed=step, figures=figures)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.refresh()
        self._progress.stop()
