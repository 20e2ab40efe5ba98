"""Figures of a report: data in, matplotlib Figure out."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, which color-blind readers can tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a00", "#444444")
_MUTED = "#777777"
_STYLE: dict[Any, Any] = {  # older Matplotlibs have no type for the keys
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_LEAST_POINTS = 10.0  # minimum span of an accuracy axis
MOST_NAMED = 20  # classes whose names fit next to a figure

_Arguments = ParamSpec("_Arguments")
_Drawn = TypeVar("_Drawn")

Curve = tuple[np.ndarray, np.ndarray]  # epochs and values


def colors_of(count: int) -> list:
    """Returns `count` colors: from `COLORS`, or if those are too few, from 20 that repeat."""
    from matplotlib import color_sequences

    found = COLORS if count <= len(COLORS) else color_sequences["tab20"]
    return [found[i % len(found)] for i in range(count)]


def styled(draw: Callable[_Arguments, _Drawn]) -> Callable[_Arguments, _Drawn]:
    """Decorates a function to draw in the report's style."""

    @functools.wraps(draw)
    def drawn(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Drawn:
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*arguments, **options)

    return drawn


def panels(count: int, columns: int = 3, width: float = 9.0, height: float = 2.3):
    """Returns a figure with `count` small axes, and these axes."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


@styled
def draw_curves(
    quantities: Mapping[str, Mapping[str, Curve]],
    columns: int = 3,
    colors: Mapping[str, Any] | None = None,
    **size: float,
) -> Figure:
    """Draws a panel per quantity, by title, with its named curves over epochs.

    Curves with more than 150 points are smoothed, with the raw values pale in the background.
    `colors` maps names to colors; by default, each panel chooses its own.
    `size` is the `width` of the figure and the `height` of a panel, in inches.
    """
    figure, axes = panels(len(quantities), columns, **size)
    for (title, curves), ax in zip(quantities.items(), axes, strict=True):
        color_of = colors or dict(zip(curves, colors_of(len(curves)), strict=True))
        for name, (epochs, values) in curves.items():
            color = color_of[name]
            marker = "o" if len(values) < 30 else None
            if len(values) > 150:
                ax.plot(epochs, values, color=color, alpha=0.2, linewidth=0.5)
                values = _smooth(values, max(5, len(values) // 80))
            ax.plot(epochs, values, color=color, marker=marker, markersize=3, label=name)
        ax.set_title(title)
        ax.set_xlabel("epoch")
        if len(curves) > 1:
            ax.legend()
    return figure


@styled
def draw_knn(curve: Curve, raw_pixels: float | None) -> Figure:
    """kNN accuracy over the epochs of pre-training, with that on raw pixels as a dashed line."""
    from matplotlib.ticker import MaxNLocator

    figure, (ax,) = panels(1, width=6, height=3)
    ax.plot(*curve, color=COLORS[0], marker="o", markersize=4, label="features")
    if raw_pixels is not None:
        ax.axhline(raw_pixels, color=_MUTED, linestyle="--", label="raw pixels")
        ax.legend()
    low, high = ax.get_ylim()
    spare = max(0.0, _LEAST_POINTS - (high - low)) / 2  # so that noise does not look like a trend
    ax.set_ylim(low - spare, high + spare)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title("kNN accuracy in %")
    ax.set_xlabel("pre-training epoch")
    return figure


@styled
def draw_confusion(
    confusion: Int[np.ndarray, "classes classes"], class_names: Sequence[str]
) -> Figure:
    """Confusion matrix in % of each true class (row), with numbers if there are few classes."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1) * 100
    count = len(share)
    side = 6.0 if count <= MOST_NAMED else 6.5
    figure, (ax,) = panels(1, width=side, height=side)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    ax.grid(False)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    if count <= MOST_NAMED:
        short = [_shorten(name, 18) for name in class_names]
        ax.set_xticks(range(count), short, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(count), short)
        for row, column in np.argwhere(share >= 0.5):
            value = share[row, column]
            color = "white" if value > 55 else "black"
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
    else:
        figure.colorbar(image, ax=ax, shrink=0.7, label="% of the true class")
    return figure


@styled
def draw_classes(per_class: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy by class from best to worst; with many classes, only both ends."""
    ranked = sorted((r for r in per_class if r["images"]), key=lambda row: row["top1"])
    rows: list[Mapping[str, Any] | None] = [*ranked]
    if len(ranked) > MOST_NAMED:
        rows = [*ranked[:10], None, *ranked[-10:]]
    figure, (ax,) = panels(1, width=6, height=0.6 + 0.22 * len(rows))
    for place, row in enumerate(rows):
        if row is None:
            ax.text(1, place, "…", va="center")
            continue
        ax.barh(place, row["top1"], color=COLORS[0], height=0.75)
        ax.text(row["top1"] + 1, place, f"{row['top1']:.0f}", va="center", fontsize=7)
    names = ["" if row is None else _shorten(row["name"], 24) for row in rows]
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    ax.set_xlim(0, 105)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("accuracy in %")
    return figure


@styled
def draw_calibration(bins: Sequence[Mapping[str, float]], ece: float) -> Figure:
    """Accuracy over confidence; the area of a dot shows its number of images."""
    figure, (ax,) = panels(1, width=4.2, height=4)
    ax.plot([0, 100], [0, 100], color=_MUTED, linestyle="--", linewidth=1)
    images = np.array([entry["images"] for entry in bins])
    confidence = [entry["confidence"] for entry in bins]
    accuracy = [entry["accuracy"] for entry in bins]
    ax.plot(confidence, accuracy, color=COLORS[0], linewidth=1)
    ax.scatter(confidence, accuracy, 20 + 300 * images / images.sum(), color=COLORS[0], alpha=0.8)
    ax.set_title(f"calibration error: {ece:.1f} %")
    ax.set_xlabel("confidence in %")
    ax.set_ylabel("accuracy in %")
    return figure


@styled
def draw_embedding(
    points: Float[np.ndarray, "images 2"], labels: Int[np.ndarray, " images"], names: Sequence[str]
) -> Figure:
    """Points colored by class, with a legend if there are few classes."""
    from matplotlib import colormaps

    few = len(names) <= MOST_NAMED
    figure, (ax,) = panels(1, width=7 if few else 6, height=5.2)
    palette = colormaps["tab20" if len(names) > 10 else "tab10"]
    for label, name in enumerate(names):
        here = points[labels == label]
        color = palette(label % 20) if few else colormaps["turbo"](label / len(names))
        ax.scatter(*here.T, s=7, color=color, linewidths=0, label=_shorten(name, 18))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if few:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2.5)
    return figure


@styled
def draw_corruptions(errors: Mapping[str, Sequence[float]], clean_error: float) -> Figure:
    """Error for each kind of corruption at severities 1 (left) to 5 (right)."""
    figure, (ax,) = panels(1, width=9, height=3.2)
    for place, (kind, row) in enumerate(errors.items()):
        x = place + np.linspace(-0.32, 0.32, len(row))
        ax.bar(x, row, width=0.13, color=[_shade(i / (len(row) - 1)) for i in range(len(row))])
        del kind
    ax.axhline(clean_error, color=_MUTED, linestyle="--", linewidth=1)
    kinds = [kind.replace("_", " ") for kind in errors]
    ax.set_xticks(range(len(kinds)), kinds, rotation=45, ha="right", rotation_mode="anchor")
    ax.grid(axis="x", visible=False)
    ax.set_title("error in % (dashed: on clean images)")
    return figure


def _shade(part: float) -> tuple[float, float, float]:
    """A blue, from light (0) to dark (1)."""
    light, dark = np.array([0.62, 0.79, 0.88]), np.array([0.03, 0.25, 0.5])
    return tuple(light + part * (dark - light))


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Moving average over `width` values, over fewer at the ends."""
    kernel = np.ones(width)
    counts = np.convolve(np.ones(len(values)), kernel, mode="same")
    return np.convolve(values, kernel, mode="same") / counts


def _shorten(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
