"""Folders of images: what their names mean, how they are split and measured, what is refused."""

import shutil

import numpy as np
import pytest
from PIL import Image

from smallvit_jax.data.folder import choose_image_size, measure_colors, read_folder, typical_side
from smallvit_jax.data.folder_layout import scan_folder
from smallvit_jax.errors import UserError


def fill(folder, **counts):
    """Writes `counts` random images of 40 x 32 pixels per class; "loose" has no class folder."""
    seed = sum(map(ord, str(folder.name)))
    for name, count in counts.items():
        place = folder / name.replace("__", "/") if name != "loose" else folder
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            random = np.random.default_rng([seed, i, *map(ord, name)])
            image = random.integers(0, 256, (32, 40, 3), np.uint8)
            Image.fromarray(image).save(place / f"{i:02d}.png")
    return folder


def read(root, **options):
    layout = scan_folder(root)
    return read_folder(layout, typical_side(layout), 8, **options)


def names_of(part):
    return [path.name for path in part.paths]


def test_nested_folders_belong_to_their_class(tmp_path):
    fill(tmp_path, cats=3, dogs=2, dogs__puppies=2)
    layout = scan_folder(tmp_path)
    assert layout.class_names == ("cats", "dogs")
    assert layout.train.labels == [0, 0, 0, 1, 1, 1, 1] and not layout.test.paths


@pytest.mark.parametrize("unlabeled", ["unlabeled", "Unlabelled"])
def test_folder_names_select_the_parts(tmp_path, unlabeled):
    counts = {"Training__a": 3, "Training__b": 3, "val__a": 1, "val__b": 2, "test__b": 1}
    fill(tmp_path, **counts, **{unlabeled: 2})
    with pytest.warns(UserWarning, match=r"test has no images of a"):
        layout = scan_folder(tmp_path)
    assert layout.train.labels == [0, 0, 0, 1, 1, 1, -1, -1]
    assert (layout.validation.labels, layout.test.labels) == ([0, 1, 1], [1])
    shutil.rmtree(tmp_path / "test")
    layout = scan_folder(tmp_path)  # now the validation part is used for testing
    assert layout.test.labels == [0, 1, 1] and not layout.validation.paths


def test_flat_folder_has_no_labels(tmp_path):
    fill(tmp_path, loose=4)
    layout = scan_folder(tmp_path)
    assert layout.class_names == () and layout.train.labels == [-1] * 4
    folder = read(tmp_path)
    assert folder.counts == (4, 0, 0) and folder.info.num_classes == 0


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"a": 3}, 'has only one class folder, "a"; add another class'),
        ({"a": 3, "b": 0}, 'has no images of "b"; add some, or remove the empty folder'),
        ({"Cat": 1, "cat ": 1}, '"Cat" and "cat ", which look like two names for one class'),
        ({"sea_lion": 1, "sea-lion": 1}, "which look like two names for one class"),
        ({"test__a": 1, "val__a": 1}, "but no train/"),
        ({"train__a": 1, "train__b": 1, "test__c": 1}, 'has a class "c"'),
        ({"train__a": 1, "Training__b": 1}, "two names for one part; keep one"),
        ({}, "has no training images in"),
    ],
)
def test_folder_mistakes_get_one_sentence(tmp_path, counts, words):
    fill(tmp_path, **counts)
    with pytest.raises(UserError) as error:
        scan_folder(tmp_path)
    assert words in str(error.value)


def test_paths_that_are_not_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; give the folder of your images"):
        scan_folder(tmp_path / "nowhere")
    (tmp_path / "photos.zip").write_text("x")
    with pytest.raises(UserError, match="is a file; give a folder"):
        scan_folder(tmp_path / "photos.zip")


def test_split_is_stratified_and_ignores_file_names(tmp_path):
    folder = read(fill(tmp_path / "photos", a=10, b=5), test_fraction=0.2)
    assert folder.counts == (12, 0, 3)
    assert np.bincount(folder.part("train")[1]).tolist() == [8, 4]
    assert np.bincount(folder.part("test")[1]).tolist() == [2, 1]
    held_out = {image.tobytes() for image in folder.part("test")[0]}
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    for path in sorted((tmp_path / "moved" / "a").iterdir()):
        path.rename(path.with_name(f"renamed_{99 - int(path.stem)}.png"))
    again = read(tmp_path / "moved", test_fraction=0.2)
    assert {image.tobytes() for image in again.part("test")[0]} == held_out


def test_unavoidable_duplicates_give_a_warning(tmp_path):
    fill(tmp_path, a=2, b=6)
    for i in range(1, 6):
        shutil.copy(tmp_path / "b" / "00.png", tmp_path / "b" / f"0{i}.png")
    with pytest.warns(UserWarning, match="identical image files in training and test data"):
        folder = read(tmp_path)  # all of b is one image: nothing else can be held out
    assert folder.counts[2] == 2
    shutil.copy(tmp_path / "a" / "00.png", tmp_path / "b" / "copy.png")
    with pytest.warns(UserWarning, match="in two classes"):
        read(tmp_path)


def test_mean_and_std_match_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (300, 5, 7, 3), np.uint8)
    mean, std = measure_colors(images)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=5e-5)
    np.testing.assert_allclose(std, pixels.std(axis=0), atol=5e-5)
    assert measure_colors(np.full((2, 4, 4, 3), 9, np.uint8))[1] == (0.0039,) * 3  # 1/255, not 0


def test_mean_is_that_of_the_training_images_only(tmp_path):
    fill(tmp_path, train__a=2, train__b=2, test__a=1, test__b=1)
    folder = read(tmp_path)
    assert folder.spec.mean == measure_colors(folder.part("train")[0])[0]
    assert folder.spec.mean != measure_colors(folder.images)[0]


@pytest.mark.parametrize(
    ("side", "size"), [(20, 32), (32, 32), (56, 32), (57, 64), (64, 64), (199, 128), (500, 224)]
)
def test_image_size_hardly_enlarges_images(side, size):
    assert choose_image_size(side) == size


def test_class_needs_an_image_in_each_part(tmp_path):
    fill(tmp_path, a=3, b=1)
    with pytest.raises(UserError, match=r'class "b" in .* has 1 readable training image but needs'):
        read(tmp_path)
    assert read(tmp_path, test_fraction=0).counts == (4, 0, 0)


def test_too_many_unreadable_files_are_refused(tmp_path):
    fill(tmp_path, a=5, b=5)
    (tmp_path / "a" / "broken.jpg").write_text("x")
    with pytest.raises(
        UserError, match=r"1 of 11 files .*unreadable_fraction=0\.05 allows"
    ) as error:
        read(tmp_path, unreadable_fraction=0.05)
    assert str(error.value).endswith("set --config.dataset.unreadable_fraction=0.091")
    with pytest.warns(UserWarning, match=r"broken\.jpg \(not an image\)"):
        assert read(tmp_path, unreadable_fraction=0.1).counts == (8, 0, 2)
