"""Published corrupted images in their three formats, and what can be wrong with them."""

import numpy as np
import pytest
from PIL import Image

from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.corruptions import SEVERITIES
from smallvit_jax.evaluation.corruptions.published import find_published
from tests.data.tiny_tfds import encode, tiny_images, write_tfds

KINDS = ("glass_blur", "fog")
COUNT = 20
LABELS = np.arange(COUNT, dtype=np.int32) % 10
SHUFFLED = np.random.default_rng(5).permutation(LABELS)


def images_of(kind: str, severity: int, size: int = 32) -> np.ndarray:
    return tiny_images(COUNT, size, seed=10 * KINDS.index(kind) + severity)[0]


def find(root="", dataset="cifar10", size=32, data_dir=None, labels=LABELS, names=()):
    return find_published(
        dataset,
        KINDS,
        root=str(root),
        data_dir=data_dir,
        size=size,
        test_labels=labels,
        class_names=names,
    )


def write_arrays(folder):
    folder.mkdir()
    for kind in KINDS:
        np.save(folder / f"{kind}.npy", np.concatenate([images_of(kind, s) for s in SEVERITIES]))
    np.save(folder / "labels.npy", np.tile(SHUFFLED, 5).astype(np.uint8))
    return folder


@pytest.fixture
def arrays(tmp_path):
    return write_arrays(tmp_path / "CIFAR-10-C")


@pytest.mark.parametrize("root", [".", ".."])
def test_array_files_are_read_with_their_own_labels(arrays, root):
    published = find(arrays / root)
    for kind in KINDS:
        for severity in SEVERITIES:
            images, labels = published.read(kind, severity)
            np.testing.assert_array_equal(images, images_of(kind, severity))
            np.testing.assert_array_equal(labels, SHUFFLED)
            assert labels.dtype == np.int32


def test_array_file_mistakes_get_one_sentence(arrays):
    def refused(pattern):
        with pytest.raises(UserError, match=pattern) as caught:
            find(arrays)
        assert "\n" not in str(caught.value)

    labels = np.load(arrays / "labels.npy")
    np.save(arrays / "labels.npy", labels[:-1])
    refused("labels.npy has 99 uint8 instead of 100")
    np.save(arrays / "labels.npy", np.sort(labels))
    refused("does not repeat the same labels")
    np.save(arrays / "labels.npy", np.tile((SHUFFLED + 1) // 2, 5))
    refused("corruptions of another dataset")
    np.save(arrays / "labels.npy", labels)
    np.save(arrays / "fog.npy", np.zeros((100, 64, 64, 3), np.uint8))
    refused("fog.npy has 100x64x64x3 uint8 instead of 100x32x32x3 uint8")
    (arrays / "fog.npy").write_bytes((arrays / "glass_blur.npy").read_bytes()[:-500])
    refused("fog.npy cannot be read")
    (arrays / "fog.npy").unlink()
    refused("lacks 1 of the 3 required entries, including fog.npy")


def test_root_without_files_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"contains neither labels\.npy nor folders such as glass_blur"
    ):
        find(tmp_path)


def test_image_folders_give_classes_by_name(tmp_path):
    folder = tmp_path / "Tiny-ImageNet-C"
    names = [f"n{number:08d}" for number in range(10)]
    levels = 20 + 10 * LABELS
    for kind in KINDS:
        for severity in SEVERITIES:
            for number, label in enumerate(LABELS):
                place = folder / kind / str(severity) / names[label] / f"val_{number}.JPEG"
                place.parent.mkdir(parents=True, exist_ok=True)
                plain = np.full((64, 64, 3), levels[number] + severity, np.uint8)
                Image.fromarray(plain).save(place, "JPEG", quality=95)
    settings = {"dataset": "tiny_imagenet", "size": 64, "names": names}
    published = find(tmp_path, **settings)
    images, labels = published.read("fog", 3)
    assert images.shape == (COUNT, 64, 64, 3)
    np.testing.assert_array_equal(labels, np.sort(LABELS))
    assert np.abs(images[:, 5, 5, 0] - (20 + 10.0 * labels + 3)).max() <= 1

    place.unlink()
    with pytest.raises(UserError, match=r"fog/5 do not match those of the 20 test images"):
        published.read("fog", 5)
    Image.new("RGB", (32, 64)).save(place)
    with pytest.raises(UserError, match="is 32x64 pixels instead of 64x64"):
        published.read("fog", 5)
    place.write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"{place.name} cannot be read"):
        published.read("fog", 5)


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for kind, stored in (("glass_blur", "frosted_glass_blur"), ("fog", "fog")):
        for severity in SEVERITIES:
            examples = zip(map(encode, images_of(kind, severity)), SHUFFLED, strict=True)
            splits = {"test": list(examples)}
            write_tfds(root, splits, builder=f"cifar10_corrupted/{stored}_{severity}")
    return root


def test_tfds_directories_are_read_under_tfds_names(tfds_directory):
    published = find(data_dir=tfds_directory)
    images, labels = published.read("glass_blur", 4)
    np.testing.assert_array_equal(images, images_of("glass_blur", 4))
    np.testing.assert_array_equal(labels, SHUFFLED)


def test_incomplete_tfds_directories_are_refused(tfds_directory):
    with pytest.raises(UserError, match=r"has 20 test images instead of 10"):
        find(data_dir=tfds_directory, labels=LABELS[:10])
    (tfds_directory / "cifar10_corrupted" / "fog_5").rename(tfds_directory / "away")
    with pytest.raises(
        UserError, match=r"cifar10_corrupted lacks 1 of the 10 required entries, including fog_5"
    ):
        find(data_dir=tfds_directory)


def test_nothing_is_found_without_files(tmp_path):
    assert find(data_dir=tmp_path) is None
    assert find(data_dir=tmp_path, dataset="cifar100") is None
