"""The few-labels benchmark trains valid configs for the same number of steps."""

import pytest

from benchmarks.few_labels import OBJECTIVES, STARTS, label_fields, preset, summarize
from smallvit_jax.config.check import validate
from smallvit_jax.plans.finetuning import passes_per_epoch


@pytest.mark.parametrize("start", [*OBJECTIVES, *STARTS])
def test_starts_are_valid(start):
    config = preset(OBJECTIVES.get(start, {}) | STARTS.get(start, {}) | label_fields(50), 3)
    validate(config)
    assert config.seed == 3


@pytest.mark.parametrize(("labeled", "steps"), [(50, 900), (500, 900), (5000, 900), (50_000, 9000)])
def test_steps_do_not_depend_on_the_labels_until_a_pass_is_longer(labeled, steps):
    config = preset(label_fields(labeled // 10), 0)
    per_epoch = labeled * passes_per_epoch(config, labeled) // config.finetune.batch_size
    assert config.finetune.epochs * per_epoch == steps


def test_table_has_mean_and_deviation_over_seeds():
    row = {"start": "lejepa", "labels_per_class": 50, "probe": None}
    rows = [row | {"accuracy": 50.0}, row | {"accuracy": 60.0, "probe": 40.0}]
    assert summarize(rows)[1] == ("lejepa", "50", "2", "40.0", "55.0 ± 7.1")
