"""Variant names: which fields they change, and which names are refused and why."""

import re

import pytest

from smallvit_jax.config import default_config
from smallvit_jax.config.check import validate
from smallvit_jax.config.tree import flatten
from smallvit_jax.errors import UserError
from smallvit_jax.jobs.variants import PARTS, read_variants


def changes(name, **fields):
    """The fields that a variant changes in a config whose model already has `fields`."""
    base = default_config()
    base.model.update(fields)
    (variant,) = read_variants(name)
    before, after = flatten(base), flatten(variant.config(base, seed=5))
    assert after.pop("seed") == 5
    return {path: value for path, value in after.items() if value != before[path]}


def test_parts_are_joined_in_table_order():
    first, second = read_variants(" scratch , conv + ssl+model.width=48 ")
    assert (first.name, second.name) == ("scratch", "ssl+conv+model.width=48")
    assert (first.pretrains, second.pretrains) == (False, True)
    assert changes("conv+ssl+model.width=48") == {"model.stem": "conv", "model.width": 48}
    assert second.about == (
        "pre-trained without labels on all images, then fine-tuned; convolutional stem, one block "
        "fewer in a ViT; model.width = 48"
    )


def test_scratch_changes_nothing_and_conv_stem_replaces_a_block():
    assert changes("scratch") == changes("ssl") == {}
    assert changes("conv", depth=4) == {"model.stem": "conv", "model.depth": 3}


def test_structured_initialization_sets_the_model_it_needs():
    mean = {"model.pool": "mean", "model.pos_embed": "sincos"}
    assert changes("mean") == mean
    assert changes("mean+impulse3") == changes("impulse3") == mean | {"model.init": "impulse3"}


def test_another_family_ignores_the_configs_model_size():
    tiny = {"width": 64, "depth": 4, "image_size": 32, "init": "fan_in"}
    assert changes("swin+conv", **tiny) == {
        "model.name": "swin",
        "model.stem": "conv",
        "model.width": None,
        "model.depth": None,
        "model.init": "reference",
    }


def test_resnet_ignores_the_configs_size_and_initialization():
    assert changes("resnet20", width=64, heads=4, init="fan_in") == {
        "model.name": "resnet56",
        "model.depth": 20,
        "model.width": None,
        "model.heads": None,
        "model.init": "reference",
    }


@pytest.mark.parametrize("name", PARTS)
def test_every_part_makes_a_valid_config(name):
    config = read_variants(name)[0].config(default_config(), seed=0)
    validate(config)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("convv", 'unknown part "convv" (did you mean "conv"?)'),
        ("scratch,conv,scratch", 'has "scratch" more than once'),
        ("ssl+conv,conv+ssl", 'has "ssl+conv" more than once'),
        ("scratch+ssl", 'cannot be both "scratch" and "ssl"'),
        (
            "conv+pretrain.epochs=3",
            'but does not pre-train; add the part "ssl" or leave the field out',
        ),
        (
            "impulse3+mimetic",
            '"impulse3" and "mimetic", which set model.init to impulse3 and mimetic',
        ),
        ("swin+cait", '"swin" and "cait", which set model.name to swin and cait'),
        ("scratch+dataset.root=x", 'sets "dataset.root"'),
        ("scratch+model.widht=3", 'sets "model.widht" (did you mean "model.width"?)'),
        ("scratch+finetune.init_from=x", "variants start from their own pre-training"),
        (" , ", "is empty"),
    ],
)
def test_invalid_names_are_refused(text, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        read_variants(text)
