"""The training loop on a toy that depends on data, random keys and schedule."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.process.sharding import make_mesh, replicate
from smallvit_jax.training import loop
from smallvit_jax.training.placement import make_source

STEPS_PER_EPOCH, EPOCHS = 4, 5
TOTAL = STEPS_PER_EPOCH * EPOCHS
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (21, 4, 4, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 3, 21).astype(np.int32)
SCHEDULE = {
    "learning_rate": np.linspace(0.1, 0.01, TOTAL),
    "frozen": np.arange(TOTAL) < STEPS_PER_EPOCH,
}


class ToyState(NamedTuple):
    step: jax.Array
    weight: jax.Array


def toy_state() -> ToyState:
    return replicate(ToyState(jnp.zeros((), jnp.int32), jnp.linspace(-1, 1, 48)), make_mesh())


def toy_step(state, images, labels, key, schedule):
    noise = jax.random.normal(key, (48,))
    seen = (images.reshape(len(labels), -1) / 255 * (1 + labels[:, None])).mean(axis=0)
    move = jnp.where(schedule["frozen"], 0.5, 1.0) * (jnp.tanh(state.weight * seen) + noise)
    weight = state.weight - schedule["learning_rate"] * move
    metrics = {"loss": jnp.sum(weight**2), "label_mean": labels.mean()}
    return ToyState(state.step + 1, weight), metrics


class Record:
    """What training reported, as numpy values, in order."""

    def __init__(self, stop_after=None):
        self.rows = {}
        self.calls = []
        self.saved = {}
        self.blocks = 0
        self.stop_after = stop_after

    def should_stop(self):
        self.blocks += 1
        return self.stop_after is not None and self.blocks > self.stop_after

    def on_metrics(self, first, rows):
        for i, step in enumerate(range(first, first + len(rows["loss"]))):
            assert step not in self.rows
            self.rows[step] = {name: values[i].item() for name, values in rows.items()}
        self.calls.append(("metrics", first + len(rows["loss"])))

    def on_epoch_end(self, epochs, state):
        self.calls.append(("epoch", epochs * STEPS_PER_EPOCH))
        assert int(state.step) == epochs * STEPS_PER_EPOCH

    def save(self, step, state):
        self.calls.append(("save", step))
        self.saved[step] = jax.device_get(state)


def train_toy(
    step_function=toy_step,
    state=None,
    steps_per_dispatch=3,
    checkpoint_every=7,
    placement="device",
    profile=None,
    record=None,
):
    record = Record() if record is None else record
    order = BatchOrder(len(IMAGES), 5, seed=0)
    assert order.steps_per_epoch == STEPS_PER_EPOCH
    with make_source(IMAGES, LABELS, order, make_mesh(), placement, steps_per_dispatch) as source:
        final = loop.train(
            step_function,
            toy_state() if state is None else state,
            source=source,
            schedule=SCHEDULE,
            key=jax.random.key(3),
            steps_per_epoch=STEPS_PER_EPOCH,
            steps_per_dispatch=steps_per_dispatch,
            checkpoint_every=checkpoint_every,
            listener=record,
            profile=profile,
        )
        record.final = jax.device_get(final)
    return record


@pytest.fixture(scope="module")
def baseline():
    return train_toy()


@given(
    start=st.integers(0, 60),
    total=st.integers(0, 60),
    most=st.integers(1, 20),
    boundaries=st.lists(st.integers(1, 25), min_size=1, max_size=3).map(tuple),
)
def test_blocks_cover_all_steps_and_cross_no_boundary(start, total, most, boundaries):
    blocks = list(loop._blocks(start, total, most, boundaries))
    steps = [step for first, count in blocks for step in range(first, first + count)]
    assert steps == list(range(start, total))
    for first, count in blocks:
        assert 1 <= count <= most
        for boundary in boundaries:
            assert first // boundary == (first + count - 1) // boundary


def test_steps_match_a_plain_loop(baseline):
    order, state, key = BatchOrder(len(IMAGES), 5, seed=0), toy_state(), jax.random.key(3)
    for step in range(TOTAL):
        chosen = order.indices(step)
        row = {name: jnp.asarray(values[step]) for name, values in SCHEDULE.items()}
        step_key = jax.random.fold_in(key, step)
        state, metrics = toy_step(state, IMAGES[chosen], LABELS[chosen], step_key, row)
        assert baseline.rows[step]["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-5)
        assert baseline.rows[step]["label_mean"] == pytest.approx(LABELS[chosen].mean())
    np.testing.assert_allclose(baseline.final.weight, state.weight, rtol=1e-5, atol=1e-6)
    assert baseline.final.step == TOTAL


@settings(max_examples=6, deadline=None)
@given(
    steps_per_dispatch=st.sampled_from([1, 2, 5, 50]),
    checkpoint_every=st.integers(1, 30),
    placement=st.sampled_from(["device", "host"]),
)
def test_grouping_and_placement_of_steps_are_bit_exact(
    baseline, steps_per_dispatch, checkpoint_every, placement
):
    other = train_toy(
        steps_per_dispatch=steps_per_dispatch,
        checkpoint_every=checkpoint_every,
        placement=placement,
    )
    assert other.rows == baseline.rows
    np.testing.assert_array_equal(other.final.weight, baseline.final.weight)


@pytest.mark.parametrize("step", [7, 14])
def test_restart_is_bit_exact(baseline, step):
    again = train_toy(state=replicate(baseline.saved[step], make_mesh()))
    assert again.rows == {s: row for s, row in baseline.rows.items() if s >= step}
    np.testing.assert_array_equal(again.final.weight, baseline.final.weight)
    assert list(again.saved) == [s for s in baseline.saved if s > step]


@pytest.mark.parametrize("placement", ["device", "host"])
@pytest.mark.parametrize("blocks", [0, 1, 2, 4, 8])
def test_stop_after_any_block_saves_and_resumes_bit_exactly(baseline, blocks, placement):
    stopped = train_toy(record=Record(stop_after=blocks), placement=placement)
    ends = [first + count for first, count in loop._blocks(0, TOTAL, 3, (STEPS_PER_EPOCH, 7))]
    done = ends[blocks - 1] if blocks else 0
    assert stopped.final.step == done < TOTAL
    assert list(stopped.rows) == list(range(done))
    assert done == 0 or stopped.saved[done].step == done
    assert list(stopped.saved) == sorted({s for s in (7, 14) if s <= done} | ({done} - {0}))
    rest = train_toy(state=replicate(stopped.final, make_mesh()), placement=placement)
    assert stopped.rows | rest.rows == baseline.rows
    np.testing.assert_array_equal(rest.final.weight, baseline.final.weight)


def test_finished_run_takes_no_step(baseline):
    again = train_toy(state=replicate(baseline.final, make_mesh()))
    assert not again.calls
    np.testing.assert_array_equal(again.final.weight, baseline.final.weight)


def test_events_are_in_order_and_metrics_come_first(baseline):
    assert list(baseline.rows) == list(range(TOTAL))
    assert list(baseline.saved) == [7, 14, 20]
    for (_, step), (_, next_step) in itertools.pairwise(baseline.calls):
        assert step <= next_step
    for kind, step in baseline.calls:
        if kind != "metrics":
            seen = baseline.calls[: baseline.calls.index((kind, step))]
            assert ("metrics", step) in seen
    assert [step for kind, step in baseline.calls if kind == "epoch"] == [4, 8, 12, 16, 20]
    for step, state in baseline.saved.items():
        assert state.step == step


def test_blocks_of_every_length_share_one_program(monkeypatch):
    programs = []

    def compile_block(*args):
        programs.append(loop_compile_block(*args))
        return programs[-1]

    loop_compile_block = loop.compile_block
    monkeypatch.setattr(loop, "compile_block", compile_block)
    lengths = [count for _, count in loop._blocks(0, TOTAL, 3, (STEPS_PER_EPOCH, 7))]
    assert set(lengths) == {1, 2, 3}
    train_toy()
    assert [program._cache_size() for program in programs] == [1]


@pytest.mark.parametrize("bad_step", [1, 6, 8, 13, 20])
def test_divergence_names_the_step_and_saves_nothing_later(bad_step):
    """Steps count from 1, as in metrics.jsonl; after a bad step everything is NaN."""

    def step_function(state, *rest):
        state, metrics = toy_step(state, *rest)
        bad = state.step >= bad_step
        weight = jnp.where(bad, jnp.nan, state.weight)
        return ToyState(state.step, weight), {"loss": jnp.where(bad, jnp.nan, metrics["loss"])}

    record = Record()
    epoch = (bad_step - 1) // STEPS_PER_EPOCH + 1
    message = rf"loss became nan at step {bad_step} \(epoch {epoch}\)"
    with pytest.raises(loop.TrainingDivergedError, match=message):
        train_toy(step_function, checkpoint_every=2, record=record)
    assert list(record.saved) == list(range(2, bad_step, 2))
    assert all(np.isfinite(state.weight).all() for state in record.saved.values())
    assert list(record.rows) == list(range(bad_step))  # the bad step itself is reported too
    assert [np.isfinite(row["loss"]) for row in record.rows.values()] == [True] * (bad_step - 1) + [
        False
    ]


def test_profiling_writes_a_trace_and_is_bit_exact(baseline, tmp_path):
    profiled = train_toy(profile=(tmp_path / "profile", 4))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    np.testing.assert_array_equal(profiled.final.weight, baseline.final.weight)
