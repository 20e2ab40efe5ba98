"""TFDS builders for datasets that TFDS lacks or can no longer download.

They read the original as distributed, packed or unpacked, without TensorFlow.
"""

import importlib

# By TFDS name; imported on first use, since TFDS takes a second to import.
_BUILDERS = {
    "cinic10": ("cinic10", "Cinic10"),
    "fgvc_aircraft": ("aircraft", "FgvcAircraft"),
    "stanford_cars": ("cars", "StanfordCars"),
    "tiny_imagenet": ("tiny_imagenet", "TinyImagenet"),
}


def own_builder(name: str) -> type | None:
    """Returns this package's builder for a TFDS name, or None if TFDS itself has one."""
    if name not in _BUILDERS:
        return None
    module, builder = _BUILDERS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), builder)
