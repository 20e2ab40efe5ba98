"""Infers the classes and parts of a folder of images from the names of its folders and files."""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from smallvit_jax.data.image_files import is_visible, list_names, visible_files
from smallvit_jax.data.subsets import NO_LABEL
from smallvit_jax.errors import UserError, did_you_mean

# Part → names of its folder, in any case.
PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "unlabeled": ("unlabeled", "unlabelled"),  # extra images for pre-training
}


class FolderPart(NamedTuple):
    """Files and their labels (-1: unlabeled)."""

    paths: list[Path]
    labels: list[int]

    @property
    def labeled(self) -> bool:
        """Whether every file has a label; true if there are no files."""
        return NO_LABEL not in self.labels


class FolderLayout(NamedTuple):
    """The files in a folder of images; they may still turn out not to be images.

    Without class folders in the training part there are no class names, and every label is -1.
    Without a `test` folder, `test` is the `val` folder, or empty if there is none.
    """

    root: Path
    class_names: tuple[str, ...]
    train: FolderPart
    validation: FolderPart
    test: FolderPart

    @property
    def field(self) -> str:
        """How messages refer to the folder."""
        return f"dataset.root={self.root}"


class _Found(NamedTuple):
    """The class folders of a part, and the files next to them."""

    folder: Path
    classes: dict[str, list[Path]]
    loose: list[Path]


def scan_folder(root: str | Path) -> FolderLayout:
    """Finds the images in a folder by name only.

    Each subfolder of the folder, or of its `train`, `val` and `test` folders if it has them, is a
    class, including any nested folders; a folder with only files has no labels. Raises UserError
    for a folder that is missing or empty, or has parts but no training part, only one class, an
    empty class, two names for one class, or a class without training images.
    """
    root = _check_root(Path(root).expanduser())
    found = {part: _scan_part(folder) for part, folder in _find_parts(root).items()}
    train = found["train"]
    class_names = tuple(sorted(train.classes))
    if class_names:
        labeled = [part for name, part in found.items() if name != "unlabeled"]
        _check_names(root, [name for part in labeled for name in part.classes])
        _check_training_classes(train)
        for part in labeled:
            _warn_of_loose_files(root, part)
    parts = {
        name: _label(root, part, class_names)
        if class_names and name != "unlabeled"
        else _unlabeled(part)
        for name, part in found.items()
    }
    if not parts["train"].paths:
        raise UserError(f"dataset.root={root} has no training images in {train.folder}; add some")
    none = FolderPart([], [])
    more = parts.get("unlabeled", none)
    validation = parts.get("validation", none)
    if "test" not in parts:
        parts["test"], validation = validation, none
    labels = parts["train"].labels + more.labels
    training = FolderPart(parts["train"].paths + more.paths, labels)
    return FolderLayout(root, class_names, training, validation, parts["test"])


def _check_root(root: Path) -> Path:
    if not root.exists():
        raise UserError(f"dataset.root={root} does not exist; give the folder of your images")
    if not root.is_dir():
        raise UserError(
            f"dataset.root={root} is a file; give a folder (unpack it first if it is an archive)"
        )
    return root


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if is_visible(p.name) and p.is_dir())


def _find_parts(root: Path) -> dict[str, Path]:
    """The folders of the parts; if there are none, the root itself is the training part."""
    parts: dict[str, Path] = {}
    others = []
    for folder in _subfolders(root):
        part = next((p for p, names in PARTS.items() if folder.name.lower() in names), None)
        if part is None:
            others.append(folder.name)
        elif part in parts:
            raise UserError(
                f"dataset.root={root} has both {parts[part].name}/ and {folder.name}/, two names "
                "for one part; keep one"
            )
        else:
            parts[part] = folder
    if not parts:
        return {"train": root}
    if "train" not in parts:
        there = " and ".join(f"{folder.name}/" for folder in parts.values())
        raise UserError(
            f"dataset.root={root} has {there} but no train/; add train/, or rename folders that "
            "are classes"
        )
    others += [p.name for p in root.iterdir() if is_visible(p.name) and p.is_file()]
    if others:
        warnings.warn(
            f"these files and folders next to {parts['train'].name}/ in dataset.root={root} are "
            f"not used: {list_names(sorted(others))}",
            stacklevel=3,
        )
    return parts


def _scan_part(folder: Path) -> _Found:
    """Finds the class folders: all subfolders, unless all are empty and there are loose files."""
    classes = {sub.name: visible_files(sub) for sub in _subfolders(folder)}
    loose = sorted(p for p in folder.iterdir() if is_visible(p.name) and p.is_file())
    if loose and not any(classes.values()):
        classes = {}
    return _Found(folder, classes, loose)


def _unlabeled(found: _Found) -> FolderPart:
    paths = [*found.loose, *(path for files in found.classes.values() for path in files)]
    return FolderPart(paths, [NO_LABEL] * len(paths))


def _label(root: Path, found: _Found, class_names: tuple[str, ...]) -> FolderPart:
    """The files of a part, labeled by class folder."""
    if not found.classes:
        return _unlabeled(found)
    for name in found.classes:
        if name not in class_names:
            raise UserError(
                f'{found.folder} has a class "{name}"{did_you_mean(name, class_names)} without '
                f"training images in dataset.root={root}; rename it, or add training images"
            )
    missing = [name for name in class_names if not found.classes.get(name)]
    if missing:
        warnings.warn(f"{found.folder} has no images of {list_names(missing)}", stacklevel=3)
    paths, labels = [], []
    for label, name in enumerate(class_names):
        files = found.classes.get(name, [])
        paths += files
        labels += [label] * len(files)
    return FolderPart(paths, labels)


def _check_training_classes(train: _Found) -> None:
    if len(train.classes) == 1:
        (name,) = train.classes
        inside = _subfolders(train.folder / name)
        deeper = f" (with subfolders {list_names([p.name for p in inside])})" if inside else ""
        raise UserError(
            f'{train.folder} has only one class folder, "{name}"{deeper}; add another class, or '
            f"set dataset.root={train.folder / name} (only for pre-training if it has no class "
            "folders)"
        )
    if empty := [name for name, files in train.classes.items() if not files]:
        raise UserError(
            f"{train.folder} has no images of {_quote(empty)}; add some, or remove the empty folder"
        )


def _check_names(root: Path, names: Iterable[str]) -> None:
    """Raises for names that differ only in case, in spaces, "_" and "-", or in Unicode form."""
    first: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
        other = first.setdefault(plain, name)
        if other != name:
            raise UserError(
                f'dataset.root={root} has class folders "{other}" and "{name}", which look like '
                "two names for one class; use the same name for both, or names that differ more"
            )


def _warn_of_loose_files(root: Path, found: _Found) -> None:
    if found.classes and found.loose:
        warnings.warn(
            f"{len(found.loose)} files next to the class folders{_where(root, found.folder)} of "
            f"dataset.root={root} have no labels and are not used: "
            f"{list_names([path.name for path in found.loose])}",
            stacklevel=3,
        )


def _where(root: Path, folder: Path) -> str:
    return "" if folder == root else f" in {folder.name}/"


def _quote(names: Sequence[str]) -> str:
    return list_names([f'"{name}"' for name in names])
