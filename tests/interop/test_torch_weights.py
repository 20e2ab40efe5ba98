"""The reference's key names, layouts and strictness."""

import numpy as np
import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.interop.torch_files import infer_model
from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import get_arrays
from tests.support.golden_formulas import fill
from tests.support.tiny_jobs import SMALLEST


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


def test_mismatches_are_listed_together_and_nothing_changes(weights):
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
    assert "cls_token has shape (1, 1, 5), but the model has (1, 1, 192)" in message
    after = get_arrays(model)
    assert all((before[k] == after[k]).all() for k in before)


@pytest.mark.parametrize(
    ("family", "norm"), [("vit", "batch"), ("swin", "batch"), ("cait", "layer")]
)
def test_conv_stem_round_trips_in_pytorchs_layouts(family, norm):
    """The reference has no such stem; names follow our modules."""
    options = SMALLEST[family] | {"image_size": 16, "patch_size": 4, "stem": "conv"}
    options |= {"stem_norm": norm, "width": 12, "heads": 3} | (
        {"depths": (1,)} if family == "swin" else {}
    )
    model = create_model(family, **options)
    weights = state_dict(model)
    assert weights["patch_embed.convs.1.weight"].shape == (6, 3, 3, 3)
    kernel = get_arrays(model)["patch_embed.convs.1.kernel"]
    assert weights["patch_embed.convs.1.weight"][5, 2, 0, 1] == kernel[0, 1, 2, 5]
    assert weights["patch_embed.pointwise.weight"].shape == (12, 12)
    assert ("patch_embed.norms.2.running_var" in weights) == (norm == "batch")
    other = create_model(family, **options, seed=1)
    load_state_dict(other, weights)
    for name, array in get_arrays(model).items():
        np.testing.assert_array_equal(get_arrays(other)[name], array, err_msg=name)
    with pytest.raises(UserError, match="strides cannot be inferred from weights"):
        infer_model(weights, "x.pth")


@pytest.mark.parametrize("family", ["vit", "swin", "cait"])
def test_locality_self_attention_is_inferred(family):
    """Temperatures, absent in the reference, identify LSA and a ViT's number of heads."""
    options = SMALLEST[family] | {"image_size": 16, "lsa": True}
    model = create_model(family, **options)
    inferred = infer_model(state_dict(model), "x.pth")
    assert inferred["lsa"] is True
    assert inferred["heads"] == options["heads"]
