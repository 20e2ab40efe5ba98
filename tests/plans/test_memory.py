"""Trainings that are far too large are refused from their config alone."""

import pytest

from smallvit_jax.command.config_files import load_config
from smallvit_jax.config.values import set_from_text
from smallvit_jax.data.datasets import get_dataset
from smallvit_jax.errors import UserError
from smallvit_jax.plans.memory import check_memory

MEMORY = 24 * 10**9


def configured(job: str, **changes):
    config = load_config(f"{job}:vit,cifar10")
    for name, text in changes.items():
        set_from_text(config, name.replace("__", "."), text)
    return config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__width": "120000000"}, "model.width=120000000 and model.depth=9"),
        ({"model__depth": "1000000"}, "model.depth=1000000, but a device here has 24 GB"),
        ({"pretrain__head__out_dim": "2000000000"}, "pretrain.head.out_dim=2000000000"),
        ({"pretrain__views__local_crops": "1000000"}, "pretrain.views.local_crops=1000000"),
        ({"model__image_size": "65536"}, "model.image_size=65536"),
        ({"model__heads": "5"}, "model.heads 5 does not divide model.width 192"),
    ],
)
def test_the_field_is_named(changes, words):
    with pytest.raises(UserError) as error:
        check_memory(configured("recipe", **changes), get_dataset("cifar10"), MEMORY, 1)
    assert words in str(error.value)


def test_presets_fit():
    for job in ("pretrain", "finetune", "recipe"):
        check_memory(configured(job), get_dataset("cifar10"), MEMORY, 1)


def test_images_are_divided_among_devices_and_parts():
    """512 images of 32 pixels in 2 global and 8 / 4 local views of 12 bytes per pixel: 25 MB."""
    config = configured("pretrain", model__width="12", pretrain__head__out_dim="2")
    limit = 512 * 4 * 32**2 * 12
    check_memory(config, get_dataset("cifar10"), limit, 1)
    with pytest.raises(UserError, match="a step's views"):
        check_memory(config, get_dataset("cifar10"), limit - 1, 1)
    check_memory(config, get_dataset("cifar10"), limit // 2, 2)
    config.runtime.accumulate = 4
    check_memory(config, get_dataset("cifar10"), limit // 8, 2)
