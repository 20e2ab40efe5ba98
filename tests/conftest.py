"""Shared by all tests: exact float32 on the CPU, and golden files by name."""

import json
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

GOLDEN = Path(__file__).parent / "golden"
# Real images beside a checkout, where they exist.
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def golden():
    """Returns a reader of `tests/golden/NAME.json`."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
    """A folder of compiled programs that tests of whole jobs share."""
    return tmp_path_factory.mktemp("compilation_cache")


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory, compilation_cache):
    """A finished recipe on a few digits; tests may read its folder but not change it."""
    from tests.tiny_jobs import finish_tiny_recipe

    return finish_tiny_recipe(tmp_path_factory.mktemp("runs") / "recipe", compilation_cache)
