"""Photographs of frost, from an optional package."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

PACKAGE = "imagecorruptions-imaug"
# The package has a sixth, which the authors' code never uses.
_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def frost_folder() -> Path | None:
    """The photographs' folder in the package, without importing it; None if not installed."""
    spec = importlib.util.find_spec("imagecorruptions")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "frost"
    return folder if all((folder / name).is_file() for name in _FILES) else None


@functools.cache
def frost_photographs(scale: float) -> list[UInt8[np.ndarray, "height width 3"]]:
    """The five photographs, shrunk to `scale`; requires that `frost_folder` finds them."""
    folder = frost_folder()
    assert folder is not None
    return [_shrink(_read(folder / name), scale) for name in _FILES]


def _read(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _shrink(image, scale: float) -> UInt8[np.ndarray, "height width 3"]:
    """Bilinear sampling without smoothing, like OpenCV's resize."""
    shrunk: Float[np.ndarray, "height width 3"] = image.astype(np.float64)
    for axis in (0, 1):
        size = image.shape[axis]
        places = (np.arange(round(size * scale)) + 0.5) / scale - 0.5
        places = np.clip(places, 0, size - 1)
        below = np.minimum(places.astype(int), size - 2)
        part = (places - below).reshape((-1,) + (1,) * (2 - axis))
        lower, upper = (np.take(shrunk, below + step, axis) for step in (0, 1))
        shrunk = lower * (1 - part) + upper * part
    return np.rint(shrunk).astype(np.uint8)
