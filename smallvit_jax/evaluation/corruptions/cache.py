"""Disk cache of corrupted images: one file per kind and severity of a set of images."""

import contextlib
import hashlib
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

_FORMAT = 1  # increment when a corruption changes


class CorruptionCache:
    """A cache in `<folder>/<name>-<digest of images and indices>`; its files carry checksums.

    It never stops an evaluation: unreadable files are generated again, and if the disk is full or
    the folder is not writable, it prints one warning and stops writing.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        name: str,
        images: UInt8[np.ndarray, "images size size 3"],
        indices: Int[np.ndarray, " images"],
        *,
        write: bool = True,
    ):
        digest = hashlib.sha256(repr((_FORMAT, images.shape)).encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(indices, np.int64).data)
        self._shape = images.shape
        self._folder = Path(folder).expanduser() / f"{name}-{digest.hexdigest()[:16]}"
        self._write = write

    def path(self, kind: str, severity: int) -> Path:
        """The file of a kind and severity."""
        return self._folder / f"{kind}_{severity}.npz"

    def read(self, kind: str, severity: int) -> UInt8[np.ndarray, "images size size 3"] | None:
        """Returns the cached images; None if they are missing or damaged."""
        try:
            with np.load(self.path(kind, severity), allow_pickle=False) as file:
                images = file["images"]
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile):
            return None
        return images if images.shape == self._shape and images.dtype == np.uint8 else None

    def write(
        self, kind: str, severity: int, images: UInt8[np.ndarray, "images size size 3"]
    ) -> None:
        """Writes images to the cache; readers see the whole file or none."""
        if not self._write:
            return
        path = self.path(kind, severity)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez(file, images=images)
            os.replace(temporary, path)
        except OSError as error:
            self._write = False
            with contextlib.suppress(OSError):
                temporary.unlink()
            print(
                f"warning: cannot cache corrupted images in {path.parent} ({error.strerror}); set "
                "--config.evaluate.corruptions.cache to another folder",
                file=sys.stderr,
            )
