"""Real processes that are killed or stopped, then restarted: a short kill campaign."""

import signal
import time

import pytest

from benchmarks.kill_campaign import SETTINGS, compare, kill_once, look, run_case
from tests.support.tiny_jobs import finish, start_job

pytestmark = pytest.mark.multiprocess


def wait_until(reached, process, timeout=240) -> None:
    """Waits until `reached()` is true; fails if the process ends first."""
    deadline = time.monotonic() + timeout
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.005)


def test_stopped_and_killed_run_resumes_to_identical_weights(tmp_path):
    """Stopped by SIGTERM, resumed, killed while it writes a checkpoint, and resumed again."""
    settings = SETTINGS | {"runtime__data_placement": "host"}
    run, uninterrupted = tmp_path / "run", tmp_path / "uninterrupted"
    process = start_job("pretrain", run, **settings)
    wait_until(lambda: run.exists() and look(run).training, process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 143, errors
    last = errors.splitlines()[-1]
    assert last.startswith("error: interrupted by SIGTERM; stopped after step ")
    assert last.endswith("which is saved; the same command resumes from the last checkpoint")

    process = start_job("pretrain", uninterrupted, **settings)
    try:
        seen = kill_once("pretrain", run, "writing a checkpoint", 0.002, **settings)
        assert seen is not None and not seen.results
        assert "resuming after step" in finish(start_job("pretrain", run, **settings))
        finish(process)
    finally:
        process.kill()
    assert compare(uninterrupted, run) == []


@pytest.mark.slow
def test_killed_recipe_resumes_to_identical_weights(tmp_path):
    moments = [("evaluating", 0.0), ("after a stage", 0.3)]
    case = run_case("recipe", "device", tmp_path, moments)
    assert [kill["trigger"] for kill in case["kills"]] == ["evaluating", "after a stage"]
    assert case["differences"] == [] and case["arrays"] > 150
