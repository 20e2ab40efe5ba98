"""Finds image files of any format and size, and reads them as squares of one size."""

import hashlib
import io
import math
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from smallvit_jax.errors import UserError
from smallvit_jax.process.terminal import progress

MOST_NAMES = 30  # files listed in one message
# Files and folders that file managers create; names that start with a dot are skipped as well.
_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}
FILES_WORTH_A_BAR = 200  # a photograph takes about ten milliseconds
# EXIF orientation → method of Pillow's Image.transpose (CIPA DC-008, tag 274).
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class ImageFiles(NamedTuple):
    """The result of reading a list of files."""

    images: UInt8[np.ndarray, "images size size 3"]
    kept: list[int]  # each image's index in the list of files
    unreadable: list[tuple[Path, str]]  # the other files, and what is wrong with each
    digests: list[bytes]  # hash of each kept file's content


def find_images(path: Path) -> list[Path]:
    """Returns the file itself, or all files in a folder and its subfolders, sorted.

    Skips hidden files and those that file managers create; does not check whether the others are
    images. Raises UserError if the path does not exist or the folder has no files.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}; give an image or a folder of images")
    if not (files := visible_files(path)):
        raise UserError(f"{path} contains no images; give an image or a folder of images")
    return files


def visible_files(folder: Path) -> list[Path]:
    """Returns all files in a folder and its subfolders that are not hidden, sorted by path."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # links may form cycles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if is_visible(name)]
        found += [Path(place, name) for name in files if is_visible(name)]
    return sorted(found)


def is_visible(name: str) -> bool:
    """Whether a name is neither hidden nor created by a file manager."""
    return not name.startswith(".") and name.lower() not in _LEFT_BEHIND


def read_images(
    paths: Sequence[Path], size: int, *, unreadable_fraction: float, what: str
) -> ImageFiles:
    """Like `decode_images`, but fails if too many files are unreadable.

    Up to `unreadable_fraction` of the files may be broken or not images; they are skipped with a
    warning that names them. Raises UserError, naming them too, if there are more or no images are
    left. `what` says where the files come from, as in "dataset.root=photos".
    """
    files = decode_images(paths, size)
    judge_unreadable(files.unreadable, len(paths), unreadable_fraction, what)
    return files


def decode_images(paths: Sequence[Path], size: int, squeeze: bool = False) -> ImageFiles:
    """Decodes image files, reading each once, to uint8 RGB squares of `size` pixels per side.

    Accepts anything that Pillow opens: 16-bit and float images are scaled to 8 bits, transparent
    ones are composited onto white, the EXIF orientation is applied, and only the first of several
    frames is used. Color profiles are ignored. The shorter side is scaled to `size` (bicubic,
    antialiased) and the center is cropped; with `squeeze`, both sides are scaled and nothing is
    cropped. Files that are broken or not images are listed with the reason.
    """
    from PIL import Image

    Image.init()  # registers all file formats now, so that threads do not do it concurrently
    images = np.empty((len(paths), size, size, 3), np.uint8)
    digests: list[bytes] = []
    kept: list[int] = []
    unreadable: list[tuple[Path, str]] = []
    with (
        warnings.catch_warnings(),
        progress("reading images", len(paths), worth_a_bar=FILES_WORTH_A_BAR) as advance,
        ThreadPoolExecutor(thread_name_prefix="decode") as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata; errors are handled below
        try:
            results = pool.map(lambda path: _read(path, size, squeeze), paths)
            for number, (path, (result, digest)) in enumerate(zip(paths, results, strict=True)):
                if isinstance(result, str):
                    unreadable.append((path, result))
                else:
                    images[len(kept)] = result
                    kept.append(number)
                    digests.append(digest)
                advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return ImageFiles(images[: len(kept)], kept, unreadable, digests)


def read_size(path: Path) -> tuple[int, int] | None:
    """Returns width and height from the file's header, or None if it is not an image."""
    from PIL import Image

    if not path.is_file():  # reading a named pipe would wait forever
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.size
    except Exception:
        return None


def list_names(names: Sequence[str]) -> str:
    """Joins the names with commas; lists only the first thirty if there are more."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _read(
    path: Path, size: int, squeeze: bool
) -> tuple[UInt8[np.ndarray, "size size 3"] | str, bytes]:
    """Returns the image, or what is wrong with the file, and the digest of its content."""
    from PIL import Image, UnidentifiedImageError

    try:
        if path.exists() and not path.is_file():  # reading a named pipe would wait forever
            return "not a regular file", b""
        content = path.read_bytes()
    except OSError as error:
        return (error.strerror or type(error).__name__).lower(), b""
    digest = hashlib.blake2b(content, digest_size=16).digest()
    if not content:
        return "empty", digest
    try:
        return _square(content, size, squeeze), digest
    except UnidentifiedImageError:
        return "not an image", digest
    except Image.DecompressionBombError:
        assert Image.MAX_IMAGE_PIXELS is not None  # without a limit, there is no such error
        return f"more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels", digest
    except Exception as error:  # decoders raise all kinds of errors on damaged files
        if "truncated" in str(error).lower():
            return "cut short", digest
        return f"damaged: {' '.join(str(error).split())[:60] or type(error).__name__}", digest


def _square(content: bytes, size: int, squeeze: bool) -> UInt8[np.ndarray, "size size 3"]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        # JPEG decoding can halve images for free; leave at least a factor of two to the filter.
        image.draft(None, (2 * size, 2 * size))
        turn = _turn(image)
        image.load()
        rgb = _to_rgb(image)
    if turn is not None:
        rgb = rgb.transpose(Image.Transpose[turn])
    width, height = rgb.size
    left, top = max(0, width - height) / 2, max(0, height - width) / 2
    middle = None if squeeze else (left, top, width - left, height - top)
    return np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC, box=middle))


def _turn(image) -> str | None:
    """The transposition that EXIF asks for, if any; unreadable EXIF data is ignored."""
    try:
        return _TURNS.get(image.getexif().get(274))
    except Exception:
        return None


def _to_rgb(image):
    """Converts a Pillow image of any mode to 8-bit RGB."""
    from PIL import Image

    if image.mode.startswith("I"):
        return _from_levels(image, (2**16 - 1, 2**32 - 1))
    if image.mode == "F":
        return _from_levels(image, (1, 2**8 - 1, 2**16 - 1))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "LAB":
        from PIL import ImageCms

        profiles = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    return image.convert("RGB")


def _from_levels(image, ceilings: tuple[int, ...]):
    """Scales gray of more than 8 bits: the smallest ceiling that covers all values becomes 255."""
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    highest = values.max()
    ceiling = next((c for c in ceilings if highest <= c), highest)
    levels = np.round(values.clip(0) * (255 / ceiling)).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def judge_unreadable(
    unreadable: Sequence[tuple[Path, str]], count: int, unreadable_fraction: float, what: str
) -> None:
    """Warns about unreadable files; raises UserError if they are all of the `count` files, or more
    than `unreadable_fraction` of them."""
    if not unreadable:
        return
    top = os.path.commonpath([path.parent for path, _ in unreadable])
    names = list_names([f"{path.relative_to(top)} ({reason})" for path, reason in unreadable])
    found = f"{len(unreadable)} of {count} files in {what} cannot be read as images"
    if len(unreadable) == count:
        raise UserError(f"{found}, so none are left; in {top}: {names}; give other files")
    if len(unreadable) > unreadable_fraction * count:
        raise UserError(
            f"{found}, more than dataset.unreadable_fraction={unreadable_fraction:g} allows; in "
            f"{top}: {names}; fix or remove them, or set --config.dataset.unreadable_fraction="
            f"{math.ceil(1000 * len(unreadable) / count) / 1000:g}"
        )
    warnings.warn(f"{found} and are skipped; in {top}: {names}", stacklevel=3)
