"""The config tree: all fields, the default config, and access by dotted path."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder

from smallvit_jax.config import other_jobs
from smallvit_jax.config.data_and_model import DATASET, MODEL
from smallvit_jax.config.field import Field, Group, field
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.rules import SEED, one_of
from smallvit_jax.config.training import FINETUNE, PRETRAIN, RUNTIME

FIELDS: Group = {
    "job": field("recipe", "job to run", one_of(*JOBS)),
    "seed": field(0, "random seed; all randomness depends only on it and the step", SEED),
    "dataset": DATASET,
    "model": MODEL,
    "pretrain": PRETRAIN,
    "finetune": FINETUNE,
    "recipe": other_jobs.RECIPE,
    "advise": other_jobs.ADVISE,
    "compile_check": other_jobs.COMPILE_CHECK,
    "evaluate": other_jobs.EVALUATE,
    "attention": other_jobs.ATTENTION,
    "predict": other_jobs.PREDICT,
    "convert": other_jobs.CONVERT,
    "report": other_jobs.REPORT,
    "data_efficiency": other_jobs.DATA_EFFICIENCY,
    "compare": other_jobs.COMPARE,
    "sweep": other_jobs.SWEEP,
    "runtime": RUNTIME,
}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested mappings (fields, values, a config) by dotted path, in order."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


FIELD_AT: dict[str, Field] = flatten(FIELDS)
"""Every field by its dotted path, in the order they are declared."""

DEFAULTS: dict[str, Any] = {path: each.default for path, each in FIELD_AT.items()}
"""Every default by its dotted path."""


def default_config() -> ml_collections.ConfigDict:
    """Returns a new config with every field at its default, locked against new fields."""
    return _build(FIELDS).lock()


def _build(group: Group) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    for name, entry in group.items():
        if isinstance(entry, dict):
            config[name] = _build(entry)
        else:
            config[name] = placeholder(entry.type) if entry.optional else entry.default
    return config


def get_value(tree: Any, path: str) -> Any:
    """Returns the value at a dotted path of a config or of nested dicts."""
    for name in path.split("."):
        tree = tree[name]
    return tree


def set_value(tree: Any, path: str, value: object) -> None:
    """Sets the value at a dotted path of a config or of nested dicts."""
    *groups, name = path.split(".")
    for group in groups:
        tree = tree[group]
    tree[name] = value


def part_of(config: ml_collections.ConfigDict, paths: Iterable[str]) -> dict[str, Any]:
    """Returns the given groups and fields of a config as nested dicts; "" is the whole config."""
    whole = config.to_dict()
    part: dict[str, Any] = {}
    for path in paths:
        if not path:
            return whole
        *groups, name = path.split(".")
        target = part
        for group in groups:
            target = target.setdefault(group, {})
        target[name] = get_value(whole, path)
    return part
