"""Measurements of a tiny model run, and their parts are consistent."""

import json

import jax
import numpy as np
import pytest

from benchmarks import measure
from benchmarks.training_steps import make_steps, unrolled_loops
from tests.benchmarks.tiny import TINY
from tests.support.reference_traces import quick_jit


@pytest.mark.slow
def test_job_takes_turns_with_its_step():
    found = measure.loop("vit", "pretrain", 4, "float32", duration=0.01, repeats=2, **TINY)
    assert found["steps_per_turn"] % 8 == 0
    rates = found["images_per_second"]
    assert {name: rate["repeats"] for name, rate in rates.items()} == {
        "step": 2,
        "device": 2,
        "host": 2,
    }
    expected = rates["device"]["median"] / rates["step"]["median"]
    assert abs(found["loop_share_of_step"]["ratio"] - expected) < 1e-3
    json.dumps(found)


def test_host_path_is_measured_in_whole_blocks(monkeypatch):
    calls = []
    make = measure.make_source

    def recording(images, *arguments):
        source = make(images, *arguments)
        monkeypatch.setattr(source, "block", lambda step, n: calls.append((step, n)) or np.zeros(1))
        return source

    monkeypatch.setattr(measure, "make_source", recording)
    monkeypatch.setattr(measure, "PHOTOGRAPHS", 16)
    found = measure.feed(batch=4, stored_size=8, duration=0.01, repeats=2)
    assert calls == [(8 * i, 8) for i in range(len(calls))]
    assert found["images_per_second"]["repeats"] == 2


@pytest.mark.slow
def test_complete_step_is_augmentation_and_update():
    steps = make_steps("vit", "pretrain", 2, "float32", **TINY)
    key = jax.random.key(3)
    view_key, drop_key = jax.random.split(key)
    whole = quick_jit(steps.complete)(steps.state, steps.images, steps.labels, key, steps.schedule)
    views = quick_jit(steps.augment)(steps.images, view_key)
    parts = quick_jit(steps.update)(steps.state, views, drop_key, steps.schedule)
    np.testing.assert_allclose(whole[1]["loss"], parts[1]["loss"], rtol=1e-5)


def test_unrolled_loops_compute_the_same():
    weights = jax.random.normal(jax.random.key(0), (5, 4, 4))

    def loop(x):
        return jax.lax.scan(lambda x, w: (x @ w, x.sum()), x, weights)

    def program(x):  # a new function each time, because JAX caches traces
        return str(jax.make_jaxpr(lambda x: loop(x))(x))

    x = jax.numpy.ones((2, 4))
    expected = loop(x)
    with unrolled_loops():
        assert "scan" not in program(x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), loop(x), expected)
    assert "scan" in program(x)
