"""Layers are numbered from the input to the classifier."""

import pytest

from smallvit_jax.models import create_model
from smallvit_jax.models.depth import layer_numbers
from smallvit_jax.models.parameters import get_arrays

EXPECTED = {
    "vit": ({"depth": 3}, {"cls_token": 0, "pos_embed": 0, "blocks.0.attn.qkv.kernel": 1,
            "blocks.2.mlp.fc2.bias": 3, "norm.scale": 4, "head.kernel": 4}),
    "swin": ({"depths": (1, 2)}, {"patch_embed.proj.kernel": 0, "layers.0.blocks.0.norm1.bias": 1,
             "layers.0.downsample.norm.scale": 1, "layers.1.blocks.1.norm1.bias": 3,
             "head.bias": 4}),
    "cait": ({"depth": 12}, {"cls_token": 0, "blocks.0.gamma_1": 1, "blocks.11.gamma_1": 12,
             "blocks_token_only.1.gamma_1": 14, "norm.bias": 15, "head.kernel": 15}),
    "resnet18": ({}, {"stem.conv.kernel": 0, "head.kernel": 9}),
}  # fmt: skip


@pytest.mark.parametrize("family", EXPECTED)
def test_numbers_follow_the_order_of_computation(family):
    options, expected = EXPECTED[family]
    if family in ("vit", "cait", "swin"):
        options = options | {"width": 16, "heads": 2}
    names = get_arrays(create_model(family, num_classes=3, **options))
    numbers = layer_numbers(names)
    assert numbers.keys() == names.keys()
    assert expected.items() <= numbers.items()
    assert set(numbers.values()) == set(range(max(numbers.values()) + 1))
