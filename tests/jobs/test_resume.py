"""Real processes, killed or stopped, and started again: a short form of the kill campaign."""

import signal
import time

import pytest

from benchmarks.kill_campaign import SETTINGS, compare, look, run_case
from tests.support.tiny_jobs import finish, start_job

pytestmark = pytest.mark.multiprocess


def wait_until(reached, process, timeout=240) -> None:
    """Returns once it is so; fails if the process ends before."""
    deadline = time.monotonic() + timeout
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.005)


def test_a_killed_and_a_stopped_run_end_bit_for_bit_as_if_nothing_had_been(
    tmp_path, compilation_cache
):
    moments = [("writing a checkpoint", 0.002)]
    case = run_case("pretrain", "host", tmp_path, compilation_cache, moments)
    assert [kill["trigger"] for kill in case["kills"]] == ["writing a checkpoint"]
    assert case["differences"] == [] and case["arrays"] > 100

    stopped = tmp_path / "stopped"
    settings = SETTINGS | {"runtime__data_placement": "host"}
    process = start_job("pretrain", stopped, compilation_cache, **settings)
    wait_until(lambda: stopped.exists() and look(stopped).training, process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 143, errors
    last = errors.splitlines()[-1]
    assert last.startswith("error: interrupted by SIGTERM; stopped after step ")
    assert last.endswith("which is saved; the same command continues from the last checkpoint")
    assert "continuing after step" in finish(
        start_job("pretrain", stopped, compilation_cache, **settings)
    )
    assert compare(tmp_path / "whole", stopped) == []


@pytest.mark.slow
def test_a_recipe_killed_in_either_stage_ends_bit_for_bit_as_if_nothing_had_been(
    tmp_path, compilation_cache
):
    moments = [("evaluating", 0.0), ("after a stage", 0.3)]
    case = run_case("recipe", "device", tmp_path, compilation_cache, moments)
    assert [kill["trigger"] for kill in case["kills"]] == ["evaluating", "after a stage"]
    assert case["differences"] == [] and case["arrays"] > 150
