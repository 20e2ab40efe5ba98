"""A bar for work on many records, where somebody watches."""

import contextlib
import sys
from collections.abc import Callable, Iterator

_RECORDS_WORTH_A_BAR = 5000  # about half a second


@contextlib.contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes counts of finished records; draws a bar on a terminal.

    A `total` of None is one not known yet; one below 5,000 is not worth a bar.
    """
    if not sys.stderr.isatty() or (total is not None and total < _RECORDS_WORTH_A_BAR):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
