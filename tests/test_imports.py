"""Imports between subpackages go one way."""

import ast
import re
from pathlib import Path

import pytest

import smallvit_jax

PACKAGE = Path(smallvit_jax.__path__[0])
ROOT_FILES = {"__init__", "__main__", "main", "errors", "version"}
# What each subpackage may import from, besides itself and the files at the root. They are listed
# from the bottom up, and none may import from a later one.
ALLOWED = {
    "process": "",
    "data": "process",
    "config": "data process",
    "augment": "process",
    "models": "config process",
    "workdir": "config process",
    "interop": "augment data models process workdir",
    "checkpoints": "interop models process workdir",
    "training": "checkpoints config data process workdir",
    "objectives": "augment config models training",
    "evaluation": "augment checkpoints data models process",
    "plans": "augment config data models objectives process training",
    "reporting": "augment checkpoints config data evaluation plans workdir",
    "jobs": (
        "augment checkpoints config data evaluation interop models objectives plans process "
        "reporting training workdir"
    ),
    "command": "config process",
}


def imported_subpackages(file: Path) -> set[str]:
    """The subpackages and root files that a file imports from, also inside functions.

    A string such as "smallvit_jax.jobs." counts as an import, because `importlib` may get it.
    """
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            whole = [alias.name for alias in node.names if alias.name.startswith("smallvit_jax")]
            assert not whole, f"{file} imports {whole[0]}, which hides what it uses; import from it"
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.match(r"smallvit_jax\.(\w+)", node.value)
            if match and match[1] in ALLOWED:
                names.add(match[0])
    return {name.split(".")[1] for name in names if name.split(".")[0] == "smallvit_jax"}


@pytest.mark.parametrize(
    "line",
    [
        "from smallvit_jax.models import create_model",
        "from smallvit_jax import models",
        'importlib.import_module(f"smallvit_jax.models.{name}")',
        'command = ["python", "-m", "smallvit_jax.main"]; model = "smallvit_jax.models"',
    ],
)
def test_imports_are_found(tmp_path, line):
    (tmp_path / "module.py").write_text(f"def function():\n    {line}\n")
    assert imported_subpackages(tmp_path / "module.py") == {"models"}


def test_import_of_the_whole_package_is_refused(tmp_path):
    (tmp_path / "module.py").write_text("import smallvit_jax\n")
    with pytest.raises(AssertionError, match=r"module\.py imports smallvit_jax, which hides"):
        imported_subpackages(tmp_path / "module.py")


def test_table_lists_every_subpackage_and_root_file():
    subpackages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert subpackages == set(ALLOWED)
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_FILES


def test_allowed_imports_go_one_way():
    subpackages = list(ALLOWED)
    for subpackage, allowed in ALLOWED.items():
        assert set(allowed.split()) <= set(subpackages[: subpackages.index(subpackage)]), subpackage


@pytest.mark.parametrize("subpackage", ALLOWED)
def test_subpackage_imports_only_what_is_allowed(subpackage):
    allowed = {subpackage, *ALLOWED[subpackage].split(), "errors", "version"}
    for file in (PACKAGE / subpackage).rglob("*.py"):
        assert imported_subpackages(file) <= allowed, file


def test_every_allowed_import_is_used():
    for subpackage, allowed in ALLOWED.items():
        used = set().union(
            *(imported_subpackages(file) for file in (PACKAGE / subpackage).rglob("*.py"))
        )
        assert set(allowed.split()) <= used, subpackage
