"""A training stage in its folder, on a toy that trains in milliseconds."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.checkpoints.store import CheckpointStore, read_params_and_meta
from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.errors import UserError
from smallvit_jax.process.sharding import make_mesh, replicate
from smallvit_jax.training import stage as stages
from smallvit_jax.training.loop import TrainingDivergedError
from smallvit_jax.training.placement import make_source
from tests.support.tiny_jobs import checkpoint_steps, read_metrics

STEPS_PER_EPOCH, EPOCHS = 4, 5
TOTAL = STEPS_PER_EPOCH * EPOCHS
IMAGES = np.random.default_rng(0).integers(0, 256, (21, 2, 2, 3), dtype=np.uint8)
CONFIG = {"seed": 0, "toy": {"size": 12}, "runtime": {"checkpoint_every": 6}}


class ToyState(NamedTuple):
    step: jax.Array
    weight: jax.Array


def toy_step(state, images, labels, key, schedule):
    seen = images.reshape(len(labels), -1).mean(axis=0) / 255 + jax.random.normal(key, (12,))
    weight = 0.9 * state.weight + schedule["learning_rate"] * seen
    return ToyState(state.step + 1, weight), {"loss": jnp.sum(weight**2), "constant": 7.0}


def run_toy(
    folder,
    evaluate=lambda epochs, state: {},
    checkpoint_every=6,
    step_function=toy_step,
    classes=0,
    **more,
):
    order = BatchOrder(len(IMAGES), 5, seed=0)
    state = ToyState(jnp.zeros((), jnp.int32), jnp.ones(12))
    with make_source(
        IMAGES, np.zeros(len(IMAGES), np.int32), order, make_mesh(), "device", 3
    ) as source:
        return stages.run_stage(
            stages.Stage(
                folder=folder,
                description="toy",
                config=CONFIG,
                step_function=step_function,
                schedule={"learning_rate": np.linspace(1, 0.1, TOTAL)},
                steps_per_epoch=STEPS_PER_EPOCH,
                batch_size=5,
                params_of=lambda state: {"weight": state.weight},
                meta={
                    "model": {"name": "vit", "image_size": 32, "num_classes": classes},
                    "kind": "toy",
                },
                evaluate=evaluate,
                **more,
            ),
            replicate(state, make_mesh()),
            source,
            jax.random.key(1),
            steps_per_dispatch=3,
            checkpoint_every=checkpoint_every,
        )


def toy_metrics(epochs, state):
    return {"test": {"top1": float(jnp.abs(state.weight).sum())}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage") / "uninterrupted"
    return folder, run_toy(folder, toy_metrics)


def test_stage_writes_metrics_and_checkpoints(uninterrupted):
    folder, outcome = uninterrupted
    train = read_metrics(folder, "train")
    assert [row["step"] for row in train] == list(range(1, TOTAL + 1))
    assert [row["learning_rate"] for row in train] == pytest.approx(np.linspace(1, 0.1, TOTAL))
    assert {row["constant"] for row in train} == {7.0}
    assert outcome.last_metrics == train[-1]
    assert [row["epoch"] for row in outcome.evaluations] == list(range(EPOCHS + 1))
    assert outcome.evaluations == read_metrics(folder, "test")
    assert checkpoint_steps(folder) == [18, 20]
    params, meta = read_params_and_meta(folder)
    np.testing.assert_array_equal(params["weight"], outcome.state.weight)
    assert (meta["kind"], meta["step"]) == ("toy", TOTAL)


@pytest.mark.parametrize(("classes", "what"), [(0, "backbone"), (10, "model")])
def test_new_stage_prints_its_parameters(tmp_path, capsys, classes, what):
    run_toy(tmp_path, classes=classes)
    shown = capsys.readouterr().err.partition(f"\nParameters of the {what}:\n+--")[2]
    assert f"Total: {2_695_680 + classes * 193:,} " in shown


def test_evaluations_lost_from_the_log_are_repeated(uninterrupted, tmp_path):
    """The last line is the evaluation before the newest checkpoint."""
    folder, outcome = shutil.copytree(uninterrupted[0], tmp_path / "again"), uninterrupted[1]
    log = folder / "metrics.jsonl"
    text = log.read_text()
    log.write_text(text[:-20])
    with pytest.warns(UserWarning, match="lines of step 20 are lost"):
        assert run_toy(folder, toy_metrics).evaluations == outcome.evaluations
    assert log.read_text() == text


def test_log_without_steps_gets_one_sentence(uninterrupted, tmp_path):
    folder = shutil.copytree(uninterrupted[0], tmp_path / "again")
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl has lost every step of this run; restore"):
        run_toy(folder, toy_metrics)


@pytest.mark.parametrize("stop_at", [0, 3, 5])
def test_stopped_stage_resumes_bit_exactly(uninterrupted, tmp_path, stop_at):
    """Stopped during an evaluation, before its metrics were written."""

    def stop(epochs, state):
        if epochs == stop_at:
            raise KeyboardInterrupt
        return toy_metrics(epochs, state)

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, stop)
    due = [step for step in (6, 12, 18) if step < stop_at * STEPS_PER_EPOCH]
    assert checkpoint_steps(tmp_path) == due[-2:]
    outcome = run_toy(tmp_path, toy_metrics)
    folder, expected = uninterrupted
    assert (tmp_path / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    np.testing.assert_array_equal(outcome.state.weight, expected.state.weight)
    assert outcome.evaluations == expected.evaluations


@pytest.mark.parametrize(
    ("signum", "stop_at"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 2), (signal.SIGTERM, 3), (signal.SIGTERM, EPOCHS)],
)
def test_signal_saves_progress_and_resumes_bit_exactly(
    uninterrupted, tmp_path, signum, stop_at, capsys
):
    """Sent during an evaluation; after epoch 3 and at the end a checkpoint is due anyway."""

    def stop(epochs, state):
        if epochs == stop_at:
            signal.raise_signal(signum)
        return toy_metrics(epochs, state)

    before = signal.getsignal(signum)
    with pytest.raises(KeyboardInterrupt) as caught, _default_handlers(signum):
        run_toy(tmp_path, stop)
    assert signal.getsignal(signum) == before
    done = stop_at * STEPS_PER_EPOCH
    assert f"{signum.name}: finishing these steps" in capsys.readouterr().err
    if stop_at < EPOCHS:
        assert caught.value.signum == signum
        expected = f"step {done} of {TOTAL}, which is saved" if done else "no step was finished"
        assert expected in str(caught.value)
    assert [step for step in checkpoint_steps(tmp_path) if step == done] == [done] * (done > 0)
    outcome = run_toy(tmp_path, toy_metrics)
    folder, expected = uninterrupted
    assert (tmp_path / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    np.testing.assert_array_equal(outcome.state.weight, expected.state.weight)


@contextlib.contextmanager
def _default_handlers(signum):
    """Installs Python's default SIGINT handler, so that a late signal raises as well."""
    before = signal.signal(signum, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signum, before)


def test_infinite_weights_are_not_saved(tmp_path):
    """The loss of step 12 is finite, but the weights after it are not."""

    def overflow(state, *rest):
        state, metrics = toy_step(state, *rest)
        return state._replace(weight=jnp.where(state.step == 12, jnp.inf, state.weight)), metrics

    message = r"state after the update \(weight\) became infinite .* at step 12 \(epoch 3\)"
    with pytest.raises(TrainingDivergedError, match=message):
        run_toy(tmp_path, step_function=overflow)
    assert checkpoint_steps(tmp_path) == [6]
    assert read_metrics(tmp_path, "train")[-1]["step"] == 12


LIVE = """
    import sys, time
    from pathlib import Path
    from smallvit_jax.workdir.ownership import locked

    with locked(Path(sys.argv[1])):
        print("locked", flush=True)
        time.sleep(600)
"""


def test_folder_in_use_is_refused_until_its_run_is_killed(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(LIVE), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        words = rf"{tmp_path} is in use by another run \(process {process.pid} on .*another --work"
        with pytest.raises(UserError, match=words):
            run_toy(tmp_path)
        assert os.listdir(tmp_path) == [".lock"]
    finally:
        process.kill()
        process.wait()
    run_toy(tmp_path)
    run_toy(tmp_path)  # a finished run releases the folder


SMALL_DISK = """
    import os, sys, time
    from pathlib import Path
    from smallvit_jax.errors import UserError
    from tests.training.test_stage import checkpoint_steps, fill, run_toy, toy_metrics

    folder = Path(sys.argv[1])
    def evaluate(epochs, state):
        if epochs == 3:
            while not (folder / "run/checkpoints/6").is_dir():  # it is written in the background
                time.sleep(0.01)
            fill(folder / "ballast")
        return toy_metrics(epochs, state)
    try:
        run_toy(folder / "run", evaluate)
    except UserError as error:
        print(error)
    print(checkpoint_steps(folder / "run"))
    os.remove(folder / "ballast")
    run_toy(folder / "run", toy_metrics)
    print((folder / "run/metrics.jsonl").read_text() == Path(sys.argv[2]).read_text())
"""


def fill(path):
    """Writes a file until the disk is full."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            return


def on_a_file_system(folder, options, code, *words):
    """Runs code in a user namespace where a small file system is mounted at the folder."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    probe = ["unshare", "-rm", *mount]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    script = f'{" ".join(mount)} && exec "$@"'
    python = [sys.executable, "-c", textwrap.dedent(code), str(folder), *map(str, words)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *python],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "TMPDIR": "/tmp"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_full_disk_keeps_and_names_the_last_good_checkpoint(uninterrupted, tmp_path):
    sentence, steps, same = on_a_file_system(
        tmp_path, "size=2m", SMALL_DISK, uninterrupted[0] / "metrics.jsonl"
    )
    assert sentence.startswith(f"the disk holding {tmp_path}/run/")
    assert "is full; free space and run the same command again; the last good chec" in sentence
    assert sentence.endswith("step 6") and steps == "[6]"
    assert same == "True"


READ_ONLY = """
    import sys
    from pathlib import Path
    from smallvit_jax.errors import UserError
    from tests.training.test_stage import run_toy

    for folder in (Path(sys.argv[1]), Path(sys.argv[1]) / "run"):
        try:
            run_toy(folder)
        except UserError as error:
            print(error)
"""


def test_read_only_workdir_gets_one_sentence(tmp_path):
    lines = on_a_file_system(tmp_path, "size=1m,ro", READ_ONLY)
    assert len(lines) == 2
    for line, folder in zip(lines, (tmp_path, tmp_path / "run"), strict=True):
        assert line.startswith(f"{folder} cannot be written (")
        assert line.endswith("choose a writable --workdir")


def test_finished_stage_takes_no_further_step(uninterrupted, tmp_path):
    first = run_toy(tmp_path, toy_metrics)
    again = run_toy(tmp_path, lambda epochs, state: pytest.fail("evaluated"))
    np.testing.assert_array_equal(again.state.weight, first.state.weight)
    assert again.evaluations == first.evaluations and again.last_metrics == first.last_metrics


@pytest.mark.parametrize(
    ("accuracies", "best_epoch", "stop_at"),
    [([1, 3, 9, 2, 4], 3, None), ([5, 9, 9, 1, 1], 3, 4), ([9, 1, 1, 1, 1], 1, 3)],
)
def test_best_checkpoint_is_kept_across_a_stop(tmp_path, accuracies, best_epoch, stop_at):
    """For any `checkpoint_every`; the newest of equally good epochs counts."""
    seen = {}

    def evaluate(epochs, state):
        if epochs == 0:
            return {}
        if epochs == stop_at and stop_at not in seen:
            seen[stop_at] = None
            raise KeyboardInterrupt
        seen[epochs] = jax.device_get(state.weight)
        return {"validation": {"top1": float(accuracies[epochs - 1])}, "test": {"top1": 0.0}}

    settings = {"best_split": "validation", "checkpoint_every": 7}
    if stop_at:
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path, evaluate, **settings)
    run_toy(tmp_path, evaluate, **settings)
    params, meta = read_params_and_meta(tmp_path, "best")
    assert meta["step"] == best_epoch * STEPS_PER_EPOCH
    np.testing.assert_array_equal(params["weight"], seen[best_epoch])
    assert read_params_and_meta(tmp_path)[1]["step"] == TOTAL
    assert len(checkpoint_steps(tmp_path)) <= 3


def test_epoch_warning_is_repeated_only_after_a_good_epoch(tmp_path, capsys):
    means = []

    def warn_about(epoch_means):
        means.append(epoch_means)
        return None if len(means) == 3 else "it looks odd"

    run_toy(tmp_path, warn_about=warn_about)
    lines = capsys.readouterr().err.splitlines()
    assert [ln for ln in lines if "warning" in ln] == ["warning: it looks odd"] * 2
    losses = [row["loss"] for row in read_metrics(tmp_path, "train")]
    by_epoch = np.reshape(losses, (EPOCHS, STEPS_PER_EPOCH)).mean(axis=1)
    assert [m["loss"] for m in means] == pytest.approx(by_epoch)


def test_metrics_are_on_disk_before_their_checkpoint(tmp_path, monkeypatch):
    """Whenever a run is killed, no checkpoint is ahead of the metrics."""
    lines = {}
    save = CheckpointStore.save

    def save_and_look(self, step, *args):
        lines[step] = [row["step"] for row in read_metrics(tmp_path, "train")]
        save(self, step, *args)

    monkeypatch.setattr(CheckpointStore, "save", save_and_look)
    run_toy(tmp_path)
    assert lines == {step: list(range(1, step + 1)) for step in (6, 12, 18, 20)}
