"""Pre-training and fine-tuning of Swin and CaiT against the reference, step for step."""

import pytest

from smallvit_jax.models import create_model
from tests.reference_traces import (
    check_finetuning,
    check_pretraining,
    make_pretraining_step,
    view_network,
)


@pytest.mark.parametrize("family", ["swin", "cait"])
def test_pretraining_equals_the_reference(golden, family):
    network = view_network(create_model(family))
    recorded = golden(f"trace_ssl_{family}_unfrozen")
    check_pretraining(recorded, network, make_pretraining_step(network))


@pytest.mark.parametrize("family", ["swin", "cait"])
def test_finetuning_equals_the_reference(golden, family):
    # Swin's recorded float32 loss is 7.5e-6 off its float64 one, ours 3.9e-6 to the other side.
    check_finetuning(
        golden(f"trace_finetune_{family}"),
        create_model(family, num_classes=10),
        float32_loss=2e-5 if family == "swin" else 1e-5,
    )
