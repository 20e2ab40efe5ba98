"""Names of accelerators to compile for."""

import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.plans.hardware import CHIPS, describe_card, read_targets


def test_sizes_are_those_in_google_s_names():
    targets = read_targets("v5e-8, v6e-1,v5p-8,v4-8,tpu7x-8,h100")
    found = [(t.chips, t.devices, t.topology) for t in targets[:-1]]
    assert found == [
        (8, 8, "v5e:2x4"),
        (1, 1, "v6e:1x1"),
        (4, 4, "v5p:2x2x1"),  # two cores per chip, and v5p-8 counts cores
        (4, 4, "v4:2x2x1"),
        (4, 8, "tpu7x:2x2x1"),  # each core is a device
    ]
    assert (targets[-1].chips, targets[-1].chip.platform) == (1, "cuda")
    assert targets[4].memory_per_device == 96 * 2**30


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("v5x-8", ['"v5x-8"', "did you mean", "known: v4, v5e"]),
        ("v5e-3", ["possible sizes are v5e-1, v5e-4, v5e-8"]),
        ("v5p-7", ["v5p-8, v5p-16", "2 cores per chip"]),
        ("h100-8", ["possible sizes are h100-1"]),
        ("", ['has ""']),
    ],
)
def test_unknown_targets_get_one_sentence(text, parts):
    with pytest.raises(UserError) as caught:
        read_targets(text)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_card_is_described_by_its_data_sheet():
    text = describe_card(CHIPS["h200"])
    assert "memory_bandwidth: 4800000000000\n" in text
    assert "device_memory_size: 150754820096\n" in text
    assert 'device_description_str: "NVIDIA H200"\n' in text and "$" not in text
