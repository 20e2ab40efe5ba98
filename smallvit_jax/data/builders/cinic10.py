"""CINIC-10 (Darlow et al. 2018): CIFAR-10's classes from CIFAR-10 and downsampled ImageNet."""

import re
from collections.abc import Mapping

from smallvit_jax.data.builders.base import Labels, OriginalBuilder
from smallvit_jax.data.builders.original import Original, OriginalLayout

_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_FILE = re.compile(rf"(?:^|/)((train|valid|test)/({'|'.join(_NAMES)})/[^/]+\.png)$")


def _recognize(path: str) -> str | None:
    match = _FILE.search(path)
    return match[1] if match else None


class Cinic10(OriginalBuilder):
    """Three splits of 90,000 images each, stored unchanged."""

    SIZE = 32
    CLASSES = 10
    COUNTS = {"train": 90_000, "valid": 90_000, "test": 90_000}  # noqa: RUF012
    LAYOUT = OriginalLayout(
        wanted="CINIC-10.tar.gz or the folder unpacked from it",
        archives=("CINIC-10*.tar.gz", "CINIC-10*.tgz", "CINIC-10*.zip"),
        contents=("train", "valid", "test"),
        signs=("valid/airplane",),
        recognize=_recognize,
    )
    HOMEPAGE = "https://datashare.ed.ac.uk/handle/10283/3192"
    DESCRIPTION = "CINIC-10: the ten classes of CIFAR-10, 32x32 pixels (arXiv:1810.03505)."

    def read_labels(self, original: Original) -> tuple[list[str], Mapping[str, Labels]]:
        """See the base class."""
        splits: dict[str, dict[str, int]] = {split: {} for split in self.COUNTS}
        for key in original.files:
            split, name, _file = key.split("/")
            splits[split][key] = _NAMES.index(name)
        return list(_NAMES), splits
