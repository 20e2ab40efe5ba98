import subprocess
import sys
from pathlib import Path

import pytest

from smallvit_jax.data import load_split
from smallvit_jax.errors import UserError

REPOSITORY = Path(__file__).parents[2]


def test_unknown_names_suggest_the_closest():
    with pytest.raises(UserError, match=r'cifar10 has no split "trian".*did you mean "train"'):
        load_split("cifar10", "trian")
    with pytest.raises(UserError, match=r'"digit" is not in the dataset table.*"digits"'):
        load_split("digit", "train")


def test_import_stays_light():
    """`--help` imports the dataset table, which must not import anything slow."""
    heavy = "jax sklearn tensorflow tensorflow_datasets PIL rich"
    code = f"import smallvit_jax.data, sys; print(*set({heavy.split()}) & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""
