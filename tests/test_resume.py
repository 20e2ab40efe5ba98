"""Real processes, killed in the middle of an epoch and started again."""

import signal
import time

import pytest

from tests.tiny_jobs import checkpoint_steps, finish, read_checkpoint, start_job

pytestmark = pytest.mark.multiprocess

STEPS_PER_EPOCH = 12  # 144 images in batches of 12
CHANGES = {
    "pretrain": {"pretrain__epochs": 6, "pretrain__batch_size": 12, "pretrain__knn_every": 0},
    "finetune": {"finetune__epochs": 6, "finetune__batch_size": 12},
}
KILL_AFTER = 14  # steps


def wait_for_a_checkpoint(process, folder, timeout=240) -> bool:
    """Returns True as soon as one after `KILL_AFTER` steps is finished, False if that fails."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        finished = list(folder.glob("checkpoints/*/_CHECKPOINT_METADATA"))
        if any(path.parent.name.isdecimal() for path in finished) and (
            checkpoint_steps(folder)[-1] >= KILL_AFTER
        ):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("job", CHANGES)
def test_a_killed_run_continues_bit_for_bit(tmp_path, compilation_cache, job):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = CHANGES[job] | {"runtime__checkpoint_every": 5}
    first = start_job(job, killed, compilation_cache, **settings)
    try:
        in_time = wait_for_a_checkpoint(first, killed)
    finally:
        first.kill()  # SIGKILL: it gets no chance to tidy up
        _, errors = first.communicate()
    assert in_time and first.returncode == -signal.SIGKILL, errors
    steps = checkpoint_steps(killed)
    assert steps[-1] % STEPS_PER_EPOCH and not (killed / "result.json").exists()
    assert (killed / "metrics.jsonl").read_text()

    other = start_job(job, whole, compilation_cache, **settings)
    message = finish(start_job(job, killed, compilation_cache, **settings))
    finish(other)
    assert "continuing after step" in message
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    ours, theirs = (read_checkpoint(folder)[1] for folder in (killed, whole))
    assert ours["step"] == theirs["step"] == 6 * STEPS_PER_EPOCH
    assert ours["arrays"] == theirs["arrays"]  # digests of state and params
