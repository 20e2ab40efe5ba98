"""Advice: presets, batches, epochs and expected times from counts and costs."""

import pytest

from smallvit_jax.config import default_config
from smallvit_jax.plans.advice import (
    MANY_IMAGES,
    PRESETS,
    Costs,
    Counts,
    choose_epochs,
    choose_preset,
    estimate,
    fit_batches,
    fit_crops,
)

COUNTS = Counts(training=2000, bank=2000, labeled=500, test=1000)
COSTS = Costs(
    reading=2.0,
    pretraining=0.005,
    finetuning=0.002,
    forward=0.001,
    neighbors=0.0001,
    raw_neighbors=0.001,
)


def preset_config(preset=PRESETS[0]):
    config = default_config()
    preset.use(config)
    config.job = "recipe"
    return config


def test_preset_depends_on_the_number_of_images():
    assert choose_preset(MANY_IMAGES - 1).file == "configs/own_images.py"
    assert choose_preset(MANY_IMAGES).file == "configs/small_data.py"


@pytest.mark.parametrize(
    ("training", "labeled", "devices", "expected"),
    [
        (2000, 500, 1, (128, 32)),  # the preset's
        (300, 100, 1, (32, 16)),
        (60, 10, 1, (16, 8)),
        (2000, 500, 12, (132, 36)),
    ],
)
def test_batches_fit(training, labeled, devices, expected):
    config = preset_config()
    counts = Counts(training, training, labeled, 100)
    fit_batches(config, counts, devices)
    assert (config.pretrain.batch_size, config.finetune.batch_size) == expected


@pytest.mark.parametrize(
    ("preset", "labels_per_class", "expected"),
    [(PRESETS[0], 5000, None), (PRESETS[1], 499, None), (PRESETS[1], 500, 0)],
)
def test_random_crops_are_left_out_with_many_labels(preset, labels_per_class, expected):
    config = preset_config(preset)
    fit_crops(config, preset, COUNTS._replace(labeled=10 * labels_per_class), classes=10)
    assert config.finetune.augment.crop_padding == expected


@pytest.mark.parametrize("minutes", [20, 40, 80])
def test_epochs_fill_the_time(minutes):
    config = preset_config()
    choose_epochs(config, PRESETS[0], COUNTS, COSTS, 60 * minutes)
    expected = sum(estimate(config, COUNTS, COSTS).values())
    assert 0.93 * 60 * minutes < expected < 1.03 * 60 * minutes
    assert config.pretrain.optimizer.warmup_epochs == round(config.pretrain.epochs / 10)
    assert 1 < config.pretrain.epochs / config.pretrain.knn_every <= 2


def test_epochs_stay_within_the_presets_limits():
    for minutes, expected in ((0.1, PRESETS[0].fewest_epochs), (1e4, PRESETS[0].most_epochs)):
        config = preset_config()
        choose_epochs(config, PRESETS[0], COUNTS, COSTS, 60 * minutes)
        assert config.pretrain.epochs == expected


def test_time_is_that_of_steps_and_evaluations():
    config = preset_config()
    parts = estimate(config, COUNTS, COSTS)
    steps = 400 * 15 * 128 * COSTS.pretraining
    evaluations = 3 * ((2000 + 2000 + 1000) * COSTS.forward + 1000 * COSTS.neighbors)
    assert parts["pre-training"] == pytest.approx(steps + evaluations + 1.0, abs=5)
    steps = 20 * (3 * 500 // 32) * 32 * COSTS.finetuning
    assert parts["training from scratch"] == pytest.approx(steps + 20 * 1000 * 0.001, abs=5)
    assert parts["fine-tuning"] > parts["training from scratch"]
    config.job = "pretrain"
    assert "fine-tuning" not in estimate(config, COUNTS, COSTS)
