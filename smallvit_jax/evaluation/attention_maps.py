"""Attention maps: where a model looks, as arrays, statistics and pictures.

The procedure is DINO's (facebookresearch/dino, visualize_attention.py).
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
Box = tuple[float, float, float, float]  # left, top, right, bottom; 0 to 1

_BATCH_SIZE = 64
_CELL = 1.15  # side of a picture in a figure, in inches
_DIMMED = 0.25  # brightness factor outside a mask


def attention_maps(
    model: nnx.Module,
    meta: Mapping[str, Any],
    images: Images,
    *,
    image_size: int | None = None,
    block: int = -1,
) -> Maps:
    """Returns one block's attention to each patch, by head; see `ImageModel.outputs`.

    `meta` is the checkpoint's. Images are scaled to `image_size` pixels per side, by default the
    training size; at other sizes, position embeddings are interpolated. Raises `UserError` if there
    is no such block, if patches do not fill the image, or if the model has no attention.
    """
    options = meta["model"]
    image_size = image_size or options["image_size"]
    if image_size % options.get("patch_size", 1):
        raise UserError(
            f"images of {image_size} pixels cannot be divided into patches of "
            f"{options['patch_size']}; choose a multiple of the patch size"
        )
    if image_size != options["image_size"] and options["name"] == "cait":
        # CaiT's default, slicing the positions, has none for additional patches.
        arrays = get_arrays(model)
        model = abstract_model(**{**options, "position_resize": "interpolate"})
        set_arrays(model, arrays)
    attention_of = bind_model(
        model,
        meta,
        "attention",
        batch_size=_BATCH_SIZE,
        image_size=image_size,
        attention_block=block,
    )
    try:
        return attention_of(images)["attention"]
    except IndexError:
        raise UserError(
            f"attention.block={block} is not a block of this model; count from 0 for the first "
            "block with a map (in a cait, the first class block), or back from -1 for the last"
        ) from None


def mass_mask(
    maps: Float[np.ndarray, "*maps rows columns"], mass: float
) -> Bool[np.ndarray, "*maps rows columns"]:
    """Selects the patches with the most attention that together hold at least `mass` of it.

    As in DINO: sorts the patches by rising attention and keeps those where the cumulative sum, as a
    fraction of the map's sum, exceeds 1 - mass.
    """
    flat = maps.reshape(*maps.shape[:-2], -1).astype(np.float64)
    order = flat.argsort(axis=-1, kind="stable")
    rising = np.take_along_axis(flat, order, axis=-1)
    share = rising.cumsum(axis=-1) / rising.sum(axis=-1, keepdims=True)
    kept = np.zeros(flat.shape, bool)
    # The margin absorbs rounding errors in sums that equal the limit.
    np.put_along_axis(kept, order, share > 1 - mass + 1e-9, axis=-1)
    return kept.reshape(maps.shape)


def describe(maps: Maps) -> dict[str, list[float]]:
    """Returns statistics of each head, averaged over the images.

    `entropy` is in nats (uniform attention to n patches: ln n). `spread` is the mean distance
    between two patches sampled from the map, as a fraction of the side.
    """
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
    """Returns the fraction of each map's attention inside a box.

    Patches on the edge count by the fraction that is inside. Uniform attention gives the box's
    area.
    """
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
    """Draws a row per image: the image, each model's mean over heads, and the image masked by it.

    `models` are keyed by title. The mask keeps `mass` of the attention. For a single model, every
    head is drawn too. Maps go from their minimum (dark) to their maximum (bright); `names` label
    the rows.
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
        columns.append((f"{label}top {mass:.0%}", masked))
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
    """Darkens an image outside the mask."""
    height, width = image.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    bright = np.where(mask[rows][:, columns], 1.0, _DIMMED)
    return np.round(image * bright[..., None]).astype(np.uint8)
