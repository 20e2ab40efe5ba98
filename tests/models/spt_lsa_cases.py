"""Recorded outputs of SPT_LSA_ViT's modules, for our modules with the same weights."""

import functools

import numpy as np
import pytest
from flax import nnx

from smallvit_jax.models import abstract_model
from smallvit_jax.models.parameters import get_arrays, set_arrays
from tests.support.golden_formulas import hashed, read_golden

TOLERANCE = 1e-5
_CASES = read_golden("spt_lsa")


def read_case(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The parameters (PyTorch names and layouts) and the input of a recorded case."""
    case = _CASES[name]
    weights = {key: hashed(key, tuple(shape), 0.1) for key, shape in case["params"].items()}
    for key in case["norms"]:
        weights[key] = weights[key] + np.float32(1)
    return weights, hashed(f"input:{case['input']}", tuple(case["input_shape"]), 1.0)


def fill(module: nnx.Module, weights: dict[str, np.ndarray]) -> None:
    """Sets the given arrays, by our names; the rest stay unchanged."""
    arrays = get_arrays(module)
    assert weights.keys() <= arrays.keys()
    set_arrays(module, arrays | weights)


def check(case: str, tokens) -> None:
    """Compares an output with the recorded values and moments."""
    recorded, tokens = _CASES[case]["output"], np.asarray(tokens, np.float64)
    assert list(tokens.shape) == recorded["shape"]
    np.testing.assert_allclose(tokens.ravel()[:64], recorded["first64"], atol=TOLERANCE)
    for name, value in (("mean", tokens.mean()), ("std", tokens.std()), ("last", tokens.flat[-1])):
        assert value == pytest.approx(recorded[name], abs=TOLERANCE), name
    assert np.linalg.norm(tokens) == pytest.approx(recorded["l2"], rel=TOLERANCE)


def added_parameters(name: str, image_size: int = 32, **options) -> int:
    """Number of parameters that options add to a family's default model."""
    return _parameters(name, image_size, **options) - _parameters(name, image_size)


@functools.cache
def _parameters(name: str, image_size: int, **options) -> int:
    arrays = get_arrays(abstract_model(name, image_size=image_size, **options))
    return sum(a.size for a in arrays.values())
