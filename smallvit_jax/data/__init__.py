"""Reads datasets, selects subsets of them and orders batches."""

import importlib

__all__ = ["DatasetInfo", "load_split"]

_HOMES = {"DatasetInfo": "datasets", "load_split": "reading"}


def __getattr__(name: str):
    # Imported on first use: the config needs the dataset table but not NumPy.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
