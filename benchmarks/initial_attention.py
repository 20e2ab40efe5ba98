"""Draws docs/images/initial_attention.png: `python -m benchmarks.initial_attention FILE`.

Shows where patches attend before any training, with and without structured initialization.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8
from PIL import Image

from smallvit_jax.models import create_model
from smallvit_jax.models.positions import sincos_positions

# One block of the paper's ViT-T/2.
MODEL = {"image_size": 32, "patch_size": 2, "width": 192, "depth": 1, "heads": 3, "mlp_ratio": 4.0}
INITS = {"reference": "reference", "mimetic": "mimetic", "impulse3": "impulse3"}
QUERIES = ((4, 4), (11, 5), (7, 11))  # row and column of the query patches
SEED = 1  # its three heads attend in three different directions
WINDOW = 4  # patches shown on each side of the query
GRID = MODEL["image_size"] // MODEL["patch_size"]
MEAN, STD = 0.47, 0.25  # about CIFAR-10's


def photograph() -> UInt8[np.ndarray, "size size 3"]:
    """A square crop of the temple photograph that comes with scikit-learn."""
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("china.jpg"))
    square = image.crop((40, 0, 40 + image.height, image.height))
    size = MODEL["image_size"]
    return np.asarray(square.resize((size, size), Image.Resampling.BOX))


def attention(
    model: nnx.Module, image: UInt8[np.ndarray, "size size 3"] | None
) -> Float[np.ndarray, "heads tokens tokens"]:
    """The first block's attention, in multiples of uniform attention.

    Without an image, between the fixed positions alone.
    """
    if image is None:
        tokens = jnp.asarray(sincos_positions(GRID, GRID, MODEL["width"]))[None]
    else:
        pixels = (image.astype(np.float32) / 255 - MEAN) / STD
        tokens = model.outputs(jnp.asarray(pixels)[None], "layers")["layers"]["block_input"]
    block = model.blocks[0]
    weights = block.attn.weights(block.norm1(tokens), queries=GRID**2)
    return np.asarray(weights[0]) * GRID**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    import matplotlib.pyplot as plt

    image = photograph()
    figure = plt.figure(figsize=(9.4, 5.9), dpi=100)
    space = {"left": 0.13, "right": 0.855, "bottom": 0.01, "top": 0.905}
    grid = figure.add_gridspec(2 * len(INITS), MODEL["heads"], **space, wspace=0.08, hspace=0.11)
    for number, init in enumerate(INITS):
        model = create_model("vit", **MODEL, pool="mean", pos_embed="sincos", init=init, seed=SEED)
        for row, (label, pixels) in enumerate((("positions\nalone", None), ("photograph", image))):
            maps = attention(model, pixels)
            places = [grid[2 * number + row, head] for head in range(len(maps))]
            for place, head in zip(places, maps, strict=True):
                shown = _draw_head(figure, place, head)
            box = places[0].get_position(figure)
            middle = (box.y0 + box.y1) / 2
            figure.text(0.122, middle, label, ha="right", va="center", fontsize=9)
            if row == 0:
                figure.text(0.122, box.y1 - 0.002, init, ha="right", weight="bold", fontsize=10)
    for head, place in enumerate(grid[0, head] for head in range(MODEL["heads"])):
        box = place.get_position(figure)
        middle = (box.x0 + box.x1) / 2
        figure.text(middle, 0.955, f"head {head + 1}", ha="center", fontsize=10.5)
        for query in range(len(QUERIES)):
            x = box.x0 + (query + 0.5) * box.width / len(QUERIES)
            figure.text(x, 0.917, query + 1, ha="center", fontsize=9)
    bar = figure.colorbar(shown, cax=figure.add_axes((0.885, 0.4, 0.014, 0.46)), extend="both")
    bar.set_ticks([0.3, 1, 10, 100], labels=["0.3", "1: uniform", "10", "100"])
    bar.ax.minorticks_off()
    _draw_photograph(figure.add_axes((0.872, 0.05, 0.12, 0.19)), image)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    picture.quantize(200, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)


def _draw_head(figure, place, head: Float[np.ndarray, "tokens tokens"]):
    """Draws each query patch's attention to the patches around it, side by side."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    inner = place.subgridspec(1, len(QUERIES), wspace=0.06)
    for column, (y, x) in enumerate(QUERIES):
        axis = figure.add_subplot(inner[column])
        whole = head[y * GRID + x].reshape(GRID, GRID)
        part = whole[y - WINDOW : y + WINDOW + 1, x - WINDOW : x + WINDOW + 1]
        shown = axis.imshow(part, norm=LogNorm(0.3, 100))
        corner = (WINDOW - 0.5, WINDOW - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=1.1))
        axis.set_axis_off()
    return shown


def _draw_photograph(axis, image: UInt8[np.ndarray, "size size 3"]) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    axis.imshow(image)
    axis.set_axis_off()
    axis.set_title("query patches", fontsize=9)
    side = MODEL["patch_size"]
    for number, (y, x) in enumerate(QUERIES):
        corner = (side * x - 0.5, side * y - 0.5)
        axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="red", linewidth=1.2))
        label = axis.text(
            side * (x + 1), side * y, number + 1, color="red", fontsize=9, va="bottom"
        )
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])


if __name__ == "__main__":
    main()
