"""The environment that a run's bits depend on: versions, devices, threads, XLA flags."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

from smallvit_jax.version import __version__

_PACKAGES = {"flax": "flax", "optax": "optax", "orbax": "orbax-checkpoint", "numpy": "numpy"}
_VERSIONS_THAT_CHANGE_BITS = ("smallvit_jax", "jax", "jaxlib", "flax", "optax")


def environment() -> dict[str, Any]:
    """Returns versions, devices, threads and XLA flags of this process, ready for JSON."""
    import jaxlib

    versions = {
        "smallvit_jax": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
    versions |= {name: importlib.metadata.version(pip) for name, pip in _PACKAGES.items()}
    return {
        "versions": versions,
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "threads": _threads(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def bit_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Lists the differences between two environments that can change a result's bits.

    The number of threads matters on the CPU only, where XLA splits sums by it.
    """
    fields = ["platform", "device_kind", "device_count", "process_count", "xla_flags"]
    if now["platform"] == "cpu":
        fields.append("threads")
    pairs = [(name.replace("_", " "), before.get(name), now[name]) for name in fields]
    versions = before.get("versions", {})
    pairs += [(n, versions.get(n), now["versions"][n]) for n in _VERSIONS_THAT_CHANGE_BITS]
    return [f"{name} {old!s} → {new!s}" for name, old, new in pairs if old != new]


def _threads() -> int:
    """Returns the number of threads of XLA's CPU client: NPROC if set, else the available cores."""
    given = os.environ.get("NPROC", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
