"""A dataset as its authors distribute it: archives, folders, or both."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from smallvit_jax.errors import UserError
from smallvit_jax.process.terminal import progress


@dataclass(frozen=True)
class OriginalLayout:
    """How to recognize an original.

    A folder that contains any of the paths in `signs` is an unpacked original. `recognize` maps the
    path of a file that belongs to the dataset to its key ("train/cat/1.png"), others to None.
    """

    wanted: str  # what to pass as --manual_dir, for messages
    archives: tuple[str, ...]  # patterns of the archives' names
    contents: tuple[str, ...]  # files and folders in the unpacked original
    signs: tuple[str, ...]
    recognize: Callable[[str], str | None]


class Original:
    """The files of an original by key, wherever they are in archives and folders.

    Nothing is unpacked to disk. `path` is an archive, an unpacked folder, or a folder that contains
    either, up to two levels down. A file that occurs twice counts once. Raises UserError if nothing
    in the `layout` is found or an archive cannot be read to its end.
    """

    def __init__(self, path: str | Path, layout: OriginalLayout):
        self.path = Path(path).expanduser().absolute()
        self._sources = _find_sources(self.path, layout)
        self._where: dict[str, tuple[int, str]] = {}  # key → source, name in source
        with progress("listing files", None) as advance:
            for number, source in enumerate(self._sources):
                for name in _guarded(source, source.names()):
                    key = None if _is_hidden(name) else layout.recognize(name)
                    if key is not None:
                        self._where.setdefault(key, (number, name))
                    advance(1)
        if not self._where:
            raise _nothing_in(self.path, layout)

    @property
    def files(self) -> Collection[str]:
        """The keys of all files in the dataset, in the order found."""
        return self._where.keys()

    def read(self, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yields key and content for each of `keys`, which must exist, in the order stored."""
        for number, source in enumerate(self._sources):
            names = {self._where[key][1]: key for key in keys if self._where[key][0] == number}
            if names:
                for name, content in _guarded(source, source.read(names)):
                    yield names[name], content

    def read_text(self, key: str) -> str:
        """Reads one small text file; raises UserError if it is missing."""
        return self.read_file(key).decode("utf-8", errors="replace")

    def read_file(self, key: str) -> bytes:
        """Reads one small file; raises UserError if it is missing."""
        if key not in self._where:
            raise UserError(f"{self.path} has no file {key}; download the original again")
        return next(content for _, content in self.read([key]))


class _Folder:
    def __init__(self, path: Path):
        self.path = path

    def names(self) -> Iterator[str]:
        if self.path.is_file():
            yield self.path.name
            return
        for folder, subfolders, files in os.walk(self.path):
            subfolders.sort()
            for file in sorted(files):
                path = Path(folder, file).relative_to(self.path.parent)
                yield path.as_posix()

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            yield name, (self.path.parent / name).read_bytes()


class _Zip:
    def __init__(self, path: Path):
        self.path = path

    def names(self) -> Iterator[str]:
        with zipfile.ZipFile(self.path) as archive:
            yield from (info.filename for info in archive.infolist() if not info.is_dir())

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            for name in names:
                yield name, archive.read(name)


class _Tar:
    """Read from start to end each time, since a compressed tar file has no index."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> Iterator[str]:
        with tarfile.open(self.path) as archive:
            for member in archive:
                if member.isfile():
                    yield member.name
                # Else tarfile keeps them all in memory. Its stub lacks the attribute.
                archive.members = []  # type: ignore[attr-defined]

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        left = set(names)
        with tarfile.open(self.path) as archive:
            for member in archive:
                if member.isfile() and member.name in left:
                    left.remove(member.name)
                    file = archive.extractfile(member)
                    assert file is not None  # only what is not a file has no content
                    yield member.name, file.read()
                if not left:
                    return
                archive.members = []  # type: ignore[attr-defined]


def _find_sources(path: Path, layout: OriginalLayout) -> list:
    if not path.exists():
        raise UserError(f'--manual_dir "{path}" does not exist; pass {layout.wanted}')
    if path.is_file():
        return [_open_archive(path)]
    for folder in _with_subfolders(path, levels=2):
        unpacked, packed = [], []
        if any((folder / sign).exists() for sign in layout.signs):
            inside = (folder / name for name in layout.contents)
            unpacked = [_Folder(entry) for entry in inside if entry.exists()]
        for entry in sorted(folder.iterdir()):
            if any(fnmatch(entry.name, pattern) for pattern in layout.archives):
                packed += [_open_archive(entry)] if entry.is_file() else []
        if unpacked or packed:
            return unpacked + packed
    raise _nothing_in(path, layout)


def _nothing_in(path: Path, layout: OriginalLayout) -> UserError:
    return UserError(f'--manual_dir "{path}" has no files of the dataset; pass {layout.wanted}')


def _with_subfolders(path: Path, levels: int) -> Iterator[Path]:
    """Yields the folder, then its subfolders level by level; skips unreadable ones."""
    folders = [path]
    for _ in range(levels + 1):
        yield from folders
        children = (child for folder in folders for child in sorted(folder.iterdir()))
        folders = [child for child in children if child.is_dir() and os.access(child, os.R_OK)]


def _open_archive(path: Path) -> _Zip | _Tar:
    if zipfile.is_zipfile(path):
        return _Zip(path)
    try:
        tarfile.open(path).close()
    except Exception as error:
        raise UserError(
            f"{path} is not a zip or tar archive, or is truncated ({_reason(error)}); download it "
            "again"
        ) from error
    return _Tar(path)


def _guarded(source, items: Iterator) -> Iterator:
    """Turns any error that a broken file raises into a UserError."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except PermissionError:
            raise
        except Exception as error:
            raise UserError(
                f"{source.path} is damaged or truncated ({_reason(error)}); download it again"
            ) from error
        yield item


def _is_hidden(name: str) -> bool:
    """Whether macOS or another system added this file to an archive or folder."""
    parts = name.removeprefix("./").split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
