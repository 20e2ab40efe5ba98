"""The attention job: maps of test images, and of image files with boxes."""

import numpy as np
import pytest
from PIL import Image

from smallvit_jax.main import main
from tests.support.tiny_jobs import ROOT, read_json


def draw(workdir, **fields) -> int:
    settings = {"runtime.compilation_cache": ""} | {f"attention.{k}": v for k, v in fields.items()}
    command = [f"--config={ROOT}/configs/attention.py:digits", f"--workdir={workdir}"]
    return main([*command, *(f"--config.{name}={value}" for name, value in settings.items())])


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_maps_of_two_models_on_different_classes(tiny_recipe, tmp_path, capsys):
    checkpoints = {name: tiny_recipe.folder / name for name in ("finetune", "scratch")}
    assert draw(
        tmp_path / "maps",
        checkpoint=checkpoints["finetune"],
        beside=checkpoints["scratch"],
        images=3,
        enlarge=2,
    ) == 0  # fmt: skip
    result = read_json(tmp_path / "maps" / "result.json")
    assert len({name.split()[0] for name in result["names"]}) == 3
    for kind, grid in (("figures", [4, 4]), ("figures_enlarged", [8, 8])):
        assert [f["grid"] for f in result[kind].values()] == [grid, grid]
        assert list(result[kind]) == ["recipe/finetune", "recipe/scratch"]
        for figures in result[kind].values():
            assert len(figures["entropy"]) == 2  # heads
            assert all(0 < e <= np.log(grid[0] ** 2) for e in figures["entropy"])
    files = sorted(path.name for path in (tmp_path / "maps" / "maps").iterdir())
    assert len(files) == 3 * 2 * 2 * (2 + 2)  # images, models, sizes; mean, mask, two heads
    assert size_of(tmp_path / "maps" / "attention.png")[0] > 500
    assert "pictures: " in capsys.readouterr().out


def test_boxes_are_clipped_to_the_center_crop(tiny_recipe, tmp_path):
    """The crop is the middle of an image twice as wide as high; the box is the left half."""
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    Image.fromarray(pixels).save(photos / "a.png")
    Image.fromarray(pixels).save(photos / "not_named.png")
    (tmp_path / "boxes.txt").write_text("a.png\tn01443537\t0\t0\t40\t62\nother.png\t1\t2\t3\t4\n")
    checkpoint = tiny_recipe.folder / "finetune"
    boxes = {"input": photos, "boxes": tmp_path / "boxes.txt"}
    assert draw(tmp_path / "maps", checkpoint=checkpoint, enlarge=1, **boxes) == 0
    result = read_json(tmp_path / "maps" / "result.json")
    assert result["names"] == ["a.png"]
    (figures,) = result["figures"].values()
    assert figures["boxes"] == 1
    assert figures["box_area"] == pytest.approx(50)  # columns 20 to 40 of 20 to 60
    assert 0 < figures["mass_in_box"] < 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": 7}, "attention.block=7 is not a block of this model"),
        ({"input": "no_such_folder"}, "no_such_folder"),
        ({"boxes": "boxes.txt"}, "attention.input is empty"),
    ],
)
def test_mistakes_get_one_sentence(tiny_recipe, tmp_path, capsys, fields, message):
    assert draw(tmp_path, checkpoint=tiny_recipe.folder / "finetune", **fields) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "boxes.txt cannot be read"),
        ("a.png left=0\n", "has no line with a file name and four integers"),
        ("b.png 0 0 4 4\n", "names no file in"),
        ("a.png 0 0 4 4\n", "a.png (not an image); give other files"),
    ],
)
def test_mistakes_in_boxes_and_images(tiny_recipe, tmp_path, capsys, text, message):
    (tmp_path / "a.png").write_bytes(b"not an image")
    if text is not None:
        (tmp_path / "boxes.txt").write_text(text)
    files = {"input": tmp_path, "boxes": tmp_path / "boxes.txt"}
    assert draw(tmp_path / "maps", checkpoint=tiny_recipe.folder / "finetune", **files) == 2
    assert message in capsys.readouterr().err
