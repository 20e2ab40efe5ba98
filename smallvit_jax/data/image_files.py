"""Image files of any kind and size, found in folders and read as squares of one size."""

import hashlib
import io
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

MOST_NAMES = 30  # of files that a sentence lists
# What file managers leave behind; files and folders whose name begins with a dot are hidden.
_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}
FILES_WORTH_A_BAR = 200  # photographs take some ten milliseconds each
# EXIF orientation → what Pillow's Image.transpose is to do (CIPA DC-008, tag 274).
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
    """What `read_images` made of a list of files."""

    images: UInt8[np.ndarray, "images size size 3"]
    kept: list[int]  # for each image its place in the list of files
    unreadable: list[tuple[Path, str]]  # the other files, and what is wrong with each
    digests: list[bytes]  # of the content of each kept file: equal for equal files


def find_images(path: Path) -> list[Path]:
    """Returns the file itself, or all files in a folder and the folders in it, sorted.

    Hidden files and what file managers leave behind are passed over; whether the others are images
    shows when they are read. Raises UserError where there is no such file or folder, or the folder
    holds no file.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}; name an image or a folder of images")
    if not (files := visible_files(path)):
        raise UserError(f"{path} holds no image; name an image or a folder of images")
    return files


def visible_files(folder: Path) -> list[Path]:
    """All files in a folder and in the folders in it that are not hidden, sorted by path."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if is_visible(name)]
        found += [Path(place, name) for name in files if is_visible(name)]
    return sorted(found)


def is_visible(name: str) -> bool:
    """Whether a file or folder of that name is the user's own."""
    return not name.startswith(".") and name.lower() not in _LEFT_BEHIND


def read_images(
    paths: Sequence[Path], size: int, *, unreadable_fraction: float, what: str
) -> ImageFiles:
    """As `decode_images`, of which most must be images.

    Up to `unreadable_fraction` of the files may be broken or no image; they are left out with a
    warning that names them. Raises UserError, naming them too, where there are more, or no image
    is left. `what` says whose files they are, as in "dataset.root=photos".
    """
    files = decode_images(paths, size)
    judge_unreadable(files.unreadable, len(paths), unreadable_fraction, what)
    return files


def decode_images(paths: Sequence[Path], size: int, squeeze: bool = False) -> ImageFiles:
    """Decodes image files, each read once, to uint8 RGB squares of `size` pixels per side.

    Anything that Pillow opens: 16-bit and float images are scaled to 8 bits, transparent ones laid
    over white, rotated ones turned as EXIF says, and of several frames the first is taken. Color
    profiles are not applied. The shorter side is scaled to `size` (bicubic, antialiased) and the
    middle is cut out; with `squeeze` both sides are scaled and nothing is. Files that are broken or
    no image are listed with the reason.
    """
    from PIL import Image

    Image.init()  # all file formats, before threads could do so at the same time
    images = np.empty((len(paths), size, size, 3), np.uint8)
    digests, kept, unreadable = [], [], []
    with (
        warnings.catch_warnings(),
        progress("reading images", len(paths), worth_a_bar=FILES_WORTH_A_BAR) as advance,
        ThreadPoolExecutor(thread_name_prefix="decode") as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's about odd metadata; what fails, fails below
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
    """Width and height as the file's head gives them; None where it is no image."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.size
    except Exception:
        return None


def list_names(names: Sequence[str]) -> str:
    """The names with commas between, the first thirty where there are more."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _read(
    path: Path, size: int, squeeze: bool
) -> tuple[UInt8[np.ndarray, "size size 3"] | str, bytes]:
    """The image, or what is wrong with the file; and the digest of its content."""
    from PIL import Image, UnidentifiedImageError

    try:
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
        return f"more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels", digest
    except Exception as error:  # decoders raise of every kind on damaged files
        if "truncated" in str(error).lower():
            return "cut short", digest
        return f"damaged: {' '.join(str(error).split())[:60] or type(error).__name__}", digest


def _square(content: bytes, size: int, squeeze: bool) -> UInt8[np.ndarray, "size size 3"]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        # JPEG decoders can halve an image for free; twice the size leaves the filter its work.
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
    """The transposition that EXIF asks for, if any; an unreadable EXIF block asks for none."""
    try:
        return _TURNS.get(image.getexif().get(274))
    except Exception:
        return None


def _to_rgb(image):
    """A Pillow image of any mode as 8-bit RGB."""
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
    """Gray of more than 8 bits, from 0 to the smallest ceiling that holds all its values."""
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    highest = values.max()
    ceiling = next((c for c in ceilings if highest <= c), highest)
    levels = np.round(values.clip(0) * (255 / ceiling)).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def judge_unreadable(
    unreadable: Sequence[tuple[Path, str]], count: int, unreadable_fraction: float, what: str
) -> None:
    """Warns of unreadable files among `count`; raises UserError where they are more than
    `unreadable_fraction` of them, or all."""
    if not unreadable:
        return
    top = os.path.commonpath([path.parent for path, _ in unreadable])
    names = list_names([f"{path.relative_to(top)} ({reason})" for path, reason in unreadable])
    found = f"{len(unreadable)} of {count} files of {what} cannot be read as images"
    if len(unreadable) == count:
        raise UserError(f"{found}, which leaves none: in {top} {names}; name other files")
    if len(unreadable) > unreadable_fraction * count:
        raise UserError(
            f"{found}, more than the part of {unreadable_fraction:g} that "
            f"dataset.unreadable_fraction allows: in {top} {names}; mend or remove them, or allow "
            "more"
        )
    warnings.warn(f"{found} and are left out: in {top} {names}", stacklevel=3)
