"""FGVC-Aircraft (Maji et al. 2013, arXiv:1306.5151): photographs of 100 aircraft variants."""

import re
from collections.abc import Mapping

from smallvit_jax.data.builders.base import Labels, OriginalBuilder, square_jpeg
from smallvit_jax.data.builders.original import Original, OriginalLayout
from smallvit_jax.errors import UserError

_BANNER = 20  # rows at the bottom that credit the photographer; the README says to remove them
_FILE = re.compile(
    r"(?:^|/)data/(images/\d+\.jpg|images_variant_(?:trainval|test)\.txt|variants\.txt)$"
)


def _recognize(path: str) -> str | None:
    match = _FILE.search(path)
    return match[1] if match else None


class FgvcAircraft(OriginalBuilder):
    """The official trainval (6,667) and test (3,333) splits, labeled by variant.

    The banner at the bottom is cropped off and the rest is scaled to a square: an aircraft fills
    the width of its photograph, so a center crop would lose nose and tail. Nearly all photographs
    are about 3:2, so all aircraft are narrowed equally.
    """

    SIZE = 256
    CLASSES = 100
    COUNTS = {"trainval": 6_667, "test": 3_333}  # noqa: RUF012
    LAYOUT = OriginalLayout(
        wanted="fgvc-aircraft-2013b.tar.gz or the folder unpacked from it",
        archives=("fgvc-aircraft-2013b*.tar.gz", "fgvc-aircraft-2013b*.zip"),
        contents=("data",),
        signs=("data/variants.txt", "data/images_variant_test.txt"),
        recognize=_recognize,
    )
    HOMEPAGE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
    DESCRIPTION = "FGVC-Aircraft 2013b, 100 variants, without banner, scaled to 256x256 pixels."

    def read_labels(self, original: Original) -> tuple[list[str], Mapping[str, Labels]]:
        """See the base class."""
        names = [line.strip() for line in original.read_text("variants.txt").splitlines()]
        names = [name for name in names if name]
        splits: dict[str, dict[str, int]] = {}
        for split in self.COUNTS:
            file = f"images_variant_{split}.txt"
            splits[split] = labels = {}
            for line in original.read_text(file).splitlines():
                image, _, variant = line.strip().partition(" ")
                if variant not in names:
                    raise UserError(
                        f'{file} in {original.path} gives image {image} the variant "{variant}", '
                        "which variants.txt does not list; download the original again"
                    )
                labels[f"images/{image}.jpg"] = names.index(variant)
        return names, splits

    def store(self, content: bytes) -> bytes:
        """See the base class."""
        return square_jpeg(content, self.SIZE, bottom=_BANNER)
