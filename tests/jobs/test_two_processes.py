"""One run in two real processes on this machine, from start to end."""

import socket
import subprocess
import time

import numpy as np
import pytest

from tests.support.tiny_jobs import (
    checkpoint_steps,
    finish,
    read_checkpoint,
    read_json,
    read_metrics,
    run_job,
    start_job,
)

pytestmark = pytest.mark.multiprocess

CHANGES = {
    "pretrain__epochs": 4,
    "pretrain__knn_every": 4,
    "pretrain__optimizer__name": "sgd",  # see test_sharding.py
    "pretrain__optimizer__base_lr": 0.1,
    "finetune__head_init": "probe",
    "finetune__augment__policy": "none",
    "finetune__optimizer__name": "sgd",
    "finetune__optimizer__lr": 0.05,
    "runtime__steps_per_dispatch": 2,
    "runtime__checkpoint_every": 2,
}
SECONDS_UNTIL_THE_OTHER_EXITS = 60  # after a kill; docs/many_devices.md promises 40


def start_two(job, workdir) -> list[subprocess.Popen[str]]:
    """Starts a job as two processes with one device each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [start_job(job, workdir, process=(address, 2, number), **CHANGES) for number in (0, 1)]


def finish_all(processes) -> list[str]:
    """Waits for all to succeed and returns what each wrote to stderr."""
    try:
        return [finish(process, timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()


def run_both_ways(job, folder) -> list[str]:
    """Runs one process with two devices and two with one each; returns the stderr of all three."""
    one = start_job(job, folder / "one", devices=2, **CHANGES)
    return finish_all([one, *start_two(job, folder / "two")])


def check_metrics(one, two) -> None:
    """A sum of two terms does not depend on their order, so only compilation causes differences."""
    expected, found = read_metrics(one), read_metrics(two)
    assert len(found) == len(expected) > 6
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys() and a["split"] == b["split"]
        for name in a.keys() - {"split", "top1", "top5"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6), (a["step"], name)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """The folder of a fine-tuning run both ways, and what the processes wrote to stderr."""
    folder = tmp_path_factory.mktemp("finetune")
    return folder, run_both_ways("finetune", folder)


def test_metrics_match_a_single_process(finetuned):
    folder, _ = finetuned
    check_metrics(folder / "one", folder / "two")


def test_only_the_first_process_prints_and_writes(finetuned):
    folder, (_, first, second) = finetuned
    assert "training from scratch: step" in first and second == ""
    assert len(list((folder / "two").glob("events.out.tfevents.*"))) == 1
    environment = read_json(folder / "two" / "result.json")["environment"]
    assert (environment["process_count"], environment["device_count"]) == (2, 2)


def test_one_process_restores_a_checkpoint_of_two(finetuned, tmp_path):
    folder, _ = finetuned
    expected, found = (read_checkpoint(folder / name)[0] for name in ("one", "two"))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    changes = {"evaluate__checkpoint": folder / "two"}
    assert run_job("evaluate", tmp_path, **changes) == 0
    together = read_json(folder / "two" / "result.json")
    assert read_json(tmp_path / "result.json")["test_loss"] == pytest.approx(
        together["test_loss"], rel=1e-5
    )


@pytest.mark.slow
def test_recipe_matches_and_survives_kills(tmp_path):
    """The second process is killed, then the first; metrics and weights end up identical."""
    run_both_ways("recipe", tmp_path)
    undisturbed, killed_run = tmp_path / "two", tmp_path / "killed"
    for stage in ("pretrain", "finetune"):
        check_metrics(tmp_path / "one" / stage, undisturbed / stage)
    for killed in (1, 0):
        processes = start_two("recipe", killed_run)
        try:
            wait_for_new_checkpoint(processes, killed_run / "pretrain")
            processes[killed].kill()
            code = processes[1 - killed].wait(SECONDS_UNTIL_THE_OTHER_EXITS)
        finally:
            for process in processes:
                process.kill()
        assert code in (75, -6)  # our own error, or JAX's watchdog
    first, _ = finish_all(start_two("recipe", killed_run))
    assert "resuming after step" in first
    for stage in ("pretrain", "finetune"):
        logs = [(run / stage / "metrics.jsonl").read_text() for run in (killed_run, undisturbed)]
        assert logs[0] == logs[1]
        digests = [read_checkpoint(run / stage)[1]["arrays"] for run in (killed_run, undisturbed)]
        assert digests[0] == digests[1]


def wait_for_new_checkpoint(processes, stage, timeout=240) -> None:
    """Waits until a newer checkpoint appears."""

    def newest():
        return max(checkpoint_steps(stage), default=0) if (stage / "checkpoints").exists() else 0

    before, deadline = newest(), time.monotonic() + timeout
    while time.monotonic() < deadline and all(p.poll() is None for p in processes):
        if newest() > before:
            return
        time.sleep(0.01)
    raise AssertionError([process.communicate() for process in processes])
