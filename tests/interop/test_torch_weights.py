"""The reference's key names, layouts and strictness."""

import numpy as np
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import get_arrays
from tests.golden_formulas import fill


@pytest.fixture(scope="module")
def weights(golden):
    return {key: fill(key, tuple(s)) for key, s, _ in golden("model_vit_32")["state_dict"]}


def test_round_trip_is_exact_and_has_the_reference_names(weights):
    model = create_model("vit", num_classes=10)
    load_state_dict(model, weights)
    back = state_dict(model)
    assert set(back) == set(weights)
    for key, weight in weights.items():
        np.testing.assert_array_equal(back[key], weight, err_msg=key)


def test_all_problems_are_named_together_and_nothing_changes(weights):
    model = create_model("vit", num_classes=10)
    before = get_arrays(model)
    wrong = dict(weights)
    del wrong["norm.bias"]
    wrong["classifier.weight"] = np.zeros(3)
    wrong["cls_token"] = np.zeros((1, 1, 5))
    with pytest.raises(UserError) as error:
        load_state_dict(model, wrong)
    message = str(error.value)
    assert "missing norm.bias" in message
    assert "unexpected classifier.weight" in message
    assert "cls_token has shape (1, 1, 5) where the model has (1, 1, 192)" in message
    after = get_arrays(model)
    assert all((before[k] == after[k]).all() for k in before)
