"""Shared by all tests: exact float32 on the CPU, and golden files by name."""

import os
import signal
from pathlib import Path

from tests.support.quick_programs import use_quick_programs

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the environment
    use_quick_programs()

import jax
import pytest

from tests.support.golden_formulas import read_golden

# A shell script ignores SIGINT in its background jobs, and programs that tests start and interrupt
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A folder of real images, prepared as TFDS datasets; tests that need it are skipped without it.
REAL_IMAGES = Path(os.environ.get("SMALLVIT_REAL_IMAGES") or "no folder of real images")

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def golden():
    """A function that reads `tests/golden/NAME.json`."""
    return read_golden


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory):
    """A finished recipe on a few digits; tests may read its folder but not change it."""
    from tests.support.tiny_jobs import finish_tiny_recipe

    return finish_tiny_recipe(tmp_path_factory.mktemp("runs") / "recipe")
