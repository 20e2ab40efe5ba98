"""A stand-in for the optional package with the frost photographs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smallvit_jax.evaluation.corruptions.frost_photographs import frost_photographs

BRIGHTNESS = (40, 80, 120, 160, 200)  # of the five pictures


def install_frost_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a package with five plain pictures at the front of the import path."""
    photographs = folder / "imagecorruptions" / "frost"
    photographs.mkdir(parents=True)
    (photographs.parent / "__init__.py").write_text("raise ImportError('not to be imported')\n")
    names = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
    for name, level in zip(names, BRIGHTNESS, strict=True):
        picture = np.full((260, 300, 3), level, np.uint8)
        Image.fromarray(picture).save(photographs / name, quality=100)
    monkeypatch.syspath_prepend(folder)
    frost_photographs.cache_clear()
