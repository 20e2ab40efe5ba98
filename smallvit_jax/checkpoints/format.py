"""The format of a checkpoint, and the checks when it is read.

A step folder has three items: `state` and `params`, each a flat dict of arrays keyed by dotted
path, and `meta`, a JSON dict. The array files have no checksum, so `meta` lists the shape, dtype
and digest of every array and has a digest of itself: a single flipped bit is detected.
"""

import functools
import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smallvit_jax.errors import UserError
from smallvit_jax.workdir.environment import environment

FORMAT = "smallvit_jax checkpoint"
FORMAT_VERSION = 1
ITEMS = ("state", "params", "meta")

Table = dict[str, dict[str, Any]]


class DamagedCheckpointError(Exception):
    """Files of a checkpoint are missing, torn or corrupted; the message names them briefly."""


class ForeignCheckpointError(UserError):
    """An intact checkpoint that does not belong to this run; `cause` says why in a few words."""

    def __init__(self, cause: str, sentence: str):
        super().__init__(sentence)
        self.cause = cause


def flatten(tree: Any) -> dict[str, Any]:
    """Returns a pytree's leaves by dotted path, such as `optimizer.0.mu.blocks.0.kernel`."""
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in flat:
            raise ValueError(f"two leaves share the path {name!r}")
        flat[name] = leaf
    return flat


def to_host(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copies leaves to host memory; the original buffers may then be donated."""
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return {name: _to_host(name, leaf) for name, leaf in leaves.items()}


def _to_host(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(f"{name!r} is a typed PRNG key; store its jax.random.key_data")
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            from jax.experimental import multihost_utils

            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    array = np.array(leaf, order="C", copy=True)
    if array.dtype.kind in "OUSMm":
        raise ValueError(f"{name!r} is a {type(leaf).__name__}, which a checkpoint cannot hold")
    return array


def describe(arrays: Mapping[str, np.ndarray]) -> Table:
    """Returns the shape, dtype and digest of each array."""
    return {
        name: {"shape": list(a.shape), "dtype": a.dtype.name, "digest": digest(a)}
        for name, a in arrays.items()
    }


def digest(data: np.ndarray | str) -> str:
    """Returns a 128-bit BLAKE2b hash of an array's bytes or of a text, in hexadecimal."""
    raw = data.encode() if isinstance(data, str) else data.reshape(-1).view(np.uint8).data
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def seal(
    meta: Mapping[str, Any],
    step: int,
    metrics: Mapping[str, Any],
    arrays: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """Returns the `meta` item: the caller's entries, those of the format, and a digest of all.

    Raises ValueError for a reserved name, TypeError for a value that JSON cannot represent.
    """
    added = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": int(step),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "environment": environment(),
        "arrays": {item: describe(entries) for item, entries in arrays.items()},
    }
    if clash := {*added, "digest"} & meta.keys():
        raise ValueError(f"meta may not set {sorted(clash)}")
    plain = json.loads(json.dumps({**meta, **added}))
    return plain | {"digest": digest(json.dumps(plain, sort_keys=True))}


def storable(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops empty arrays, which orbax refuses and `meta` describes in full."""
    return {name: array for name, array in arrays.items() if array.size}


def read_meta(folder: Path) -> dict[str, Any]:
    """Reads and checks the `meta` of a step folder.

    Raises DamagedCheckpointError, ForeignCheckpointError if another program wrote the files, or
    UserError for another version of the format.
    """
    import orbax.checkpoint as ocp

    quiet_orbax()
    present = _guarded("folder", lambda: {entry.name for entry in folder.iterdir()})
    if present and present.isdisjoint(ITEMS):
        cause = f"it holds {', '.join(sorted(present)[:3])}"
        raise ForeignCheckpointError(
            cause,
            f"{folder} is not a smallvit_jax checkpoint ({cause}); give a folder that a run of "
            "smallvit_jax wrote",
        )
    meta = _guarded(
        "meta", lambda: ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / "meta")
    )
    if not isinstance(meta, dict) or "digest" not in meta:
        cause = "its meta has no digest"
        raise ForeignCheckpointError(cause, f"{folder} is not a smallvit_jax checkpoint: {cause}")
    rest = {key: value for key, value in meta.items() if key != "digest"}
    if digest(json.dumps(rest, sort_keys=True)) != meta["digest"]:
        raise DamagedCheckpointError("its meta is corrupted")
    if meta.get("format") != FORMAT or meta.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder} has format {meta.get('format')!r} version {meta.get('format_version')}, but "
            f"this smallvit_jax reads version {FORMAT_VERSION}; use the version that wrote it"
        )
    return rest


def read_arrays(folder: Path, item: str, meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reads one item into host memory and checks every array; works on any number of devices.

    Raises DamagedCheckpointError.
    """
    import orbax.checkpoint as ocp

    quiet_orbax()
    table: Table = meta["arrays"][item]
    arrays = {n: np.zeros(row["shape"], jnp.dtype(row["dtype"])) for n, row in table.items()}
    target = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in storable(arrays)}
    if target:
        arrays |= _guarded(
            item,
            lambda: ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
                folder / item, args=ocp.args.PyTreeRestore(restore_args=target)
            ),
        )
    found = describe(arrays)
    for name, row in table.items():
        if found[name] != row:
            raise DamagedCheckpointError(f"{name} in its {item} is corrupted")
    return arrays


def _guarded(item: str, read) -> Any:
    """Turns any orbax, tensorstore or json error on a torn file into DamagedCheckpointError."""
    try:
        return read()
    except (MemoryError, PermissionError):
        raise
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"its {item} is missing") from error
    except Exception as error:
        raise DamagedCheckpointError(f"its {item} cannot be read") from error


def check_fits(table: Table, template: Mapping[str, Any], source: str) -> None:
    """Raises ForeignCheckpointError naming the leaves in which checkpoint and template differ."""
    expected = {name: f"{_dtype(x).name}{list(np.shape(x))}" for name, x in template.items()}
    found = {name: f"{row['dtype']}{row['shape']}" for name, row in table.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in expected]
    problems += [
        f"{name} is {found[name]} instead of {kind}"
        for name, kind in expected.items()
        if name in found and found[name] != kind
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        cause = f"{', '.join(problems[:3])}{more}"
        raise ForeignCheckpointError(
            cause,
            f"{source} does not fit this run: {cause}; use the config it was trained with, or "
            "choose another --workdir",
        )


def _dtype(leaf: Any) -> np.dtype:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def place(array: np.ndarray, like: Any) -> Any:
    """Converts a host array to the kind, devices and sharding of a template's leaf.

    The result owns its memory and may be donated.
    """
    if isinstance(like, (bool, int, float, complex)):
        return type(like)(array.item())
    if not isinstance(like, (jax.Array, jax.ShapeDtypeStruct)):
        return array if isinstance(like, np.ndarray) else array[()]
    value: Any = array
    if like.weak_type and array.ndim == 0:  # stay weakly typed: promotion depends on it
        value = jnp.asarray(array.item())
    sharding = like.sharding
    if sharding is None or (isinstance(like, jax.Array) and not like.committed):
        return jnp.array(value, copy=True)
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding, may_alias=False)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


@functools.cache
def quiet_orbax() -> None:
    """Silences orbax's output: a log of every save, and pages of tracebacks for one torn file.

    Errors still reach the caller as exceptions. After a read fails, orbax closes the event loop
    that other reads are still using, and each of them would print a traceback.
    """
    orbax = f"{os.sep}orbax{os.sep}"
    logging.getLogger("absl").addFilter(lambda record: orbax not in record.pathname)
    previous = sys.excepthook

    def hook(kind, error, trace):
        late = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (late and threading.current_thread() is not threading.main_thread()):
            previous(kind, error, trace)

    sys.excepthook = hook
