"""Draws and measures the attention maps of a checkpoint."""

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from smallvit_jax.checkpoints.loading import load_with_meta
from smallvit_jax.config.jobs import JOBS
from smallvit_jax.config.tree import part_of
from smallvit_jax.data.image_files import find_images, read_images, read_size
from smallvit_jax.data.subsets import stratified_order
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.attention_maps import (
    Box,
    Images,
    Maps,
    attention_maps,
    describe,
    draw_attention,
    masked_image,
    mass_in_box,
    mass_mask,
)
from smallvit_jax.plans.data_and_model import DatasetReader
from smallvit_jax.process import runtime
from smallvit_jax.process.terminal import print_table
from smallvit_jax.workdir.files import make_folder
from smallvit_jax.workdir.ownership import check_folder
from smallvit_jax.workdir.records import write_config, write_result

_SIDE = 224  # minimum side of single pictures, in pixels


class Pictures(NamedTuple):
    """The images to draw, with a box for those that have one."""

    images: Images
    names: list[str]
    boxes: list[Box | None]


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Draws the attention of `config.attention.checkpoint`; returns the contents of `result.json`.

    Writes `attention.png`, a grid of all images, and single pictures in `maps/`, at the training
    size, and again with the suffix `_enlarged` at `config.attention.enlarge` times that size.
    """
    started = time.monotonic()
    used = part_of(config, JOBS["attention"].uses)
    check_folder(workdir, used)
    r = config.runtime
    runtime.prepare(r.precision, r.compilation_cache, r.fused_attention)
    a = config.attention
    loaded = {_title(path): load_with_meta(path) for path in (a.checkpoint, a.beside) if path}
    trained = next(iter(loaded.values()))[1]["model"]["image_size"]
    pictures = _choose_pictures(config, reader, loaded, trained * a.enlarge)
    result: dict[str, Any] = {
        "job": "attention",
        "images": len(pictures.names),
        "names": pictures.names,
    }
    scales = {"": 1} if a.enlarge == 1 else {"": 1, "_enlarged": a.enlarge}
    for suffix, scale in scales.items():
        maps = {
            title: attention_maps(
                *(model, meta, pictures.images),
                image_size=meta["model"]["image_size"] * scale,
                block=a.block,
            )
            for title, (model, meta) in loaded.items()
        }
        figures = {title: _figures(m, pictures.boxes) for title, m in maps.items()}
        result[f"figures{suffix}"] = figures
        if jax.process_index() == 0:
            _write_pictures(make_folder(workdir), suffix, pictures, maps, a.mass)
    result["seconds"] = round(time.monotonic() - started, 1)
    write_config(workdir, used)
    result = write_result(workdir, result)
    _show(result, workdir)
    return result


def _title(path: str) -> str:
    """The last two parts of a checkpoint's path: its run and stage."""
    return "/".join(Path(path).absolute().parts[-2:])


def _choose_pictures(config: ConfigDict, reader: DatasetReader, loaded, size: int) -> Pictures:
    """Returns the user's files, or else test images from as many classes as possible."""
    a = config.attention
    if a.input:
        folder, paths = Path(a.input).expanduser(), find_images(Path(a.input))
        boxes = _read_boxes(Path(a.boxes).expanduser()) if a.boxes else {}
        if boxes:
            paths = [path for path in paths if path.name in boxes]
            if not paths:
                raise UserError(
                    f"attention.boxes={a.boxes} names no file in {a.input}; check its file names"
                )
        read = read_images(
            paths[: a.images], size, unreadable_fraction=1.0, what=f"attention.input={a.input}"
        )
        kept = [paths[i] for i in read.kept]
        names = [str(p.relative_to(folder)) if folder.is_dir() else p.name for p in kept]
        return Pictures(read.images, names, [_box_in_crop(p, boxes.get(p.name)) for p in kept])
    for title, (_, meta) in loaded.items():
        if meta["dataset"] != config.dataset.name:
            raise UserError(
                f"{title} was trained on {meta['dataset']}, but the images are from "
                f"{config.dataset.name}; set --config.dataset.name={meta['dataset']} or "
                "attention.input"
            )
    data = reader.load(config, size // a.enlarge)
    chosen = stratified_order(data.test.labels, config.seed)[: a.images]
    classes = [data.info.class_names[label] for label in data.test.labels[chosen]]
    names = [f"{name} {index}" for name, index in zip(classes, chosen, strict=True)]
    return Pictures(data.test.images[chosen], names, [None] * len(chosen))


def _read_boxes(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Boxes in pixels by file name: the first four consecutive integers after it in its line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"attention.boxes={path} cannot be read ({error}); give a text file"
        ) from error
    boxes: dict[str, tuple[int, int, int, int]] = {}
    for line in lines:
        match = re.match(
            r"\W*([^\s,;\"]+\.\w+)\b.*?[\s,;](\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)", line
        )
        if match:
            left, top, right, bottom = map(int, match.groups()[1:])
            boxes[Path(match[1]).name] = (left, top, right, bottom)
    if not boxes:
        raise UserError(
            f"attention.boxes={path} has no line with a file name and four integers: left, top, "
            "right, bottom"
        )
    return boxes


def _box_in_crop(path: Path, box: tuple[int, int, int, int] | None) -> Box | None:
    """A box as fractions of the square cropped from the center of a file's image."""
    size = read_size(path)
    if box is None or size is None:
        return None
    side, middle = min(size), (max(size) - min(size)) / 2
    left, top = (middle, 0) if size[0] > size[1] else (0, middle)

    def share(edge: float) -> float:
        return float(np.clip(edge / side, 0, 1))

    return share(box[0] - left), share(box[1] - top), share(box[2] - left), share(box[3] - top)


def _figures(maps: Maps, boxes: list[Box | None]) -> dict[str, Any]:
    """Statistics of the maps; `box_area` is what uniform attention would put into the boxes."""
    figures: dict[str, Any] = {"grid": list(maps.shape[2:]), **describe(maps)}
    inside = [
        (float(mass_in_box(m.mean(axis=0), box)), (box[2] - box[0]) * (box[3] - box[1]))
        for m, box in zip(maps, boxes, strict=True)
        if box is not None
    ]
    if inside:
        mass, area = np.mean(inside, axis=0) * 100
        figures |= {"boxes": len(inside), "mass_in_box": float(mass), "box_area": float(area)}
    return figures


def _write_pictures(
    folder: Path, suffix: str, pictures: Pictures, maps: dict[str, Maps], mass: float
) -> None:
    grid = draw_attention(pictures.images, maps, mass=mass, names=pictures.names)
    grid.savefig(folder / f"attention{suffix}.png", dpi=150)
    single = make_folder(folder / "maps")
    for number, title in enumerate(maps):
        for i, (name, image) in enumerate(zip(pictures.names, pictures.images, strict=True)):
            stem = f"{i:03d}_{re.sub(r'[^A-Za-z0-9]+', '_', Path(name).stem).strip('_')}"
            stem += f"_model{number + 1}" if len(maps) > 1 else ""
            heads = maps[title][i]
            mean = heads.mean(axis=0)
            _save(single / f"{stem}_mean{suffix}.png", _colored(mean))
            _save(single / f"{stem}_mask{suffix}.png", masked_image(image, mass_mask(mean, mass)))
            for head, values in enumerate(heads):
                _save(single / f"{stem}_head{head + 1}{suffix}.png", _colored(values))


def _colored(values: np.ndarray) -> np.ndarray:
    """A map in viridis colors, from its minimum to its maximum, uint8."""
    from matplotlib import colormaps

    low, high = values.min(), values.max()
    return colormaps["viridis"]((values - low) / max(high - low, 1e-12), bytes=True)[..., :3]


def _save(path: Path, picture: np.ndarray) -> None:
    """Writes a picture, with its pixels enlarged to blocks."""
    from PIL import Image

    scale = max(1, -(-_SIDE // picture.shape[0]))
    Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1)).save(path)


def _show(result: dict[str, Any], workdir: Path) -> None:
    sizes = (("figures", "training size"), ("figures_enlarged", "enlarged"))
    found = {f"{t}, {text}": f for kind, text in sizes for t, f in result.get(kind, {}).items()}
    boxed = any("mass_in_box" in figures for figures in found.values())
    rows: list[tuple[str, ...]] = [("", "entropy", "spread")]
    rows[0] += ("in box", "box area") if boxed else ()
    for title, figures in found.items():
        cells = [f"{np.mean(figures[name]):.2f}" for name in ("entropy", "spread")]
        boxes = [figures.get(name) for name in ("mass_in_box", "box_area")] if boxed else []
        cells += ["-" if value is None else f"{value:.1f} %" for value in boxes]
        rows.append((title, *cells))
    print_table(f"attention on {result['images']} images, mean over heads", rows)
    print(f"  pictures: {workdir}/attention.png, each map: {workdir}/maps")
