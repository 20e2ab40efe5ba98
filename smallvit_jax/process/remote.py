"""Folders on other machines, such as gs://bucket/data, through fsspec.

Everything else in the package works on folders of this machine. A remote folder that is only read
(a dataset, a checkpoint) is copied here first; for workdirs see `remote_workdir.py`. Any address
that fsspec knows works; gs:// needs gcsfs.
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from smallvit_jax.errors import UserError
from smallvit_jax.process.terminal import progress

COPIES = "~/.cache/smallvit_jax/remote"
MANIFEST = ".manifest.json"
_RECORD = ".synced.json"  # beside a local copy: which remote files it has
_OBJECT_STORES = ("gs", "gcs", "s3", "s3a", "az", "abfs")
_PARTIAL = ".part"
_IN_FLIGHT = 8  # files at a time
_FILES_WORTH_A_BAR = 2


# What the same command meets again: a bucket that does not exist, a missing permission, a file in
# the way.
_MISTAKES = (FileNotFoundError, PermissionError, FileExistsError, NotADirectoryError)


class RemoteError(UserError):
    """A remote folder could not be reached; the same command may succeed later."""


def is_remote(path: str | os.PathLike | None) -> bool:
    """Whether a path is the address of a folder elsewhere, such as gs://bucket/run."""
    return path is not None and "://" in os.fspath(path)


def copy_path(url: str, use: str = "read") -> Path:
    """Returns the folder of this machine for the copy of a remote folder: to "read", or a run's."""
    scheme, _, path = url.partition("://")
    return Path(COPIES).expanduser() / use / scheme / path.strip("/")


def local_copy(path: str | os.PathLike, *, missing_ok: bool = False) -> Path:
    """Returns a folder of this machine with the files of `path`, which may be remote.

    A local path is returned as it is. Of a remote one, only what has changed since the last copy is
    downloaded. Raises UserError if it cannot be reached, or if it holds nothing and not
    `missing_ok`, with which the returned folder may not exist.
    """
    if not is_remote(path):
        return Path(path)
    url = os.fspath(path).rstrip("/")
    remote, folder = RemoteFolder(url), copy_path(url)
    with locked(folder):  # other processes of this machine wait until the copy is complete
        files = {name: _fingerprint(info) for name, info in remote.files().items()}
        if not files and not missing_ok:
            raise UserError(f"there is nothing at {url}; check the address")
        before = read_json(beside(folder)).get("files", {})
        kept = {name: mark for name, mark in files.items() if before.get(name) == mark}
        if kept != files or before != files:
            write_json(beside(folder), {"files": kept})
            for name in before.keys() - files.keys():
                (folder / name).unlink(missing_ok=True)
            remote.download(files.keys() - kept.keys(), folder)
            write_json(beside(folder), {"files": files})
    return folder


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Keeps other processes of this machine from using a copy; the lock ends with the process.

    Raises BlockingIOError if another one uses it and not `wait`.
    """
    path = folder.with_name(f"{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


class RemoteFolder:
    """The files of one remote folder, by their path in it."""

    def __init__(self, url: str):
        import fsspec

        self.url = url
        self._at_once = url.partition("://")[0] in _OBJECT_STORES
        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            scheme = url.partition("://")[0]
            extra = "; pip install 'smallvit_jax[gcs]'" if scheme in ("gs", "gcs") else ""
            raise UserError(f"{url} cannot be used ({error}){extra}") from error
        except ValueError as error:
            raise UserError(f"{url} cannot be used ({error})") from error

    def files(self) -> dict[str, dict[str, Any]]:
        """Returns what the file system knows about each file, without the manifest."""
        with self._reading():
            self._system.invalidate_cache()
            found = self._system.find(self._root, detail=True)
        start = len(self._root.rstrip("/")) + 1
        named = {path[start:]: info for path, info in found.items()}
        return {n: i for n, i in named.items() if n != MANIFEST and not n.endswith(_PARTIAL)}

    def read_manifest(self) -> dict[str, Any]:
        with self._reading():
            try:
                return json.loads(self._system.cat_file(f"{self._root}/{MANIFEST}"))
            except FileNotFoundError:
                return {}

    def check_writable(self) -> None:
        """Raises UserError unless files can be written and removed."""
        probe = f"{self._root}/.probe"
        with self._writing():
            self._system.makedirs(self._root, exist_ok=True)
            self._system.pipe_file(probe, b"")
            self._system.rm_file(probe)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        text = json.dumps(manifest).encode()
        with self._writing(), self._replacing(MANIFEST) as path:
            self._system.pipe_file(path, text)

    @contextlib.contextmanager
    def _replacing(self, name: str) -> Iterator[str]:
        """Yields where to write a file so that readers see the old or the new one after a kill.

        Stores of objects replace them at once; in folders, the new file is renamed.
        """
        path = f"{self._root}/{name}"
        if self._at_once:
            yield path
            return
        yield f"{path}{_PARTIAL}"
        self._system.mv(f"{path}{_PARTIAL}", path)

    def download(self, names: Iterable[str], folder: Path) -> None:
        names = list(names)
        for parent in {(folder / name).parent for name in names}:
            parent.mkdir(parents=True, exist_ok=True)

        def get(name: str) -> None:
            partial = folder / f"{name}{_PARTIAL}"
            self._system.get_file(f"{self._root}/{name}", str(partial))
            partial.replace(folder / name)

        with (
            self._reading(),
            ThreadPoolExecutor(_IN_FLIGHT) as pool,
            progress(f"copying {self.url}", len(names), worth_a_bar=_FILES_WORTH_A_BAR) as advance,
        ):
            for _ in pool.map(get, names):
                advance(1)

    def upload(self, names: Sequence[str], folder: Path) -> set[str]:
        """Uploads files in this order, some at a time; returns those that are gone by now."""

        def put(name: str) -> str | None:
            try:
                with self._replacing(name) as path:
                    self._system.put_file(str(folder / name), path)
            except FileNotFoundError:
                if (folder / name).exists():
                    raise
                return name
            return None

        with self._writing(), ThreadPoolExecutor(_IN_FLIGHT) as pool:
            for parent in {os.path.dirname(f"{self._root}/{name}") for name in names}:
                self._system.makedirs(parent, exist_ok=True)
            return {name for name in pool.map(put, names) if name is not None}

    def remove(self, names: Iterable[str]) -> None:
        with self._writing():
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._system.rm_file(f"{self._root}/{name}")

    def _reading(self):
        return _failures(f"{self.url} cannot be read")

    def _writing(self):
        return _failures(f"{self.url} cannot be written")


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turns what a file system raises into a UserError, or what may pass into a RemoteError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # this machine's disk
        reason = str(error).strip().splitlines() or [type(error).__name__]
        kind = UserError if isinstance(error, _MISTAKES) else RemoteError
        raise kind(f"{what} ({reason[0][:200]})") from error


def _fingerprint(info: Mapping[str, Any]) -> str:
    """A text that changes whenever a remote file does."""
    marks = ("size", "etag", "ETag", "md5Hash", "generation", "mtime", "updated", "LastModified")
    return " ".join(f"{name}={info[name]}" for name in marks if name in info)


def beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_RECORD}")


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)
