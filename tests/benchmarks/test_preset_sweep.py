"""Variations of a preset are valid configs, on validation images and in folders of their own."""

from pathlib import Path

import pytest

from benchmarks.preset_sweep import PARTS, SWEEPS, _folder, summarize, vary
from smallvit_jax.config.check import validate


@pytest.mark.parametrize("name", SWEEPS)
def test_variations_are_valid_and_distinct(name):
    sweep = SWEEPS[name]
    assert sweep.pretrain[0] == ""  # the preset itself, which fine-tuning starts from
    for part in PARTS:
        variations = getattr(sweep, part)
        for variation in variations:
            config = vary(sweep, variation, 3)
            validate(config)
            assert config.seed == 3 and config.dataset.validation_fraction > 0
            assert config.finetune.optimizer.scratch_lr is None
        folders = {_folder(Path("x"), part, variation, 0) for variation in variations}
        assert len(folders) == len(variations)


def test_table_has_means_over_seeds():
    row = {"part": "pretrain", "variation": "", "probe": None}
    rows = [row | {"accuracy": 50.0}, row | {"accuracy": 60.0, "probe": 40.0}]
    assert summarize(rows)[1] == ("pretrain", "the preset", "40.0", "55.0")
