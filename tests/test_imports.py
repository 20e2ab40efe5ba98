"""Imports between the rooms of the package run one way."""

import ast
from pathlib import Path

import pytest

import smallvit_jax

PACKAGE = Path(smallvit_jax.__path__[0])
ROOT_FILES = {"__init__", "main", "errors", "version"}
# What each room may import from, besides itself and the files at the root. Rooms are listed from
# the bottom up, and none may name one below it.
ALLOWED = {
    "process": "",
    "data": "process",
    "config": "data",
    "augment": "",
    "models": "config",
    "workdir": "config process",
    "interop": "models",
    "checkpoints": "interop models process workdir",
    "training": "checkpoints config data process workdir",
    "objectives": "config models training",
    "evaluation": "augment checkpoints data models process",
    "plans": "augment config data models objectives process training",
    "reporting": "augment checkpoints config data evaluation plans workdir",
    "jobs": (
        "augment checkpoints config data evaluation interop models objectives plans process "
        "reporting training workdir"
    ),
    "command": "config",
}


def imported_rooms(file: Path) -> set[str]:
    """The rooms, and files at the root, that a file imports from, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = [name.split(".") for name in names if name.split(".")[0] == "smallvit_jax"]
    return {parts[1] for parts in ours if len(parts) > 1}


def test_the_table_names_every_room_and_only_the_four_files_stand_at_the_root():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ALLOWED)
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_FILES


def test_the_table_itself_runs_one_way():
    rooms = list(ALLOWED)
    for room, allowed in ALLOWED.items():
        assert set(allowed.split()) <= set(rooms[: rooms.index(room)]), room


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_from_rooms_below_it(room):
    allowed = {room, *ALLOWED[room].split(), "errors", "version"}
    for file in (PACKAGE / room).rglob("*.py"):
        assert imported_rooms(file) <= allowed, file


def test_every_allowed_direction_is_used():
    for room, allowed in ALLOWED.items():
        used = set().union(*(imported_rooms(file) for file in (PACKAGE / room).rglob("*.py")))
        assert set(allowed.split()) <= used, room
