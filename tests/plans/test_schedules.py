"""Schedules of the default config against the reference's recorded values."""

import pytest

from smallvit_jax.config import default_config
from smallvit_jax.plans import finetuning, pretraining


def assert_equal_at(values, recorded):
    for step, value in recorded:
        if step < len(values):
            assert values[step] == pytest.approx(value, rel=1e-12, abs=1e-18), step


def test_pretraining(golden):
    recorded = golden("schedules")
    schedule = pretraining.make_schedule(default_config(), 97)
    assert_equal_at(schedule["learning_rate"], recorded["lr"]["values"])
    assert_equal_at(schedule["weight_decay"], recorded["weight_decay"]["values"])
    assert_equal_at(schedule["teacher_momentum"], recorded["momentum"]["values"])
    assert_equal_at(schedule["teacher_temperature"][::97], recorded["teacher_temp"]["values"])
    assert schedule["frozen"].tolist() == [True] * 97 + [False] * (199 * 97)
    assert {len(values) for values in schedule.values()} == {19400}


def test_finetuning(golden):
    schedule = finetuning.make_schedule(default_config(), 585)
    recorded = [row for row in golden("schedules")["finetune"]["values"] if row[0] < 58500]
    assert_equal_at(schedule["learning_rate"], recorded)
    assert set(schedule["weight_decay"].tolist()) == {0.05}
