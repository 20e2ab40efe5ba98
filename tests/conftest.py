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
