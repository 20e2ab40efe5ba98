"""A workdir on another machine, such as gs://bucket/run, with a copy here that the run uses.

Objects in a bucket cannot be renamed or appended to, and a killed upload leaves some of them old
and some new. So each upload ends with a list of the run's files, the manifest, and a download takes
the files that it lists. The manifest's id tells whether another run wrote it.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smallvit_jax.errors import UserError
from smallvit_jax.process.remote import (
    RemoteFolder,
    beside,
    copy_path,
    is_remote,
    locked,
    read_json,
    write_json,
)

Files = dict[str, list[int]]  # size and time of each file of a workdir, by its path in it


class ConflictError(UserError):
    """Another run has written to the remote folder."""


@contextlib.contextmanager
def workdir_here(workdir: Path | str, seconds_between_uploads: float) -> Iterator[Path]:
    """Yields the folder of this machine for a workdir, which may be elsewhere; see RemoteWorkdir.

    Raises UserError for a remote workdir in a run of several processes, which all read it.
    """
    if not is_remote(workdir):
        yield Path(workdir)
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
        self._remote = RemoteFolder(self.url)
        self._synced: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._upload_regularly, daemon=True)
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Path:
        with contextlib.ExitStack() as entered:
            try:
                entered.enter_context(locked(self.folder, wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"{self.url} is in use by another run on this machine; wait for it or stop it, "
                    "or choose another --workdir"
                ) from error
            self._remote.check_writable()
            self._download()
            self._resources = entered.pop_all()
        self._thread.start()
        return self.folder

    def __exit__(self, kind, error, trace) -> None:
        self._stop.set()
        self._thread.join()
        with self._resources:
            try:
                self._upload()
            except UserError as failure:
                sentence = f"{failure}; the files are in {self.folder}"
                if not isinstance(failure, ConflictError):
                    sentence += ", and the same command uploads them"
                if error is None or isinstance(failure, ConflictError):
                    raise type(failure)(sentence) from failure
                print(f"warning: {sentence}", file=sys.stderr)

    def _download(self) -> None:
        manifest = self._remote.read_manifest()
        self._synced = read_json(beside(self.folder))
        if self.folder.exists() and self._is_ours(manifest):
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
        write_json(beside(self.folder), self._synced)

    def _is_ours(self, manifest: Mapping[str, Any]) -> bool:
        """Whether this copy's last upload wrote the manifest, even if its answer was lost."""
        return manifest.get("id") in (self._synced.get("id"), self._synced.get("next"))

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
            except ConflictError as conflict:
                print(f"warning: {conflict}; stopping", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGTERM)  # the run saves a checkpoint; see __exit__
                return
            except (UserError, OSError) as failure:
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
        if not self._is_ours(self._remote.read_manifest()):
            raise ConflictError(
                f"{self.url} was changed by another run; use one --workdir per run, and start one "
                "run at a time in it"
            )
        changed = [name for name, mark in files.items() if uploaded.get(name) != mark]
        changed.sort(key=lambda name: _step_of(name) is None)
        gone = self._remote.upload(changed, self.folder)
        there = uploaded.keys() | set(changed) - set(gone)
        had_steps = any(map(_step_of, files))
        files = _without_vanishing_steps(files, _snapshot(self.folder))
        files = {name: mark for name, mark in files.items() if name not in gone}
        if had_steps and not any(map(_step_of, files)):
            # Every step was replaced meanwhile; the manifest keeps the last complete ones.
            self._remote.remove(there - uploaded.keys())
            return
        new = uuid.uuid4().hex
        write_json(beside(self.folder), self._synced | {"next": new})
        self._synced["next"] = new
        sizes = {name: mark[0] for name, mark in files.items()}
        self._remote.write_manifest({"id": new, "files": sizes})
        self._synced = {"id": new, "files": files}
        write_json(beside(self.folder), self._synced)
        self._remote.remove(there - files.keys())


def _step_of(name: str) -> str | None:
    """The folder of the checkpoint that a file belongs to, if any."""
    before, found, after = f"/{name}".rpartition("/checkpoints/")
    return f"{before}{found}{after.partition('/')[0]}" if found else None


def _without_vanishing_steps(files: Files, now: Files) -> Files:
    """Leaves out checkpoints whose files are others `now`: they are being deleted."""
    vanishing = {_step_of(name) for name in files.keys() ^ now.keys()} - {None}
    return {name: mark for name, mark in files.items() if _step_of(name) not in vanishing}


def _snapshot(folder: Path) -> Files:
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
