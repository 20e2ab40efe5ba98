"""Summaries of repeated timings."""

import threading
import time

import pytest

from benchmarks.loop_turns import take_turns
from benchmarks.timing import interleaved_rates, summarize, summarize_ratio


def test_summary_has_median_and_spread():
    summary = summarize([10.0, 12.0, 11.0])
    assert (summary["best"], summary["median"], summary["repeats"]) == (12.0, 11.0, 3)
    assert summary["spread"] == pytest.approx(2 / 11, abs=1e-4)


def test_ratio_of_medians_has_extremes_of_adjacent_rates():
    found = summarize_ratio([10, 20, 30], [10, 10, 20])
    assert found == {"ratio": 2.0, "lowest": 1.0, "highest": 2.0}


def test_runs_are_measured_in_turns():
    order = []

    def run(name):
        def steps(count):
            order.append(name)
            time.sleep(0.002 * count)

        return steps

    rates = interleaved_rates({"a": run("a"), "b": run("b")}, 4, 0.002, 3)
    assert "".join(order).endswith("ababab")
    assert rates["a"]["repeats"] == rates["b"]["repeats"] == 3
    assert rates["a"]["best"] <= 4 / 0.002


def test_contenders_alternate_and_the_first_turn_is_dropped():
    log, busy = [], threading.Lock()

    def contender(name):
        def work(turn):
            turn()
            for number in range(3):
                assert busy.acquire(blocking=False)
                log.append((name, number))
                busy.release()
                turn()

        return work

    seconds = take_turns({"a": contender("a"), "b": contender("b")})
    assert log == [(name, number) for number in range(3) for name in "ab"]
    assert {name: len(turns) for name, turns in seconds.items()} == {"a": 2, "b": 2}


def test_failing_contender_ends_the_others():
    def fails(turn):
        turn()
        raise ZeroDivisionError

    def waits(turn):
        for _ in range(5):
            turn()

    with pytest.raises(ZeroDivisionError):
        take_turns({"a": waits, "b": fails})
