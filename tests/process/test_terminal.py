"""Tables and progress bars."""

import io
import sys

from smallvit_jax.process.terminal import format_table, progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


def test_columns_are_aligned_and_short_rows_allowed():
    rows = [("top-1", 9.5, "%"), ("images", 1000), ()]
    assert format_table("Result", rows).split("\n") == [
        "Result",
        "  top-1    9.5  %",
        "  images  1000",
        "",
    ]


def test_progress_bar_on_a_terminal_only_and_only_the_outermost(monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with progress("reading", 6000) as advance, progress("inner", 6000) as advance_inner:
        advance(6000)
        advance_inner(1)
    assert "reading" in screen.getvalue() and "100%" in screen.getvalue()
    assert "inner" not in screen.getvalue()
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with progress("short", 10) as advance:
        advance(10)
    assert screen.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with progress("reading", 6000) as advance:
        advance(6000)
    assert log.getvalue() == ""
