"""A stage's `config.json` and `result.json`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from smallvit_jax.config.tree import flatten
from smallvit_jax.errors import UserError
from smallvit_jax.workdir.environment import environment
from smallvit_jax.workdir.files import make_folder, strict_json, write_atomically


def write_config(stage_dir: str | os.PathLike, config: Mapping[str, Any]) -> None:
    """Writes a stage's `config.json` from nested dicts; only the first process writes."""
    if jax.process_index():
        return
    write_atomically(make_folder(stage_dir) / "config.json", strict_json(config, indent=2) + "\n")


def read_config(stage_dir: str | os.PathLike) -> dict[str, Any] | None:
    """Reads a stage's `config.json`; None if there is none, UserError if it is damaged."""
    return _read_json(Path(stage_dir) / "config.json")


def config_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[tuple[str, Any, Any]]:
    """Returns the fields in which two configs differ: (dotted name, old value, new value).

    Tuples equal lists, as in JSON. A field that the old config lacks takes its value from
    `defaults`, by dotted name; other missing fields count as None.
    """
    before, after = _as_in_json(flatten(old)), _as_in_json(flatten(new))
    defaults = _as_in_json(defaults or {})
    added = after.keys() & defaults.keys() - before.keys()
    before |= {name: defaults[name] for name in sorted(added)}
    names = [*before, *(name for name in after if name not in before)]
    return [
        (name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _as_in_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(strict_json(values))


def write_result(stage_dir: str | os.PathLike, result: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a stage's `result.json` and returns what `read_result` will return.

    Adds the environment: versions, devices and threads. Only the first process writes.
    """
    text = strict_json({**result, "environment": environment()}, indent=2) + "\n"
    if jax.process_index() == 0:
        write_atomically(make_folder(stage_dir) / "result.json", text)
    return json.loads(text)


def read_result(stage_dir: str | os.PathLike) -> dict[str, Any] | None:
    """Reads a stage's `result.json`; None if there is none, UserError if it is damaged."""
    return _read_json(Path(stage_dir) / "result.json")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove or restore it") from error
