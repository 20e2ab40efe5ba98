"""Schedules against the reference's recorded values."""

import numpy as np
import pytest

from smallvit_jax.training import schedules


def assert_equal_at(values, recorded, beyond: int | None = None):
    for step, value in recorded:
        if beyond is None or step < beyond:
            assert values[step] == pytest.approx(value, rel=1e-12, abs=1e-18), step


def test_pretraining_schedules_match_the_reference(golden):
    recorded = golden("schedules")
    assert_equal_at(schedules.cosine(2e-4, 1e-6, 19400, 30 * 97), recorded["lr"]["values"])
    assert_equal_at(schedules.cosine(0.04, 0.4, 19400), recorded["weight_decay"]["values"])
    assert_equal_at(schedules.cosine(0.996, 1, 19400), recorded["momentum"]["values"])
    temperatures = schedules.teacher_temperature(0.04, 0.07, 10, 200, 3)
    assert_equal_at(temperatures[::3], recorded["teacher_temp"]["values"])
    assert len(temperatures) == 600


def test_finetuning_schedule_matches_the_reference(golden):
    recorded = golden("schedules")
    values = schedules.warmup_cosine(1e-3, 1e-6, 58500, 5850)
    assert_equal_at(values, recorded["finetune"]["values"], beyond=58500)
    tiny = schedules.warmup_cosine(1e-3, 1e-6, 10, 2)
    np.testing.assert_allclose(tiny, recorded["finetune_tiny_epochs5_it2_warmup1"][:10])


def test_base_rate_occurs_twice_at_the_end_of_warmup():
    values = schedules.cosine(2e-4, 1e-6, 19400, 2910)
    assert values[0] == 0
    assert values[2909] == values[2910] == 2e-4


def test_warmup_takes_at_most_a_third_of_the_run():
    with pytest.warns(UserWarning, match=r"20 epochs are too few for x = 30; using 6.67, a third"):
        assert schedules.fit_warmup(30, 20, "x") == 20 / 3
    assert schedules.fit_warmup(30, 90, "x") == 30
    with pytest.warns(UserWarning, match="using 29.7"):
        assert schedules.fit_warmup(30, 89, "x") == 89 / 3
    with pytest.warns(UserWarning, match="using 1, a third"):
        assert schedules.fit_warmup(2, 3, "x", whole=True) == 1
    with pytest.warns(UserWarning, match="using 2, a third"):
        assert schedules.fit_warmup(10, 4, "x", whole=True) == 2
    assert len(schedules.teacher_temperature(0.04, 0.07, 10, 3, 2)) == 6
