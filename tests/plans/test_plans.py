"""Contradictions that only show once the dataset and the model are known."""

import pytest

from smallvit_jax.config import default_config
from smallvit_jax.config.tree import set_value
from smallvit_jax.errors import UserError
from smallvit_jax.plans import pretraining
from smallvit_jax.plans.data_and_model import DatasetReader


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model.patch_size": 8, "model.image_size": 24},
            "local crops have 12 pixels per side, half of model.image_size=24, but "
            "model.patch_size=8 does not divide that; choose another one",
        ),
        (
            {"model.name": "resnet18", "model.image_size": 15},
            "local crops have 7.5 pixels per side, half of model.image_size=15, but need a whole "
            "number; choose an even model.image_size",
        ),
    ],
    ids=["patches", "odd size"],
)
def test_local_crops_must_fit_the_model(fields, message):
    config = default_config()
    for path, value in {"dataset.name": "digits", **fields}.items():
        set_value(config, path, value)
    with pytest.raises(UserError) as refused:
        pretraining.make_plan(config, DatasetReader(None).load(config))
    assert str(refused.value) == f"{message}, or set pretrain.views.local_crops=0"
    config.pretrain.views.local_crops = 0
    pretraining.make_plan(config, DatasetReader(None).load(config))
