"""Small files that stay readable after a kill, a full disk or a NaN."""

import csv
import errno
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smallvit_jax.errors import UserError


class StorageError(UserError):
    """A path cannot be written: the disk is full, or the user lacks permission."""


def make_folder(path: str | os.PathLike) -> Path:
    """Creates a writable folder and its parents; raises StorageError."""
    folder = Path(path).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise storage_error(PermissionError(errno.EACCES, "permission denied"), folder)
    return folder


def strict_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON that every parser accepts.

    NaN and infinities, which JSON lacks, become the strings "NaN", "Infinity" and "-Infinity" that
    float() reads back. NumPy and JAX scalars and arrays become numbers and lists.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy and JAX
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns rows as CSV with a column for every key of any row; None and missing are empty."""
    rows = list(rows)
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file at once: readers see the old or the new text, even after a kill.

    Bytes of a file name that are not UTF-8 become escapes such as \\udce9, which JSON reads back.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(error, path) from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Replaces an .npz file as `write_atomically` does; lists become arrays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(error, path) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota caused an exception, however deeply it is wrapped."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def storage_error(error: Exception, path: str | os.PathLike) -> StorageError:
    """Returns the error for a path that could not be written."""
    if is_disk_full(error):
        return StorageError(
            f"the disk holding {path} is full; free space and run the same command again"
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        where = error.filename or path
        return StorageError(f"{where} is a file, but a folder is needed; choose another --workdir")
    reason = ((isinstance(error, OSError) and error.strerror) or str(error)).lower()
    return StorageError(f"{path} cannot be written ({reason}); choose a writable --workdir")
