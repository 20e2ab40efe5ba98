"""Progress: lines on a stream that is not a terminal, and a bar on one that is."""

import io
import os
import re
import threading

import pytest

from smallvit_jax.training import progress as progress_module
from smallvit_jax.training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test moves it."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_lines_are_printed_at_intervals_and_at_the_end(clock):
    out = io.StringIO()
    with Progress(1000, 100, 50, "pretrain", stream=out) as progress:
        for step in range(10, 1001, 10):
            clock.now += 0.5 if step > 10 else 60.0  # the first update compiles for a minute
            progress.update(step, loss=7 - step / 1000)
        progress.note("kNN 31.0 %")
    lines = out.getvalue().splitlines()
    assert lines[0] == "pretrain: step 10/1000, epoch 1/10, loss 6.9900"
    # 990 steps of 50 images in 49.5 s: the compilation does not count.
    assert progress.images_per_second == pytest.approx(1000)
    assert lines[-2] == (
        "pretrain: step 1000/1000, epoch 10/10, loss 6.0000, 1,000 images/s, 0:00:00 left"
    )
    assert lines[-1] == "kNN 31.0 %"
    # An epoch takes 5 s, so every epoch end has a line; the first is 4.5 s after the start.
    assert [int(re.search(r"step (\d+)", line)[1]) for line in lines[1:-1]] == list(
        range(100, 1001, 100)
    )
    assert "0:00:25 left" in lines[5]


def test_pauses_affect_the_time_left_but_not_the_rate(clock):
    out = io.StringIO()
    with Progress(400, 100, 50, "train", stream=out) as progress:
        for step in range(10, 201, 10):
            clock.now += 0.5
            progress.update(step)
            if step % 100 == 0:
                with progress.pause():
                    clock.now += 4.0  # the second pause is after the last update
    # 190 steps of 50 images in 9.5 s, or in 13.5 s with the first pause.
    assert progress.images_per_second == pytest.approx(1000)
    assert "704 images/s, 0:00:14 left" in out.getvalue().splitlines()[-1]


def test_line_interval_is_bounded_for_long_and_short_epochs(clock):
    for per_epoch, expected in ((1000, [1, 11, 21]), (1, [1, 4, 7, 10, 13, 16, 19, 22, 25])):
        out = io.StringIO()
        progress = Progress(1000, per_epoch, 1, "train", stream=out)
        for step in range(1, 26):
            clock.now += 1
            progress.update(step)
        assert [int(x) for x in re.findall(r"step (\d+)/", out.getvalue())] == expected


def test_resumed_run_counts_only_its_own_steps(clock):
    out = io.StringIO()
    progress = Progress(200, 100, 8, "finetune", start_step=100, stream=out)
    progress.update(110, 1.0)
    clock.now += 10
    progress.update(160, 1.0, accuracy=0.25)
    assert progress.images_per_second == pytest.approx(40)
    assert out.getvalue().splitlines()[1] == (
        "finetune: step 160/200, epoch 2/2, loss 1.0000, accuracy 0.25, 40 images/s, 0:00:08 left"
    )


def test_inactive_processes_print_nothing(clock):
    out = io.StringIO()
    with Progress(10, 5, 1, "train", active=False, stream=out) as progress:
        progress.update(10, 1.0)
        progress.note("a line")
    assert out.getvalue() == ""


@pytest.mark.parametrize("columns", [80, 120])
def test_terminal_gets_a_bar_with_notes_above_it(monkeypatch, columns):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    leader, follower = os.openpty()
    chunks = []

    def drain():
        while True:
            try:
                chunks.append(os.read(leader, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=drain)
    reader.start()
    stream = os.fdopen(follower, "w")
    with stream, Progress(100, 50, 10, "pretrain [x]", stream=stream) as progress:
        progress.update(10, 2.5)
        progress.update(60, 2.25)
        progress.note("kNN [31.0] %")
        progress.update(100, 2.125)
    reader.join(timeout=10)
    os.close(leader)
    text = b"".join(chunks).decode()
    assert "kNN [31.0] %" in text
    final = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).strip().splitlines()[-1]
    final = final.split("\r")[-1]
    assert len(final) <= columns
    assert final.startswith("pretrain [x] ━") and "100%" in final
    assert "epoch 2/2, loss 2.1250," in final and "images/s, 0:00:00 left" in final
