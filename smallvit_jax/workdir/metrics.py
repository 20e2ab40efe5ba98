"""The metrics of a stage, in `metrics.jsonl` and TensorBoard files.

`metrics.jsonl` has one JSON object per line: step, epoch, split, and the values as further keys
(`{"step": 500, "epoch": 1.25, "split": "train", "loss": 6.71}`). NaN and infinities, which JSON
lacks, are the strings "NaN", "Infinity" and "-Infinity".
"""

import io
import json
import math
import os
import re
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from smallvit_jax.errors import UserError
from smallvit_jax.workdir.files import make_folder, storage_error, strict_json, write_atomically

Row = tuple[int, float, str, Mapping[str, Any]]  # step, epoch, split, values

_KEYS = ("step", "epoch", "split")
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_STEP = re.compile(r'{"step": (\d+),')
_SECONDS_BETWEEN_EVENT_FLUSHES = 30.0


class RunLog:
    """Reads and writes the metrics of one stage.

    Opening the log drops lines after `restored_step` (all lines if it is None, for a fresh start)
    and a last line torn by a kill; training writes them again. With several processes, only one is
    `active`; the others keep their lines in memory.
    """

    def __init__(
        self, stage_dir: str | os.PathLike, *, restored_step: int | None, active: bool = True
    ):
        self._restored_step = -1 if restored_step is None else int(restored_step)
        self._path = Path(stage_dir).absolute() / "metrics.jsonl"
        self._file: io.TextIOWrapper | None = None
        self._events: _EventFile | None = None
        self._unwritten: list[dict[str, Any]] = []  # only in a process that is not active
        if not active:
            return
        make_folder(stage_dir)
        self._warn_of_lost_lines()
        kept = self._rows()
        write_atomically(self._path, "".join(f"{strict_json(row)}\n" for row in kept))
        try:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
            self._events = _EventFile(self._path.parent, purge_from=self._restored_step + 1)
        except OSError as error:
            raise storage_error(error, self._path) from error

    def _warn_of_lost_lines(self) -> None:
        """Warns of torn lines that training will not write again."""
        text = self._path.read_text("utf-8", errors="replace") if self._path.exists() else ""
        torn = [_STEP.match(line) for line in text.splitlines() if _parse(line) is None]
        lost = [match[1] for match in torn if match and int(match[1]) <= self._restored_step]
        if lost:
            warnings.warn(
                f"{self._path} was damaged: lines of step {', '.join(lost)} are lost; the weights "
                "are not affected",
                stacklevel=3,
            )

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, Any]) -> None:
        """Adds one line; see `write_many`."""
        self.write_many([(step, epoch, split, values)])

    def write_many(self, rows: Iterable[Row]) -> None:
        """Adds lines. Other programs see them at once, but only `flush` survives a power cut.

        Values are numbers or text. Raises UserError if the write fails.
        """
        rows = [(int(step), float(epoch), split, values) for step, epoch, split, values in rows]
        for _, _, _, values in rows:
            if clash := set(_KEYS) & set(values):
                raise ValueError(f"values must not be named {sorted(clash)}")
        lines = [{"step": step, "epoch": e, "split": split, **v} for step, e, split, v in rows]
        if self._file is None or self._events is None:
            self._unwritten += [json.loads(strict_json(line)) for line in lines]
            return
        try:
            for line, (step, _, split, values) in zip(lines, rows, strict=True):
                self._file.write(f"{strict_json(line)}\n")
                self._events.add(step, split, values)
            self._file.flush()
        except OSError as error:
            raise storage_error(error, self._path) from error

    def flush(self) -> None:
        """Returns once every line is on disk; call this before saving a checkpoint."""
        if self._file is None or self._events is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._events.flush()
        except OSError as error:
            raise storage_error(error, self._path) from error

    def read(self, split: str | None = None) -> list[dict[str, Any]]:
        """Returns all lines or those of one split, oldest first; NaN and infinities are floats."""
        if self._file is not None:
            self._file.flush()
        rows = self._rows() + self._unwritten
        return [_with_floats(row) for row in rows if split in (None, row["split"])]

    def _rows(self) -> list[dict[str, Any]]:
        """Returns the file's valid lines; unless it is open, only those up to `restored_step`."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(error, self._path) from error
        rows = [row for row in map(_parse, text.splitlines()) if row is not None]
        if self._file is not None:
            return rows
        return [row for row in rows if row["step"] <= self._restored_step]

    def close(self) -> None:
        """Flushes every line to disk and closes the files."""
        self.flush()
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()
        self._file = self._events = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.close()
        except UserError:
            if error is None:
                raise


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    valid = isinstance(row, dict) and isinstance(row.get("step"), int) and "split" in row
    return row if valid else None


def _with_floats(row: Mapping[str, Any]) -> dict[str, Any]:
    def value(key: str, entry: Any) -> Any:
        return _NOT_FINITE.get(entry, entry) if key not in _KEYS and type(entry) is str else entry

    return {key: value(key, entry) for key, entry in row.items()}


class _EventFile:
    """A TensorBoard event file, written directly.

    tensorboardX's SummaryWriter writes from a thread with a queue of ten; when a full disk ends the
    thread, adding the eleventh value blocks forever.
    """

    def __init__(self, folder: Path, purge_from: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(
            self._event(wall_time=time.time(), step=purge_from, session_log=start)
        )
        self._flushed = -math.inf

    def add(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        scalars = [
            self._summary.Value(tag=f"{split}/{name}", simple_value=float(value))
            for name, value in values.items()
            if not isinstance(value, str)
        ]
        self._writer.write_event(
            self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars))
        )
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_EVENT_FLUSHES:
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


def read_metrics(stage_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the valid lines of a stage's `metrics.jsonl`, oldest first; [] without a file."""
    try:
        text = (Path(stage_dir) / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [_with_floats(row) for row in map(_parse, text.splitlines()) if row is not None]
