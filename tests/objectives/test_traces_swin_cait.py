"""Pre-training and fine-tuning of Swin and CaiT against the reference, step by step."""

import pytest

from smallvit_jax.models import create_model
from tests.support.reference_traces import (
    FINETUNING_LIMITS,
    PRETRAINING_LIMITS,
    finetuning_differences,
    make_pretraining_step,
    pretraining_differences,
    view_network,
)


# The ViT's trace and the families' multi-crop outputs are compared in the default suite.
@pytest.mark.slow
@pytest.mark.parametrize("family", ["swin", "cait"])
def test_pretraining_equals_the_reference(golden, family):
    network = view_network(create_model(family))
    recorded = golden(f"trace_ssl_{family}_unfrozen")
    found = pretraining_differences(recorded, network, make_pretraining_step(network))
    found.check(PRETRAINING_LIMITS)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["swin", "cait"])
def test_finetuning_equals_the_reference(golden, family):
    network = create_model(family, num_classes=10)
    found = finetuning_differences(golden(f"trace_finetune_{family}"), network)
    # Swin's recorded float32 loss is 7.5e-6 off its float64 loss, ours 3.9e-6 the other way.
    found.check(FINETUNING_LIMITS | ({"loss": 2e-5} if family == "swin" else {}))
