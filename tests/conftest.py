"""Shared by all tests: exact float32 on the CPU, and golden files by name."""

import os
import signal
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from tests.support.golden_formulas import read_golden

# Ignored where tests are started in the background of a script; the programs that tests start and
# interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Real images beside a checkout, where they exist.
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def golden():
    """Returns a reader of `tests/golden/NAME.json`."""
    return read_golden


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
    """A folder of compiled programs that tests of whole jobs share."""
    return tmp_path_factory.mktemp("compilation_cache")


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory, compilation_cache):
    """A finished recipe on a few digits; tests may read its folder but not change it."""
    from tests.support.tiny_jobs import finish_tiny_recipe

    return finish_tiny_recipe(tmp_path_factory.mktemp("runs") / "recipe", compilation_cache)
