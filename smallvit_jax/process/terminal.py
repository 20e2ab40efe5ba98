"""What people see on the terminal besides training: tables, and a bar for work on many records."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_RECORDS_WORTH_A_BAR = 5000  # about half a second
_bars: list[str] = []  # on the screen: at most one, the outermost


@contextlib.contextmanager
def progress(
    description: str, total: int | None, *, worth_a_bar: int = _RECORDS_WORTH_A_BAR
) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes counts of finished records; draws a bar on a terminal.

    A `total` of None is one not known yet; one below `worth_a_bar` gets none, and
    neither does work inside other work that has one.
    """
    if _bars or not sys.stderr.isatty() or (total is not None and total < worth_a_bar):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        _bars.append(description)
        try:
            yield lambda count: bar.advance(task, count)
        finally:
            _bars.remove(description)


def format_table(title: str, rows: Sequence[Sequence[Any]]) -> str:
    """A title and aligned columns: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    cells = [row + [""] * (columns - len(row)) for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(columns)]
    lines = [title]
    for row in cells:
        aligned = [row[0].ljust(widths[0])] if row else []
        aligned += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append(("  " + "  ".join(aligned)).rstrip())
    return "\n".join(lines)


def print_table(title: str, rows: Sequence[Sequence[Any]]) -> None:
    """Prints `format_table` to stdout."""
    print(format_table(title, rows), flush=True)
