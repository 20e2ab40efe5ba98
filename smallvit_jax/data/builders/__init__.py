"""TFDS builders for the datasets that TFDS lacks, or whose download it has lost.

They read the original as it is distributed, packed or unpacked, and need no TensorFlow.
"""

import importlib

# By TFDS name; imported on use, as TFDS takes a second to import.
_BUILDERS = {
    "cinic10": ("cinic10", "Cinic10"),
    "fgvc_aircraft": ("aircraft", "FgvcAircraft"),
    "stanford_cars": ("cars", "StanfordCars"),
    "tiny_imagenet": ("tiny_imagenet", "TinyImagenet"),
}


def own_builder(name: str) -> type | None:
    """Returns this package's builder of that TFDS name, None where TFDS brings it."""
    if name not in _BUILDERS:
        return None
    module, builder = _BUILDERS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), builder)
