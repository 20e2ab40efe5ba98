"""The few-labels benchmark trains valid configs for the same number of steps."""

import pytest

from benchmarks.few_labels import OBJECTIVES, STARTS, Budget, preset, summarize
from smallvit_jax.config.check import validate


@pytest.mark.parametrize("start", [*OBJECTIVES, *STARTS])
def test_starts_are_valid(start):
    fields = OBJECTIVES.get(start, {}) | STARTS.get(start, {}) | Budget().fields(500)
    config = preset(fields, 3)
    validate(config)
    assert config.seed == 3


@pytest.mark.parametrize(("labeled", "steps"), [(50, 900), (500, 900), (5000, 900), (50_000, 9000)])
def test_steps_do_not_depend_on_the_labels_until_a_pass_is_longer(labeled, steps):
    fields = {name.split(".")[1]: int(value) for name, value in Budget().fields(labeled).items()}
    passes = fields["epochs"] * fields["passes_per_epoch"]
    assert passes * (labeled // fields["batch_size"]) == steps


def test_table_has_mean_and_deviation_over_seeds():
    row = {"start": "lejepa", "labels_per_class": 50, "probe": None}
    rows = [row | {"accuracy": 50.0}, row | {"accuracy": 60.0, "probe": 40.0}]
    assert summarize(rows)[1] == ("lejepa", "50", "2", "40.0", "55.0 ± 7.1")
