"""Each builder on an original of a few images, packed and unpacked, read back by `load_split`."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from smallvit_jax.data import load_split
from smallvit_jax.data.datasets import DATASETS
from smallvit_jax.data.prepare import prepare
from smallvit_jax.errors import UserError
from tests.data import tiny_originals as originals

# Dataset → folder and archive name of its original.
TINY = {
    "cinic10": ("CINIC-10", "CINIC-10.tar.gz"),
    "tiny_imagenet": ("tiny-imagenet-200", "tiny-imagenet-200.zip"),
    "aircraft": ("fgvc-aircraft-2013b", "fgvc-aircraft-2013b.tar.gz"),
    "cars": ("stanford_cars", "stanford_cars.zip"),
}


class Tiny:
    """An unpacked original in `folder`, and the labels of its images."""

    def __init__(self, name, folder, monkeypatch, make=None):
        usual, classes = originals.ORIGINALS[name]
        directory, self.archive_name = TINY[name]
        self.name, self.folder = name, folder / directory
        self.labels = (make or usual)(self.folder)
        originals.expect(monkeypatch, name, classes, self.labels)
        self.spec = DATASETS[name]

    def read(self, split, data_dir):
        """Images and labels of a split as stored, by image file."""
        source = tfds.data_source(f"{self.spec.builder}:1.0.0", split=split, data_dir=data_dir)
        return {x["id"].decode(): (x["image"], int(x["label"])) for x in source}

    def failure(self, original):
        """The error message of preparing from `original`, which must leave nothing behind."""
        data_dir = self.folder.parent / "failed"
        with pytest.raises(UserError) as caught:
            prepare(self.name, original, data_dir)
        assert not list(data_dir.iterdir())
        message = str(caught.value)
        assert "\n" not in message
        return message


@pytest.fixture(params=TINY)
def tiny(request, tmp_path, monkeypatch):
    return Tiny(request.param, tmp_path / "original", monkeypatch)


@pytest.fixture
def make(tmp_path, monkeypatch):
    return lambda name, **options: Tiny(name, tmp_path / "original", monkeypatch, **options)


@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
def test_every_image_has_its_label(tiny, tmp_path, packed):
    path = tiny.folder
    if packed:
        path = originals.pack(tiny.folder, tmp_path / tiny.archive_name)
    sentence = prepare(tiny.name, path, tmp_path / "data")
    for split, labels in tiny.labels.items():
        read = tiny.read(split, tmp_path / "data")
        assert {file: label for file, (_, label) in read.items()} == labels
        assert f"{len(labels)} {split}" in sentence
    side = tiny.spec.stored_size
    for split in ("train", "test"):
        images, labels, info = load_split(tiny.name, split, tmp_path / "data")
        stored = tiny.spec.train_split if split == "train" else tiny.spec.test_split
        assert images.shape == (len(tiny.labels[stored]), side, side, 3)
        assert sorted(labels) == sorted(tiny.labels[stored].values())
        assert (info.image_size, info.num_classes) == (tiny.spec.image_size, len(info.class_names))


def test_small_images_are_stored_unchanged(make, tmp_path):
    for name in ("cinic10", "tiny_imagenet"):
        tiny = make(name)
        prepare(name, tiny.folder, tmp_path)
        for file, (image, _) in tiny.read("train", tmp_path).items():
            original = Image.open(tiny.folder / file).convert("RGB")  # some are gray
            assert np.array_equal(image, np.asarray(original))


def test_photographs_are_resized_to_squares(make, tmp_path):
    """Scaled in both directions; at half size, within two levels of exact averages."""
    tiny = make("aircraft")
    prepare("aircraft", tiny.folder, tmp_path)
    for file, (image, _) in tiny.read("trainval", tmp_path).items():
        assert image.shape == (256, 256, 3)
        photograph = Image.open(tiny.folder / "data" / file).crop((0, 0, 300, 180))
        box = photograph.resize((128, 128), Image.Resampling.BOX)
        halved = image.astype(float).reshape(128, 2, 128, 2, 3).mean((1, 3))
        assert np.abs(halved - np.asarray(box, float)).mean() < 2
        assert image[-1].min() < 250  # the white banner is cut off


def test_class_names_match_the_original(make, tmp_path):
    expected = {
        "tiny_imagenet": ("goldfish", "Egyptian cat", "orange"),
        "aircraft": originals.VARIANTS,
        "cars": ("Acura RL Sedan 2012", "Acura TSX Sedan 2012", "Ram C-V Cargo Van Minivan 2012"),
    }
    for name, names in expected.items():
        prepare(name, make(name).folder, tmp_path)
        assert load_split(name, "test", tmp_path)[2].class_names == names


def test_classes_with_the_same_word_are_disambiguated(make, tmp_path):
    tiny = make("tiny_imagenet")
    words = "n01443537\tcat\nn02124075\tcat, house cat\n"
    (tiny.folder / "words.txt").write_text(words)
    prepare("tiny_imagenet", tiny.folder, tmp_path)
    names = load_split("tiny_imagenet", "test", tmp_path)[2].class_names
    assert names == ("cat (n01443537)", "cat (n02124075)", "n07747607")


def test_cars_in_class_folders_are_read(make, tmp_path):
    tiny = make("cars", make=originals.cars_by_class)
    prepare("cars", originals.pack(tiny.folder, tmp_path / "archive.zip"), tmp_path)
    for split, labels in tiny.labels.items():
        read = tiny.read(split, tmp_path)
        assert {file: label for file, (_, label) in read.items()} == labels


def test_cars_in_the_authors_archives_are_read(make, tmp_path):
    tiny = make("cars")
    packed = tmp_path / "packed"
    for part, member in (("cars_train", "cars_train"), ("car_devkit", "devkit")):
        packed.mkdir(exist_ok=True)
        originals.pack(tiny.folder, packed / f"{part}.tgz", members=(member,))
    labels = "cars_test_annos_withlabels.mat"
    originals.move(tiny.folder / labels, packed / labels)
    originals.move(tiny.folder / "cars_test", packed / "cars_test" / "cars_test")  # as on Kaggle
    prepare("cars", packed, tmp_path)
    for split, expected in tiny.labels.items():
        assert {f: label for f, (_, label) in tiny.read(split, tmp_path).items()} == expected


def test_cars_without_the_devkit_are_refused(make):
    tiny = make("cars")
    (tiny.folder / "devkit/cars_meta.mat").write_bytes(b"404")
    assert "cars_meta.mat in" in tiny.failure(tiny.folder)
    (tiny.folder / "devkit/cars_meta.mat").unlink()
    assert "photographs of cars but not cars_meta.mat" in tiny.failure(tiny.folder)


def test_missing_images_are_reported(tiny):
    """A missing listed image is named; without a list, the count is reported."""
    split, labels = list(tiny.labels.items())[-1]
    file = sorted(labels)[0]
    root = tiny.folder / "data" if tiny.name == "aircraft" else tiny.folder
    (root / file).unlink()
    if tiny.name == "cinic10":
        expected = f'{tiny.folder} has 9 images in split "test" instead of 10'
    else:
        expected = (
            f'{tiny.folder} lacks 1 of the {len(labels)} images in split "{split}", such as {file}'
        )
    assert expected in tiny.failure(tiny.folder)


def test_damaged_image_is_named(tiny):
    file = sorted(next(iter(tiny.labels.values())))[0]
    path = (tiny.folder / "data" if tiny.name == "aircraft" else tiny.folder) / file
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no image"):
        path.write_bytes(content)
        assert f"image {file} in {tiny.folder} cannot be used (" in tiny.failure(tiny.folder)


def test_image_of_another_size_is_named(make):
    tiny = make("cinic10")
    file = sorted(tiny.labels["train"])[0]
    originals.save(originals.picture(0, 48, 32), tiny.folder / file)
    assert f"image {file} in {tiny.folder} cannot be used (48x32 pixels instead of 32x32)" in (
        tiny.failure(tiny.folder)
    )


def test_missing_or_wrong_list_is_reported(make):
    tiny = make("tiny_imagenet")
    (tiny.folder / "wnids.txt").write_text("\n".join(originals.WORDNET_IDS[:2]))
    assert "belongs to n07747607, which wnids.txt does not list" in tiny.failure(tiny.folder)
    (tiny.folder / "val/val_annotations.txt").unlink()
    (tiny.folder / "wnids.txt").write_text("\n".join(originals.WORDNET_IDS))
    assert "has no file val/val_annotations.txt" in tiny.failure(tiny.folder)
    plane = make("aircraft")
    (plane.folder / "data/variants.txt").write_text("707-320\nA340-300\n")
    assert 'the variant "F/A-18", which variants.txt does not list' in plane.failure(plane.folder)


def test_real_counts_are_checked(tmp_path):
    """Without the fixture's smaller counts."""
    originals.cinic10(tmp_path / "CINIC-10")
    with pytest.raises(UserError, match=r'has 10 images in split "train" instead of 90000'):
        prepare("cinic10", tmp_path, tmp_path / "data")
