"""Terminal output besides training: tables and a progress bar for work on many records."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_RECORDS_WORTH_A_BAR = 5000  # take about half a second
_bars: list[str] = []  # on screen: at most one, the outermost


@contextlib.contextmanager
def progress(
    description: str, total: int | None, *, worth_a_bar: int = _RECORDS_WORTH_A_BAR
) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar and yields a function that advances it by a number of records.

    Shows no bar off a terminal, for a `total` below `worth_a_bar`, or inside another bar. A `total`
    of None is unknown.
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
    """Formats a title and columns: the first left-aligned, the others right-aligned."""
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
    """Prints the output of `format_table` to stdout."""
    print(format_table(title, rows), flush=True)
