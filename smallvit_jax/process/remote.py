"""Folders on other machines, such as gs://bucket/run, through fsspec.

Everything else in the package works on folders of this machine. A remote folder that is only read
(a dataset, a checkpoint) is copied here first, and a remote workdir has a local copy that is
uploaded while the run goes on. Any address that fsspec knows works; gs:// needs gcsfs.

Objects in a bucket cannot be renamed or appended to, and a killed upload leaves some of them old
and some new. So each upload ends with a list of the run's files, the manifest, and a download takes
the files that it lists.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from smallvit_jax.errors import UserError
from smallvit_jax.process.terminal import progress

COPIES = "~/.cache/smallvit_jax/remote"
_MANIFEST = ".manifest.json"
_SYNCED = ".synced.json"  # beside a local copy: what it had in common with the remote folder
_AT_ONCE = 8  # files in flight
_FILES_WORTH_A_BAR = 2


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
    remote = _Remote(url)
    files = {name: _fingerprint(info) for name, info in remote.files().items()}
    if not files and not missing_ok:
        raise UserError(f"there is nothing at {url}; check the address")
    folder = copy_path(url)
    before = _read_json(_beside(folder)).get("files", {})
    _write_json(_beside(folder), {"files": {}})  # until the copy is complete
    for name in before.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    known = {name for name, mark in files.items() if before.get(name) == mark}
    remote.download(files.keys() - known, folder)
    _write_json(_beside(folder), {"files": files})
    return folder


@contextlib.contextmanager
def workdir_here(
    workdir: Path | str | None, seconds_between_uploads: float
) -> Iterator[Path | None]:
    """Yields the folder of this machine for a workdir, which may be elsewhere; see RemoteWorkdir.

    Raises UserError for a remote workdir in a run of several processes, which all read it.
    """
    if workdir is None or not is_remote(workdir):
        yield None if workdir is None else Path(workdir)
        return
    import jax

    if jax.process_count() > 1:
        raise UserError(
            f"--workdir={workdir} cannot be used by {jax.process_count()} processes, which need a "
            "folder that all of them see; mount a shared disk, or the bucket with gcsfuse, and "
            "give that folder"
        )
    with RemoteWorkdir(str(workdir), seconds_between_uploads) as folder:
        yield folder


class RemoteWorkdir:
    """A workdir elsewhere, with a copy on this machine that a run reads and writes.

    Entering downloads the remote files, unless the local copy is at least as new. Until it exits,
    what has changed is uploaded in the background, and everything that is left when it exits. If
    the remote folder has moved on since, a local copy with files that were never uploaded is
    renamed to `<name>.not-uploaded`.
    """

    def __init__(self, url: str, seconds_between_uploads: float):
        self.url = url.rstrip("/")
        self.folder = copy_path(self.url, "workdir")
        self._seconds = seconds_between_uploads
        self._remote = _Remote(self.url)
        self._synced: dict[str, Any] = {}
        self._stop = threading.Event()
        self._lock: IO[str] | None = None
        self._thread = threading.Thread(target=self._upload_regularly, daemon=True)

    def __enter__(self) -> Path:
        self._lock_copy()
        self._download()
        self._thread.start()
        return self.folder

    def _lock_copy(self) -> None:
        """Makes sure that this process is the only one of this machine that uses the copy."""
        path = self.folder.with_name(f"{self.folder.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(path, "w")  # noqa: SIM115 released when the process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self.url} is in use by another run on this machine; wait for it or stop it, or "
                "choose another --workdir"
            ) from error

    def __exit__(self, kind, error, trace) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._upload_and_unlock()
        except UserError as failure:
            sentence = f"{failure}; the files are in {self.folder}, and the same command uploads"
            if error is None:
                raise UserError(f"{sentence} them") from failure
            print(f"warning: {sentence} them", file=sys.stderr)

    def _upload_and_unlock(self) -> None:
        try:
            self._upload()
        finally:
            if self._lock is not None:
                self._lock.close()

    def _download(self) -> None:
        manifest = self._remote.read_manifest()
        self._synced = _read_json(_beside(self.folder))
        if self.folder.exists() and self._synced.get("id") == manifest.get("id"):
            return
        self._set_aside()
        files = manifest.get("files")
        if files is None:  # put there by hand, or nothing
            files = {name: info["size"] for name, info in self._remote.files().items()}
        partial = self.folder.with_name(f"{self.folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self._remote.download(files, partial)
        partial.rename(self.folder)
        self._synced = {"id": manifest.get("id"), "files": _snapshot(self.folder)}
        _write_json(_beside(self.folder), self._synced)

    def _set_aside(self) -> None:
        if not self.folder.exists():
            return
        if _snapshot(self.folder) == self._synced.get("files"):
            shutil.rmtree(self.folder)
            return
        target = self.folder.with_name(f"{self.folder.name}.not-uploaded")
        while target.exists():
            target = target.with_name(f"{target.name}+")
        self.folder.rename(target)
        print(
            f"warning: {self.url} is newer than its copy on this machine, which was not uploaded; "
            f"the copy is now {target}",
            file=sys.stderr,
        )

    def _upload_regularly(self) -> None:
        warned = False
        while not self._stop.wait(self._seconds):
            try:
                self._upload()
                warned = False
            except UserError as failure:
                if not warned:  # once per series of failures
                    print(f"warning: {failure}; trying again", file=sys.stderr, flush=True)
                warned = True

    def _upload(self) -> None:
        """Uploads new and changed files, then the manifest, then removes what is gone.

        Checkpoints come first: metrics that are newer than the checkpoint are cut back to it when
        the run resumes, while older ones would be missing.
        """
        files = _snapshot(self.folder)
        uploaded = self._synced.get("files", {})
        if files == uploaded:
            return
        if self._remote.read_manifest().get("id") != self._synced.get("id"):
            raise UserError(
                f"{self.url} was changed by another run; use one --workdir per run, and start one "
                "run at a time in it"
            )
        changed = [name for name, mark in files.items() if uploaded.get(name) != mark]
        changed.sort(key=lambda name: "/checkpoints/" not in f"/{name}")
        gone = self._remote.upload(changed, self.folder)
        files = {name: mark for name, mark in files.items() if name not in gone}
        manifest = {
            "id": uuid.uuid4().hex,
            "files": {name: mark[0] for name, mark in files.items()},
        }
        self._remote.write_manifest(manifest)
        self._synced = {"id": manifest["id"], "files": files}
        _write_json(_beside(self.folder), self._synced)
        self._remote.remove(uploaded.keys() - files.keys())


class _Remote:
    """The files of one remote folder, by their path in it."""

    def __init__(self, url: str):
        import fsspec

        self.url = url
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
        return {path[start:]: info for path, info in found.items() if path[start:] != _MANIFEST}

    def read_manifest(self) -> dict[str, Any]:
        with self._reading():
            try:
                return json.loads(self._system.cat_file(f"{self._root}/{_MANIFEST}"))
            except FileNotFoundError:
                return {}

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        with self._writing():
            self._system.pipe_file(f"{self._root}/{_MANIFEST}", json.dumps(manifest).encode())

    def download(self, names: Iterable[str], folder: Path) -> None:
        names = list(names)
        for parent in {(folder / name).parent for name in names}:
            parent.mkdir(parents=True, exist_ok=True)

        def get(name: str) -> None:
            self._system.get_file(f"{self._root}/{name}", str(folder / name))

        with (
            self._reading(),
            ThreadPoolExecutor(_AT_ONCE) as pool,
            progress(f"copying {self.url}", len(names), worth_a_bar=_FILES_WORTH_A_BAR) as advance,
        ):
            for _ in pool.map(get, names):
                advance(1)

    def upload(self, names: Sequence[str], folder: Path) -> set[str]:
        """Uploads files in this order, some at a time; returns those that are gone by now."""

        def put(name: str) -> str | None:
            try:
                self._system.put_file(str(folder / name), f"{self._root}/{name}")
            except FileNotFoundError:
                if (folder / name).exists():
                    raise
                return name
            return None

        with self._writing(), ThreadPoolExecutor(_AT_ONCE) as pool:
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
    """Turns whatever a file system raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{what} ({reason[0][:200]})") from error


def _fingerprint(info: Mapping[str, Any]) -> str:
    """A text that changes whenever a remote file does."""
    marks = ("size", "etag", "ETag", "md5Hash", "generation", "mtime", "updated", "LastModified")
    return " ".join(f"{name}={info[name]}" for name in marks if name in info)


def _snapshot(folder: Path) -> dict[str, list[int]]:
    """Size and time of every file of a workdir that belongs to the run, by its path in it."""
    found = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if ".orbax-checkpoint-tmp" not in name]
        for name in names:
            if name == ".lock" or (name.startswith(".") and name.endswith(".tmp")):
                continue
            path = Path(root, name)
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    return found


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_SYNCED}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)
