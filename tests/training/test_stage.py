"""A stage in its folder, on a toy that trains in milliseconds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.data.placement import make_source
from smallvit_jax.training import stage as stages
from smallvit_jax.training.checkpoints import CheckpointStore, read_params_and_meta
from smallvit_jax.training.sharding import make_mesh, replicate
from tests.tiny_jobs import checkpoint_steps, read_metrics

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


def run_toy(folder, evaluate=lambda epochs, state: {}, checkpoint_every=6, **more):
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
                step_function=toy_step,
                schedule={"learning_rate": np.linspace(1, 0.1, TOTAL)},
                steps_per_epoch=STEPS_PER_EPOCH,
                batch_size=5,
                params_of=lambda state: {"weight": state.weight},
                meta={"model": {"name": "toy", "image_size": 2}, "kind": "toy"},
                evaluate=evaluate,
                **more,
            ),
            replicate(state, make_mesh()),
            source,
            jax.random.key(1),
            steps_per_dispatch=3,
            checkpoint_every=checkpoint_every,
        )


def figures(epochs, state):
    return {"test": {"top1": float(jnp.abs(state.weight).sum())}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage") / "whole"
    return folder, run_toy(folder, figures)


def test_what_a_stage_leaves_behind(whole):
    folder, outcome = whole
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


@pytest.mark.parametrize("stop_at", [0, 3, 5])
def test_a_stage_that_was_stopped_continues_bit_for_bit(whole, tmp_path, stop_at):
    """Stopped in an evaluation, before what it found was written."""

    def stop(epochs, state):
        if epochs == stop_at:
            raise KeyboardInterrupt
        return figures(epochs, state)

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, stop)
    due = [step for step in (6, 12, 18) if step < stop_at * STEPS_PER_EPOCH]
    assert checkpoint_steps(tmp_path) == due[-2:]
    outcome = run_toy(tmp_path, figures)
    folder, expected = whole
    assert (tmp_path / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    np.testing.assert_array_equal(outcome.state.weight, expected.state.weight)
    assert outcome.evaluations == expected.evaluations


def test_a_finished_stage_run_again_takes_no_step(whole, tmp_path):
    first = run_toy(tmp_path, figures)
    again = run_toy(tmp_path, lambda epochs, state: pytest.fail("evaluated"))
    np.testing.assert_array_equal(again.state.weight, first.state.weight)
    assert again.evaluations == first.evaluations and again.last_metrics == first.last_metrics


@pytest.mark.parametrize(
    ("accuracies", "best_epoch", "stop_at"),
    [([1, 3, 9, 2, 4], 3, None), ([5, 9, 9, 1, 1], 3, 4), ([9, 1, 1, 1, 1], 1, 3)],
)
def test_the_best_epoch_keeps_its_checkpoint_also_after_a_stop(
    tmp_path, accuracies, best_epoch, stop_at
):
    """Whatever `checkpoint_every` is; of equals the newest."""
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


def test_a_warning_about_an_epoch_is_shown_once_until_it_was_gone(tmp_path, capsys):
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


def test_lines_are_on_disk_before_the_checkpoint_that_follows_them(tmp_path, monkeypatch):
    """Whatever the moment of a kill, no checkpoint is ahead of the metrics."""
    lines = {}
    save = CheckpointStore.save

    def save_and_look(self, step, *args):
        lines[step] = [row["step"] for row in read_metrics(tmp_path, "train")]
        save(self, step, *args)

    monkeypatch.setattr(CheckpointStore, "save", save_and_look)
    run_toy(tmp_path)
    assert lines == {step: list(range(1, step + 1)) for step in (6, 12, 18, 20)}
