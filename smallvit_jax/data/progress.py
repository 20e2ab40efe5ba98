"""A bar for work on many records, where somebody watches."""

import contextlib
import sys
from collections.abc import Callable, Iterator

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
