"""Where a model looks: attention maps, what they hold, and pictures of them.

The procedure is DINO's (facebookresearch/dino, visualize_attention.py); how a family makes a map is
said by its method `attention`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, UInt8

from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.forward import bind_model
from smallvit_jax.models import abstract_model
from smallvit_jax.models.parameters import get_arrays, set_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Maps = Float[np.ndarray, "images heads rows columns"]
Images = UInt8[np.ndarray, "images height width 3"]
Box = tuple[float, float, float, float]  # left, top, right, bottom as parts of the image's sides

_BATCH_SIZE = 64
_CELL = 1.15  # inches per side of a picture in a figure
_DIMMED = 0.25  # of the brightness outside a mask


def attention_maps(
    model: nnx.Module,
    meta: Mapping[str, Any],
    images: Images,
    *,
    image_size: int | None = None,
    block: int = -1,
) -> Maps:
    """The attention of a block to each patch, by head; see the model's `attention`.

    `meta` is the checkpoint's. Images are scaled to `image_size` pixels per side, by default the
    trained size; at another, position embeddings are interpolated. Raises `UserError` for a block
    that is not there, a size that patches do not fill, or a model without attention.
    """
    options = meta["model"]
    image_size = image_size or options["image_size"]
    if image_size % options.get("patch_size", 1):
        raise UserError(
            f"patches of {options['patch_size']} pixels do not fill an image of {image_size}; "
            "choose a multiple"
        )
    if image_size != options["image_size"] and options["name"] == "cait":
        # Its own way at other sizes, a slice of the positions, has none for more patches.
        arrays = get_arrays(model)
        model = abstract_model(**{**options, "position_resize": "interpolate"})
        set_arrays(model, arrays)
    attention_of = bind_model(
        model, meta, "attention", batch_size=_BATCH_SIZE, image_size=image_size, block=block
    )
    try:
        return attention_of(images)["attention"]
    except IndexError:
        raise UserError(
            f"attention.block={block} is none of the model's; count from 0 at the first block that "
            "has a map (in a cait the class blocks), or back from -1 at the last"
        ) from None


def mass_mask(
    maps: Float[np.ndarray, "*maps rows columns"], mass: float
) -> Bool[np.ndarray, "*maps rows columns"]:
    """The patches with the most attention that hold at least about `mass` of it together.

    As DINO cuts: in rising order, all patches whose cumulative sum, as a part of the map's, exceeds
    1 - mass.
    """
    flat = maps.reshape(*maps.shape[:-2], -1).astype(np.float64)
    order = flat.argsort(axis=-1, kind="stable")
    rising = np.take_along_axis(flat, order, axis=-1)
    share = rising.cumsum(axis=-1) / rising.sum(axis=-1, keepdims=True)
    kept = np.zeros(flat.shape, bool)
    # Rounding must not lift a sum over the limit that it equals.
    np.put_along_axis(kept, order, share > 1 - mass + 1e-9, axis=-1)
    return kept.reshape(maps.shape)


def describe(maps: Maps) -> dict[str, list[float]]:
    """For each head, means over the images: `entropy` in nats (even attention to n patches: ln n)
    and `spread`, the mean distance of two patches drawn by the map, as a part of the side."""
    images, heads, rows, columns = maps.shape
    weights = maps.reshape(images, heads, -1).astype(np.float64)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    entropy = -(weights * np.log(np.maximum(weights, 1e-30))).sum(axis=-1)
    y, x = np.divmod(np.arange(rows * columns), columns)
    place = np.stack([y / rows, x / columns], axis=1)
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    spread = np.einsum("ihp,pq,ihq->ih", weights, distance, weights)
    return {"entropy": entropy.mean(axis=0).tolist(), "spread": spread.mean(axis=0).tolist()}


def mass_in_box(
    maps: Float[np.ndarray, "*maps rows columns"], box: Box
) -> Float[np.ndarray, " *maps"]:
    """The part of each map's attention that falls inside a box; patches on its edge count by the
    part of them that lies inside. Even attention gives the box's area."""
    rows, columns = maps.shape[-2:]
    left, top, right, bottom = box

    def inside(count: int, low: float, high: float):
        edges = np.arange(count + 1) / count
        covered = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        return np.maximum(covered, 0) * count

    share = inside(rows, top, bottom)[:, None] * inside(columns, left, right)
    return (maps * share).sum(axis=(-2, -1)) / maps.sum(axis=(-2, -1))


def draw_attention(
    images: Images,
    models: Mapping[str, Maps],
    *,
    mass: float = 0.6,
    names: Sequence[str] = (),
) -> "Figure":
    """A row for each image: the image, then for each model, by its title, the mean over heads and
    the image where `mass` of that is; of a single model also every head.

    Maps go from their lowest (dark) to their highest value (bright); `names` stand on the left.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns: list[tuple[str, list[np.ndarray]]] = [("image", list(images))]
    for title, maps in models.items():
        mean = maps.mean(axis=1)
        label = f"{title}\n" if len(models) > 1 else ""
        columns.append((f"{label}mean", list(mean)))
        masks = mass_mask(mean, mass)
        masked = [masked_image(*pair) for pair in zip(images, masks, strict=True)]
        columns.append((f"{label}{mass:.0%} of it", masked))
        if len(models) == 1:
            heads = maps.swapaxes(0, 1)
            columns += [(f"head {i + 1}", list(head)) for i, head in enumerate(heads)]
    left = 0.9 if len(names) else 0.05
    top = 0.45 if len(models) > 1 else 0.3
    width, height = left + _CELL * len(columns), top + _CELL * len(images)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(images), len(columns), squeeze=False)
    figure.subplots_adjust(left / width, 0.0, 1, 1 - top / height, wspace=0.04, hspace=0.04)
    for (title, pictures), column in zip(columns, axes.T, strict=True):
        column[0].set_title(title, fontsize=8, pad=3)
        for picture, cell in zip(pictures, column, strict=True):
            cell.imshow(picture, cmap="viridis", interpolation="nearest")
            cell.set_axis_off()
    for name, row in zip(names, axes, strict=False):
        row[0].text(
            *(-0.06, 0.5, name), transform=row[0].transAxes, fontsize=8, ha="right", va="center"
        )
    return figure


def masked_image(
    image: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The image, dark outside the mask."""
    height, width = image.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    bright = np.where(mask[rows][:, columns], 1.0, _DIMMED)
    return np.round(image * bright[..., None]).astype(np.uint8)
