"""Draws docs/images/corruptions.png: `python -m benchmarks.corruptions_picture FILE`."""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from smallvit_jax.evaluation.corruptions import KINDS, SEVERITIES, corrupt


def boat(size: int = 32) -> UInt8[np.ndarray, "size size 3"]:
    """A sailing boat under the sun, drawn large, then downsampled."""
    picture = Image.new("RGB", (512, 512), "#8ec5ea")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((350, 40, 470, 160), fill="#ffd34d")
    draw.polygon([(0, 330), (110, 210), (200, 290), (300, 230), (512, 330)], fill="#5d8a5a")
    draw.rectangle((0, 320, 512, 512), fill="#23608f")
    for top in range(345, 512, 42):
        draw.line((0, top, 512, top + 12), fill="#3f83b4", width=9)
    draw.rectangle((248, 90, 258, 360), fill="#5b3a1e")
    draw.polygon([(264, 95), (264, 335), (420, 335)], fill="#f6f3ea")
    draw.polygon([(240, 130), (240, 335), (140, 335)], fill="#d8473b")
    draw.polygon([(100, 355), (430, 355), (375, 430), (150, 430)], fill="#7a4523")
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    import matplotlib.pyplot as plt

    # Frost contains parts of photographs that we may not copy.
    kinds = [kind for kind in KINDS if kind != "frost"]
    half = len(kinds) // 2
    figure, axes = plt.subplots(half, 2, figsize=(9.4, 5.9), dpi=100)
    for axis, kind in zip(axes.T.flat, kinds, strict=True):
        strip = [boat(), *(corrupt(boat()[None], kind, severity)[0] for severity in SEVERITIES)]
        gap = np.full((len(strip[0]), 2, 3), 255, np.uint8)
        strip = [part for image in strip for part in (image, gap)][:-1]
        axis.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
        label = kind.replace("_", " ")
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9.5, labelpad=6)
    for axis in axes[0]:
        for number, title in enumerate(("original", *SEVERITIES)):
            axis.text(34 * number + 15.5, -5, title, ha="center", fontsize=9.5)
    figure.subplots_adjust(0.12, 0.005, 0.995, 0.955, wspace=0.38, hspace=0.06)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)


if __name__ == "__main__":
    main()
