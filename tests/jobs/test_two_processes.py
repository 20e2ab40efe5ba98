"""Two real processes of one run on this machine: one training, together from start to end."""

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
    "finetune__augment__policy": "none",
    "finetune__optimizer__name": "sgd",
    "finetune__optimizer__lr": 0.05,
    "runtime__steps_per_dispatch": 2,
    "runtime__checkpoint_every": 2,
}
SECONDS_UNTIL_THE_OTHER_ENDS = 60  # after a kill; docs/many_devices.md promises 40


def start_two(job, workdir) -> list[subprocess.Popen[str]]:
    """Starts a job as two processes with one device each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    return [start_job(job, workdir, process=(address, 2, number), **CHANGES) for number in (0, 1)]


def finish_all(processes) -> list[str]:
    """What each wrote to stderr, once all have ended well."""
    try:
        return [finish(process, timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()


def run_both_ways(job, folder) -> list[str]:
    """As one process with two devices and as two with one each; what the three wrote to stderr."""
    one = start_job(job, folder / "one", devices=2, **CHANGES)
    return finish_all([one, *start_two(job, folder / "two")])


def check_metrics(one, two) -> None:
    """Two summands have the same sum in either order: only how it is compiled may differ."""
    expected, found = read_metrics(one), read_metrics(two)
    assert len(found) == len(expected) > 6
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys() and a["split"] == b["split"]
        for name in a.keys() - {"split", "top1", "top5"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6), (a["step"], name)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """The folder of a fine-tuning done both ways, and what the processes wrote."""
    folder = tmp_path_factory.mktemp("finetune")
    return folder, run_both_ways("finetune", folder)


def test_the_metrics_are_those_of_one_process(finetuned):
    folder, _ = finetuned
    check_metrics(folder / "one", folder / "two")


def test_only_the_first_process_speaks_and_writes(finetuned):
    folder, (_, first, second) = finetuned
    assert "training from scratch: step" in first and second == ""
    assert len(list((folder / "two").glob("events.out.tfevents.*"))) == 1
    environment = read_json(folder / "two" / "result.json")["environment"]
    assert (environment["process_count"], environment["device_count"]) == (2, 2)


def test_one_process_restores_what_two_have_saved(finetuned, tmp_path):
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
def test_a_recipe_is_the_same_and_outlives_kills(tmp_path):
    """Killed are first the second process, then the first; the end is as if nothing had been."""
    run_both_ways("recipe", tmp_path)
    whole, cut = tmp_path / "two", tmp_path / "cut"
    for stage in ("pretrain", "finetune"):
        check_metrics(tmp_path / "one" / stage, whole / stage)
    for killed in (1, 0):
        processes = start_two("recipe", cut)
        try:
            wait_for_a_new_checkpoint(processes, cut / "pretrain")
            processes[killed].kill()
            code = processes[1 - killed].wait(SECONDS_UNTIL_THE_OTHER_ENDS)
        finally:
            for process in processes:
                process.kill()
        assert code in (75, -6)  # our sentence, or JAX's own watchdog
    first, _ = finish_all(start_two("recipe", cut))
    assert "resuming after step" in first
    for stage in ("pretrain", "finetune"):
        logs = [(run / stage / "metrics.jsonl").read_text() for run in (cut, whole)]
        assert logs[0] == logs[1]
        digests = [read_checkpoint(run / stage)[1]["arrays"] for run in (cut, whole)]
        assert digests[0] == digests[1]


def wait_for_a_new_checkpoint(processes, stage, timeout=240) -> None:
    """Returns once there is a newer one than at first."""

    def newest():
        return max(checkpoint_steps(stage), default=0) if (stage / "checkpoints").exists() else 0

    before, deadline = newest(), time.monotonic() + timeout
    while time.monotonic() < deadline and all(p.poll() is None for p in processes):
        if newest() > before:
            return
        time.sleep(0.01)
    raise AssertionError([process.communicate() for process in processes])
