"""Image files of every kind: which are found and read, and what is wrong with the others."""

import os

import numpy as np
import pytest
from PIL import Image

from smallvit_jax.data.image_files import decode_images, find_images, read_images, read_size
from smallvit_jax.errors import UserError


def half(left: int, right: int) -> np.ndarray:
    """A square of two grays, side by side."""
    image = np.full((8, 8), left, np.uint8)
    image[:, 4:] = right
    return image


def read_one(path, size: int = 8) -> np.ndarray:
    files = decode_images([path], size)
    assert files.unreadable == []
    return files.images[0]


def test_wide_image_is_cropped_or_squeezed(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200  # the middle half, which is a square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (cropped,) = decode_images([tmp_path / "wide.png"], 8).images
    (squeezed,) = decode_images([tmp_path / "wide.png"], 8, squeeze=True).images
    assert (cropped[:, 1:-1] == 200).all()
    assert (squeezed[:, [0, -1]] < 10).all() and (squeezed[:, 3:5] > 190).all()


def test_every_mode_is_converted_to_rgb(tmp_path):
    gray = half(0, 255)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    alpha = np.dstack([rgb, half(255, 0)])  # the right half is transparent
    pictures = {
        "gray.png": Image.fromarray(gray),
        "bits.png": Image.fromarray(gray).convert("1"),
        "palette.png": Image.fromarray(rgb).quantize(2),
        "rgb.bmp": Image.fromarray(rgb),
        "deep.png": Image.fromarray(gray.astype(np.uint16) * 257),
        "float.tiff": Image.fromarray(gray.astype(np.float32) / 255),
        "cmyk.tiff": Image.fromarray(rgb).convert("CMYK"),
        "first.gif": Image.fromarray(gray),
    }
    for name, picture in pictures.items():
        frames = [Image.fromarray(half(9, 9))] if name == "first.gif" else []
        more = {"save_all": True, "append_images": frames} if frames else {}
        picture.save(tmp_path / name, **more)
        np.testing.assert_allclose(read_one(tmp_path / name), rgb, atol=1, err_msg=name)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    expected = rgb.copy()
    expected[:, 4:] = 255  # on white
    np.testing.assert_array_equal(read_one(tmp_path / "alpha.png"), expected)


@pytest.mark.parametrize(
    ("orientation", "transform"),
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, transform):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_one(tmp_path / "a.png"), transform(image))


def test_center_crop_is_kept_and_scaled(tmp_path):
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    Image.fromarray(image).save(tmp_path / "wide.png")
    Image.fromarray(image.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        read = read_one(tmp_path / name, 10)
        assert read.shape == (10, 10, 3)
        assert (read[2:-2, 2:-2] == 200).all() and (read > 180).all()  # the filter blurs its edges


def test_each_unreadable_file_gets_a_reason(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        tmp_path / "whole.jpg"
    )
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "png.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    paths = sorted(tmp_path.iterdir())
    files = decode_images([*paths, tmp_path / "gone.jpg"], 8)
    assert [paths[i].name for i in files.kept] == ["whole.jpg"] and len(files.images) == 1
    reasons = {path.name: reason for path, reason in files.unreadable}
    assert reasons["cut.jpg"] == "cut short" and reasons["empty.png"] == "empty"
    assert reasons["text.jpg"] == "not an image"
    assert reasons["gone.jpg"] == "no such file or directory"
    assert reasons.keys() == {"cut.jpg", "empty.png", "text.jpg", "gone.jpg", "png.png"}

    with pytest.raises(UserError, match=r"4 of 5 files in my photos .* more than .*=0\.5 allows"):
        read_images(paths, 8, unreadable_fraction=0.5, what="my photos")
    with pytest.warns(UserWarning, match=r"4 of 5 files .* skipped; .*cut\.jpg \(cut short\)"):
        read_images(paths, 8, unreadable_fraction=0.8, what="my photos")


def test_folders_are_searched_except_for_hidden_files(tmp_path):
    for name in ("b/ö.png", "a.jpg", "b/c/d.txt", ".git/x.png", "Thumbs.db", "__MACOSX/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "b" / "circle").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.jpg", "b/c/d.txt", "b/ö.png"]
    assert find_images(tmp_path / "a.jpg") == [tmp_path / "a.jpg"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="contains no images"):
        find_images(tmp_path / "nothing")


def test_a_named_pipe_is_skipped(tmp_path):
    """Opening it would wait for a writer."""
    os.mkfifo(tmp_path / "x.jpg")
    files = decode_images([tmp_path / "x.jpg"], 8)
    assert files.unreadable == [(tmp_path / "x.jpg", "not a regular file")]
    assert read_size(tmp_path / "x.jpg") is None
