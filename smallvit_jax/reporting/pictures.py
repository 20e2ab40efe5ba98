"""Report figures made of images: training views, augmentation and mistakes."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from matplotlib.figure import Figure

from smallvit_jax.augment.finetune import AugmentSettings, augment_batch
from smallvit_jax.augment.views import GLOBAL_VIEWS, ViewSettings, multi_crop
from smallvit_jax.reporting.figures import panels, styled

Images = UInt8[np.ndarray, "images height width 3"]

_CELL = 0.9  # side of a picture in inches


@styled
def draw_views(images: Images, settings: ViewSettings, seed: int) -> Figure:
    """Draws a row per image: the original, then its views as pre-training sees them."""
    views = jax.jit(lambda batch, key: multi_crop(batch, key, settings))(
        images, jax.random.key(seed)
    )
    shown = [
        _visible(group[:, i], settings.mean, settings.std)
        for group in views
        for i in range(group.shape[1])
    ]
    local = [f"local {i + 1}" for i in range(len(shown) - GLOBAL_VIEWS)]
    titles = ["image", *(f"global {i + 1}" for i in range(GLOBAL_VIEWS)), *local]
    return _grid([images, *shown], titles)


@styled
def draw_augmented(
    images: Images, settings: AugmentSettings, seed: int, versions: int = 8
) -> Figure:
    """Draws a row per image: the original, then augmented versions as fine-tuning sees them."""
    augment = jax.jit(lambda batch, key: augment_batch(batch, key, settings))
    keys = jax.random.split(jax.random.key(seed), versions)
    shown = [_visible(augment(images, key), settings.mean, settings.std) for key in keys]
    return _grid([images, *shown], ["image"] + [""] * versions)


@styled
def draw_mistakes(
    images: Images,
    labels: Int[np.ndarray, " images"],
    probabilities: Float[np.ndarray, "images classes"],
    class_names: Sequence[str],
    count: int = 16,
) -> Figure | None:
    """Draws the most confident mistakes; returns None if there are no mistakes."""
    chosen = most_confident_mistakes(labels, probabilities)[:count]
    if not len(chosen):
        return None
    figure, axes = panels(len(chosen), columns=4, width=8.4, height=2.2)
    for index, ax in zip(chosen, axes, strict=True):
        predicted = probabilities[index].argmax()
        ax.imshow(images[index], interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(
            f"{class_names[labels[index]]}\nmistaken for {class_names[predicted]}, "
            f"{probabilities[index, predicted]:.0%}",
            fontsize=7.5,
            fontweight="normal",
        )
    return figure


def most_confident_mistakes(
    labels: Int[np.ndarray, " images"], probabilities: Float[np.ndarray, "images classes"]
) -> Int[np.ndarray, " mistakes"]:
    """Indices of misclassified images, the most confident mistake first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]


def _visible(images: Float[Array, "images height width 3"], mean, std) -> Images:
    """Undoes the normalization, for display."""
    pixels = np.asarray(images) * np.array(std) + np.array(mean)
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _grid(columns: Sequence[Images], titles: Sequence[str]) -> Figure:
    rows = len(columns[0])
    figure, axes = panels(rows * len(columns), len(columns), _CELL * len(columns), _CELL * 1.05)
    for place, ax in enumerate(axes):
        row, column = divmod(place, len(columns))
        ax.imshow(columns[column][row], interpolation="nearest")
        ax.set_axis_off()
        if row == 0:
            ax.set_title(titles[column], fontsize=8, fontweight="normal", loc="center")
    return figure
