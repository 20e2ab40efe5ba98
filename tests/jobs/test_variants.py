"""Names of variants: what they change, and what is refused with the reason."""

import re

import pytest

from smallvit_jax.config import default_config
from smallvit_jax.config.check import validate
from smallvit_jax.config.tree import flatten as leaves
from smallvit_jax.errors import UserError
from smallvit_jax.jobs.variants import PARTS, read_variants


def changes(name, **fields):
    """The fields that a variant changes in a config that already has some."""
    base = default_config()
    base.model.update(fields)
    (variant,) = read_variants(name)
    before, after = leaves(base), leaves(variant.config(base, seed=5))
    assert after.pop("seed") == 5
    return {path: value for path, value in after.items() if value != before[path]}


def test_parts_are_joined_in_the_tables_order():
    first, second = read_variants(" scratch , conv + ssl+model.width=48 ")
    assert (first.name, second.name) == ("scratch", "ssl+conv+model.width=48")
    assert (first.pretrains, second.pretrains) == (False, True)
    assert changes("conv+ssl+model.width=48") == {"model.stem": "conv", "model.width": 48}
    assert second.about == (
        "pre-trained without labels on all images, then fine-tuned; convolutional stem, one block "
        "fewer in a ViT; model.width = 48"
    )


def test_scratch_changes_nothing_and_a_convolutional_stem_takes_a_blocks_place():
    assert changes("scratch") == changes("ssl") == {}
    assert changes("conv", depth=4) == {"model.stem": "conv", "model.depth": 3}


def test_structured_initialisation_brings_the_model_that_it_needs():
    mean = {"model.pool": "mean", "model.pos_embed": "sincos"}
    assert changes("mean") == mean
    assert changes("mean+impulse3") == changes("impulse3") == mean | {"model.init": "impulse3"}


def test_another_family_has_its_own_size_whatever_the_configs_model_has():
    tiny = {"width": 64, "depth": 4, "image_size": 32, "init": "fan_in"}
    assert changes("swin+conv", **tiny) == {
        "model.name": "swin",
        "model.stem": "conv",
        "model.width": None,
        "model.depth": None,
        "model.init": "reference",
    }


def test_a_resnet_starts_as_it_should_whatever_the_configs_model_has():
    assert changes("resnet20", width=64, heads=4, init="fan_in") == {
        "model.name": "resnet56",
        "model.depth": 20,
        "model.width": None,
        "model.heads": None,
        "model.init": "reference",
    }


@pytest.mark.parametrize("name", PARTS)
def test_every_part_sets_fields_that_there_are(name):
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
def test_what_makes_no_sense_is_refused(text, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        read_variants(text)
